"""`topk`: the k most likely classes of a row, and what is known of the rest."""

from softpack.codecs.topk.codec import TopK
from softpack.codecs.topk.settings import TAILS

__all__ = ["TAILS", "TopK"]
