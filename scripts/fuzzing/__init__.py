"""Damaged and hostile files: real ones of every format that is read, their mutations, and the contract of readers."""
