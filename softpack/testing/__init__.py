"""What authors of codecs test with: checks that any codec must pass, and rows to pass them with.

    from softpack.testing import check_codec, random_rows

    def test_my_codec():
        spec = LabelSpec(classes=100)
        check_codec(MyCodec(spec), random_rows(spec, n_rows=64))

`label_rows` needs the package `hypothesis`; the rest does not.
"""

from __future__ import annotations

from softpack.testing.codec_checks import check_codec
from softpack.testing.rows import random_rows
from softpack.testing.strategies import label_rows

__all__ = ["check_codec", "random_rows", "label_rows"]
