"""Images in the world: one model of them, files of every format, and what they show."""

from warpzoo.images.image import Header, Image, open_image, read_image, write_image

__all__ = ["Header", "Image", "open_image", "read_image", "write_image"]
