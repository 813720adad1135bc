"""Reading files that strangers may have prepared, and writing files that a kill cannot leave half done.

Names inside a bundle are relative POSIX paths of plain components; nothing is followed out of the bundle's
folder, and no size is believed before it has been compared with the file on disk.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from icgan_runtime.errors import BundleError, IcganError, IntegrityError, RequestError

# A component starts with a letter or digit, so `..`, hidden files, absolute paths, backslashes and drive
# letters are all impossible.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9][A-Za-z0-9._+-]*)*\Z")
MAX_NAME_LENGTH = 200
PIECE = 1 << 22  # bytes read at once


def is_safe_name(name: str) -> bool:
    """Whether `name` is a relative path that cannot leave the folder it is joined to."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.match(name) is not None


def locate(root: Path, name: str) -> Path:
    """The regular file `name` under `root`; IntegrityError when absent, special, or linked from outside."""
    if not is_safe_name(name):
        raise IntegrityError(repr(name), "not a plain relative file name")
    path = root / name
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        raise IntegrityError(name, "missing from the bundle") from None
    if not real.is_relative_to(root.resolve()):
        raise IntegrityError(name, "a link that leaves the bundle")
    if not stat.S_ISREG(mode):
        raise IntegrityError(name, "not a regular file")
    return real


def read_bounded(path: Path, limit: int, name: str | None = None) -> bytes:
    """All bytes of `path`, refusing before allocation when there are more than `limit`."""
    name = name or path.name
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for a writer
            raise BundleError(name, "not a regular file: pipes and devices are not read")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise BundleError(name, f"{size} bytes, at most {limit} are accepted")
            return file.read(size)
    except OSError as error:
        raise BundleError(name, f"cannot be read ({error.strerror})") from None


def sha256(data: bytes | memoryview) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path, read: Callable[[int], None] = lambda count: None) -> str:
    """Hex SHA-256 of a file, read in pieces; `read` is called with the length of each."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            read(len(piece))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads and served repositories lie: `$ICGAN_CACHE`, else `icgan` in `$XDG_CACHE_HOME` or
    `~/.cache`.

    It is made where it is missing. Raises IcganError where it cannot be.
    """
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "icgan")
        cache = Path(os.environ.get("ICGAN_CACHE") or usual).expanduser()
        cache.mkdir(parents=True, exist_ok=True)
    except RuntimeError:  # a user id without a name, as containers have it
        raise IcganError("this user has no home folder: set ICGAN_CACHE to one that may be written") from None
    except OSError as error:
        raise IcganError(f"{cache} cannot be made ({error.strerror}): set ICGAN_CACHE to another") from None
    return cache


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; it takes `path`'s place only when the block succeeds.

    Its bytes are on the disk before its name is: after a power cut there is the old file or the new one.
    """
    temporary = _sibling(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_folder(path: Path, field: str) -> None:
    """RequestError of `field`, before any work is done, where a folder has the name of a file to write."""
    if path.is_dir():
        raise RequestError(field, f"{path} is a folder; name a file in it")


def write_whole(path: Path, data: bytes, field: str, mode: int = 0o666) -> None:
    """Write a whole file or none, its folder if need be. RequestError of `field` where it cannot be.

    `mode`: who may do what with it, less what the umask takes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.touch(mode)
            partial.write_bytes(data)
    except OSError as error:
        raise RequestError(field, f"{path} cannot be written ({error.strerror})") from None


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling; it becomes `path` only when the block succeeds.

    An existing `path` is replaced at that moment. Where the file system cannot exchange two names, a process
    killed between two renames leaves the old folder beside it as `.NAME.old`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # of file systems that hold no folders of users', as /proc
        raise PermissionError(errno.EACCES, "no folder can be made there", error.filename) from None
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        take_place(temporary, path)
        shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def take_place(new: Path, path: Path) -> None:
    """Give the folder `new` the name `path`; one that had it has the name of `new` then."""
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        new.rename(path)
        old.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one moment; whether this system can (Linux, and not every file system)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and not renameat2(here, bytes(one), here, bytes(other), exchange)


def _sibling(path: Path) -> Path:
    """A free hidden name beside `path`, on the same file system, keeping the suffix that writers look at."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
