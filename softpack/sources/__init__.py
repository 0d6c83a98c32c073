"""Arrays on disk -> blocks of rows, and rows -> arrays on disk. No torch.

`open_source` opens any file of labels that softpack understands, `Source` is what it gives, and `write_arrays`
writes what `open_source` reads. A new kind of source is a `Source` and an entry of `opening.SOURCES`.
"""

from softpack.sources.base import Source
from softpack.sources.opening import open_source
from softpack.sources.writing import Contents, write_arrays

__all__ = ["Source", "open_source", "Contents", "write_arrays"]
