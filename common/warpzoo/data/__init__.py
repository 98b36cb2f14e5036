"""Synthetic images with known truth, for tests, demonstrations and experiments."""
