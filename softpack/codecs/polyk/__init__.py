"""`polyk`: the k most likely classes, the first exactly and the others by a curve over their ranks."""

from softpack.codecs.polyk.codec import PolyK

__all__ = ["PolyK"]
