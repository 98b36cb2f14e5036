"""denoisereg: joint denoising and affine registration of noisy time-lapse images."""
