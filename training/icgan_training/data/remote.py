"""Pictures in an object storage, or wherever else fsspec reads: the only file that imports it.

Credentials and endpoints come from where its libraries look for them: the environment and their own files.
"""

from collections.abc import Iterator
from typing import IO, Any

from icgan_runtime.errors import MissingExtraError
from icgan_runtime.images import MAX_ENCODED_BYTES
from icgan_training.data.transforms import one_line
from icgan_training.errors import DataError, StorageError

_EXTRAS = {"s3": "s3", "s3a": "s3"}


class Remote:
    """A folder by its URL. It can be sent to another process, which opens it anew; safe for threads."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._large: set[str] = set()
        self._system: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2] or self.url

    def walk(self) -> Iterator[str]:
        """All files below, relative, in the order in which a folder on a disk is visited.

        What begins with `.`, and folders that begin with `_`, are left alone.
        """
        system, root = self._opened()
        found = []
        try:
            for folder, folders, files in system.walk(root, detail=True, on_error="raise"):
                for name in [name for name in folders if name.startswith((".", "_"))]:
                    del folders[name]
                inside = folder.strip("/")[len(root.strip("/")) :].lstrip("/")
                for name, about in files.items():
                    if name and not name.startswith("."):
                        found.append(f"{inside}/{name}" if inside else name)
                        if (about.get("size") or 0) > MAX_ENCODED_BYTES:
                            self._large.add(found[-1])
                system.invalidate_cache()  # of a million names it would keep a gigabyte
        except Exception as error:  # each storage has its own kinds
            raise DataError(f"{self.url} cannot be listed: {_said(error)}") from error
        yield from sorted(found, key=lambda name: name.split("/"))

    def read(self, name: str) -> bytes:
        """A picture's file. `DataError` for one that is not there or too large, else `StorageError`."""
        if name in self._large:
            raise DataError(f"{self.url}/{name}: larger than {MAX_ENCODED_BYTES >> 20} MiB")
        return self._get(name)

    def note(self) -> bytes | None:
        """`source.json`, if it is there."""
        try:
            return self._get("source.json", 0, 1 << 20)
        except DataError:
            return None

    def file(self, name: str) -> "RemoteFile":
        """One file, to be read in pieces."""
        return RemoteFile(self, name)

    def _get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        system, root = self._opened()
        try:
            content: bytes = system.cat_file(f"{root}/{name}", start=start, end=end)
        except FileNotFoundError as error:
            raise DataError(f"{self.url}/{name}: is not there any more") from error
        except Exception as error:
            raise StorageError(
                f"{self.url}/{name} cannot be read ({_said(error)}): when the storage answers, the same "
                "command goes on"
            ) from error
        return content

    def _opened(self) -> tuple[Any, str]:
        if self._system is None:
            try:
                from fsspec.core import url_to_fs
            except ImportError as error:
                raise MissingExtraError("fsspec", "s3") from error
            protocol = self.url.partition("://")[0]
            try:
                system, root = url_to_fs(self.url)
            except ImportError as error:
                if protocol in _EXTRAS:
                    raise MissingExtraError("s3fs", _EXTRAS[protocol]) from error
                raise DataError(f"{self.url}: {_said(error)}") from error
            except ValueError as error:
                raise DataError(f"{self.url}: {_said(error)}") from error
            self._system = system, root.rstrip("/")
        return self._system


class RemoteFile:
    """A file of a storage, as far as a `Path` is asked of it."""

    def __init__(self, store: Remote, name: str) -> None:
        self._store, self._inside = store, name
        self.name = name.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self._store.url}/{self._inside}"

    def open(self, mode: str = "rb") -> IO[bytes]:
        """To be read in order, or by places."""
        system, root = self._store._opened()
        file: IO[bytes] = system.open(f"{root}/{self._inside}", mode)
        return file

    def piece(self, place: int, size: int) -> bytes:
        """Some bytes, by one question."""
        return self._store._get(self._inside, place, place + size)


def _said(error: Exception) -> str:
    return one_line(error)[:300] or type(error).__name__
