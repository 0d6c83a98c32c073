"""`klt`: a linear transform, and coefficients that are rounded for the fewest bits at the least error."""

from softpack.codecs.klt.codec import KLT

__all__ = ["KLT"]
