"""`sample`: classes that are drawn from a row's distribution, with how often each was drawn."""

from softpack.codecs.sample.codec import Sample

__all__ = ["Sample"]
