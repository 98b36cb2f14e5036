"""Registering files: pairs in, a network (or a chain of methods) over them, results on the fixed image's grid out."""

from warpzoo.registration.pairs import FilePairs, list_pairs
from warpzoo.registration.results import SaveRegistrationd

__all__ = ["FilePairs", "SaveRegistrationd", "list_pairs"]
