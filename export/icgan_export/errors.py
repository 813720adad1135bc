"""Everything this package raises on purpose.

    ExportError              a user's mistake or broken input: one line on the command line, status 1
    └── ParityError          a graph differs from torch by more than its bound; nothing was written

A library that is not installed is `icgan_runtime.errors.MissingExtraError`. Anything else that escapes is a
bug and keeps its traceback.
"""


class ExportError(Exception):
    """Base of every error a user can cause and fix."""


class ParityError(ExportError):
    """A graph's answers differ from the torch model's by more than the bound."""
