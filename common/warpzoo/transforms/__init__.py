"""Transforms and landmarks as files: ITK, ANTs, SimpleITK, elastix and Slicer read and write them."""
