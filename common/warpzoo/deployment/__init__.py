"""A released bundle at work for others: as an application of MONAI Deploy, and over HTTP."""
