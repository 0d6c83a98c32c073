"""`head`: the teacher's last hidden states, decoded by the teacher's own output matrix."""

from softpack.codecs.head.codec import Head

__all__ = ["Head"]
