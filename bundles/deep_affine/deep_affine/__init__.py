"""deep_affine: affine registration by an encoder that is applied to each image."""
