"""Every error that softpack raises on purpose.

    SoftpackError                      exit code 1
    ├── FormatError                    the bytes of an .spk file
    │   ├── NotSpkError                not an .spk file at all
    │   ├── TruncatedError             it ends too early; `softpack recover` may help
    │   ├── CorruptError               its bytes are not those that were written
    │   └── UnsupportedError           written by a later softpack, or with a codec that is not installed
    ├── DataError                      the rows, the columns or the file they come from
    ├── CodecError                     a codec's settings, or what was asked of it
    └── ExistsError                    something would be overwritten

A message says what, where, found, expected, and what to do. Every error takes that one string, so that it
survives the pickling between DataLoader workers.
"""


class SoftpackError(Exception):
    """Anything that softpack refuses to do."""

    exit_code = 1


class FormatError(SoftpackError):
    """The bytes of a file are not a valid .spk."""


class NotSpkError(FormatError):
    """The file does not begin as an .spk does."""


class TruncatedError(FormatError):
    """The file ends before its last commit does."""


class CorruptError(FormatError):
    """A checksum, a size or a value contradicts the rest of the file."""


class UnsupportedError(FormatError):
    """The file needs something that this reader does not have."""


class DataError(SoftpackError):
    """Rows, columns or a source file cannot be used as they are."""


class CodecError(SoftpackError):
    """A codec cannot be built, or cannot do what was asked."""


class ExistsError(SoftpackError):
    """The output is there already and was not to be overwritten."""
