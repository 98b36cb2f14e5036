"""Physical space: image files, ITK's transform files and landmarks, and carrying all of them through a transform."""
