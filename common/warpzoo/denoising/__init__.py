"""Denoising of images by networks that learn from the noisy images themselves, and by classical filters."""
