"""What a deployed application is made of: this folder is copied into each one, beside the released bundle that it runs.

In an application `warpzoo` is the bundle's own copy, which has no other part of `warpzoo.deployment` than this.
"""
