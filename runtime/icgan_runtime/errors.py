"""Everything this package raises on purpose.

    IcganError
    ├── BundleError              a bundle cannot be read or trusted; `.file` names the culprit
    │   ├── IntegrityError       a file is missing, resized, changed, or lies outside the bundle
    │   └── BindingError         sound files that do not belong together (bank of another encoder, ...)
    ├── RepositoryError          a model repository cannot be written or changed as asked
    ├── RequestError             the caller asked for something impossible; `.field` names it (a ValueError)
    │   └── DecodeError          the picture cannot be decoded
    └── BackendError             a backend cannot be used, or its answer cannot be used
        ├── MissingExtraError    an optional library is not installed; says which `pip install` helps
        ├── NumericsError        NaN, infinity or a flat picture came out of a graph
        └── ServiceError         a server refused or failed; carries its own words
            ├── UnavailableError the server cannot be reached or has too many requests: worth trying again
            └── DeadlineError    no answer in the time allowed

A message is one line that names the field or file, the value and the fix. Anything else that escapes
this package is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno

# An OSError with one of these is the machine's refusal (a full disk, no rights, an odd place), not a bug.
REFUSED_BY_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


class IcganError(Exception):
    """Base of every deliberate error."""


class BundleError(IcganError):
    """A bundle cannot be read or trusted."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file


class IntegrityError(BundleError):
    """A file is missing, has another size or hash than the manifest says, or lies outside the bundle."""


class BindingError(BundleError):
    """Each file is sound, but they were not made for each other."""


class RepositoryError(IcganError):
    """A model repository cannot be written, or changed, as it was asked."""


class RequestError(IcganError, ValueError):
    """An argument is out of its range; `field` is its name in the API (on the wire: refusals.py)."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DecodeError(RequestError):
    """The picture cannot be decoded; the only exception that decoding lets out."""

    def __init__(self, problem: str) -> None:
        super().__init__("picture", problem)


class BackendError(IcganError):
    """A backend cannot be used here, or was fed something its graph does not take."""


class MissingExtraError(BackendError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'icgan[{extra}]'")


class NumericsError(BackendError):
    """A graph produced NaN, infinity, or a picture without any content."""


class ServiceError(BackendError):
    """A server refused or failed the request; the message carries the server's reason."""


class UnavailableError(ServiceError):
    """The server cannot be reached or has too many requests; trying again later may work."""


class DeadlineError(ServiceError):
    """The server did not answer within the time allowed."""
