"""Registering files: pairs in, a network (or a chain of methods) over them, results on the fixed image's grid out."""
