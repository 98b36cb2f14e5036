"""stn_affine: affine registration by a spatial transformer network."""
