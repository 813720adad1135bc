"""Names of pictures as two plain arrays: a million of them cost some 30 MB, and each is read on its own.

Prepared data sets and banks keep them as `names.npy` and `name_ends.npy` (docs/format.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEXT, ENDS = "names.npy", "name_ends.npy"
LONGEST = 400  # letters of a name that are kept, its last ones


@dataclass(frozen=True, eq=False)
class Names:
    """A name for each of N rows. ValueError unless both arrays belong together."""

    text: NDArray[np.uint8]  # [bytes], UTF-8, one after the other
    ends: NDArray[np.int64]  # [N], where each ends

    def __post_init__(self) -> None:
        ends = self.ends
        last = int(ends[-1]) if len(ends) else 0
        if last != len(self.text) or (len(ends) and ends[0] < 0) or bool((ends[1:] < ends[:-1]).any()):
            raise ValueError(f"its names do not end where {ENDS} says")

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Names from text of any kind: what cannot be shown is kept as a question mark in a diamond."""
        parts = [_showable(name).encode() for name in names]
        text = np.frombuffer(b"".join(parts), np.uint8)
        return cls(text, np.cumsum([len(part) for part in parts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return _showable(bytes(self.text[start : int(self.ends[row])]).decode(errors="replace"))

    def pick(self, rows: Iterable[int]) -> tuple[str, ...]:
        """The names of some rows."""
        return tuple(self[int(row)] for row in rows)


def below_common_folder(paths: Sequence[str]) -> list[str]:
    """Absolute paths without the folders that all share, which are of one machine; others as they are."""
    if not paths or not all(os.path.isabs(path) for path in paths):
        return [os.path.basename(path) if os.path.isabs(path) else path for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def _showable(name: str) -> str:
    """The end of a name, in printable letters."""
    name = name[-LONGEST:]
    return name if name.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in name)
