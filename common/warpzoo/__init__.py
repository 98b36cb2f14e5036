"""Self-supervised image registration and denoising: warp layers, losses, engines' parts, space and reports.

Convention: a displacement field is in voxels of the fixed grid, shape (batch, dims, *spatial), component i along
spatial axis i, and `warped(x) = moving(x + displacement(x))` with align_corners=True.
"""

__version__ = "0.1.0"
