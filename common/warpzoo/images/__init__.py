"""Images in the world: read, written, resampled, and what they show."""
