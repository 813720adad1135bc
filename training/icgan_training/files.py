"""Files that a kill, an error or a full disk leaves as they were. Standard library only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a sibling to write; it takes `path`'s place when the block has ended well.

    A kill leaves `NAME.partial`, which the next writer replaces.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
