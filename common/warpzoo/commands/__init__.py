"""The commands of `warpzoo`, one file each: options in, a call of the package, a sentence out."""
