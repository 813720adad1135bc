"""Variants read back: a map-style data set, for torch's DataLoader and for plain loops."""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from icgan_runtime import files, images
from icgan_runtime.errors import RequestError
from icgan_runtime.synthesize.recipe import Recipe, read_recipe
from icgan_runtime.synthesize.shards import ENDINGS, METADATA, ROWS_TOGETHER, arrow

_SHARDS_KEPT = 64  # whose members' places are remembered


class Variants:
    """The variants of a finished folder, by number; needs no torch, and torch's DataLoader takes it as it is.

        loader = torch.utils.data.DataLoader(Variants("variants"), batch_size=32, shuffle=True)

    An item has `image` (uint8 [R, R, 3]), `label` (-1 for none), `score` (NaN for none), `seed`, `sample`,
    `id` and `instance`. Raises RequestError where shards are missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe: Recipe = read_recipe(self.folder)
        lengths = [self._length(number) for number in range(self.recipe.units)]
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {len(self)} variants")
        index %= len(self)
        number = bisect_right(self._ends, index)
        place = index - (self._ends[number - 1] if number else 0)
        return self._item(*self._read(self.folder / self.recipe.shard_name(number), place))

    def _length(self, number: int) -> int:
        if not (self.folder / self.recipe.shard_name(number)).exists():
            raise RequestError(
                "folder", f"{self.folder} lacks {self.recipe.shard_name(number)}: finish it first"
            )
        unit, skipped = self.recipe.unit(number), self.folder / self.recipe.skipped_name(number)
        missing = len(skipped.read_bytes().splitlines()) if skipped.exists() else 0
        return (len(unit.instances) - missing) * len(unit.samples)

    def _read(self, shard: Path, place: int) -> tuple[bytes, dict[str, Any]]:
        if self.recipe.settings.format == "webdataset":
            members = _members(shard, ENDINGS[self.recipe.settings.image])
            with shard.open("rb") as file:
                parts = []
                for start, size in members[place]:
                    file.seek(start)
                    parts.append(file.read(size))
            return parts[0], json.loads(parts[1])
        if self.recipe.settings.format == "parquet":
            row = _group(shard, place // ROWS_TOGETHER)[place % ROWS_TOGETHER]
            return row["image"]["bytes"], row
        about = json.loads(_lines(shard)[place])
        return (shard / about["file_name"]).read_bytes(), about

    def _item(self, data: bytes, about: dict[str, Any]) -> dict[str, Any]:
        said = {name: about[name] for name in ("id", "instance", "seed", "sample")}
        label, score = about["label"], about["score"]
        return {
            "image": images.decode(data, self.recipe.resolution),
            "label": -1 if label is None else label,
            "score": float("nan") if score is None else score,
            **said,
        }


@lru_cache(maxsize=_SHARDS_KEPT)
def _members(shard: Path, ending: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where image and JSON of each variant lie in a tar file."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            found.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    return [(parts[ending], parts["json"]) for parts in found.values()]


@lru_cache(maxsize=2)
def _group(shard: Path, number: int) -> list[dict[str, Any]]:
    """A row group of a Parquet file."""
    rows: list[dict[str, Any]] = arrow().parquet.ParquetFile(shard).read_row_group(number).to_pylist()
    return rows


@lru_cache(maxsize=_SHARDS_KEPT)
def _lines(shard: Path) -> list[bytes]:
    return files.read_bounded(shard / METADATA, 1 << 30).splitlines()
