"""`vqae`: a vector-quantised autoencoder of rows, trained for KL."""

from softpack.codecs.vqae.codec import VQAE

__all__ = ["VQAE"]
