"""Tables that hold pictures: Parquet as Hugging Face data sets store it, and folders of `save_to_disk`.

A picture is a struct of `bytes` and `path`, or plain bytes; whole row groups are read and the last two kept.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.errors import MissingExtraError
from icgan_runtime.identity import CENTRE
from icgan_training.data.containers import LOOKED_AT, RECOMPRESSED, Blocks, look_recompressed
from icgan_training.data.transforms import decode_picture, one_line, read_picture
from icgan_training.errors import DataError

LABELS = ("label", "labels", "fine_label", "coarse_label")
Part = tuple[Path, int, int]  # a file, a block of it (row group or record batch), its rows


def arrow() -> Any:
    """pyarrow, or the command that installs it."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    return pyarrow


class Table:
    """The pictures of one column, in blocks of rows."""

    def __init__(
        self,
        origin: Path,
        schemas: list[tuple[Path, Any]],
        parts: list[Part],
        order: NDArray[np.int64] | None,
    ) -> None:
        self.origin, self.parts = origin, parts
        self.ends = np.cumsum([rows for _, _, rows in parts], dtype=np.int64)
        self.order = order
        self.column, label = _columns(origin, schemas)
        self.blocks = Blocks(self._load)
        self.class_names = class_names(schemas[0][1], label) if label else None
        self.labels = self._labels(label) if label else None
        files = (self._entry(row)[0] or b"" for row in range(len(self)))
        self.notes = [RECOMPRESSED] if look_recompressed(islice(files, LOOKED_AT)) else []

    def __len__(self) -> int:
        if self.order is not None:
            return len(self.order)
        return int(self.ends[-1]) if len(self.ends) else 0

    def name(self, row: int) -> str:
        """The table, the row, and what the picture was called."""
        called = self._entry(row)[1]
        return f"{self.origin} row {row}" + (f" ({called})" if called else "")

    def called(self, row: int) -> str:
        """The path beside the picture, if there is one."""
        return self._entry(row)[1] or ""

    def read(self, row: int, resolution: int, crop: str = CENTRE) -> NDArray[np.uint8]:
        """One picture [R, R, 3]; raises `DataError` naming its row."""
        data, path = self._entry(row)
        if data:
            return decode_picture(data, self.name(row), resolution, crop)
        if path is None:
            raise DataError(f"{self.name(row)}: neither bytes nor a path")
        return read_picture(self.origin.parent / path, resolution, crop)

    def identity(self) -> Iterator[bytes]:
        """Names of files, numbers of rows, and their order."""
        for path, block, rows in self.parts:
            yield f"{path.name} {block} {rows}".encode("utf-8", "surrogateescape")
        if self.order is not None:
            yield self.order.tobytes()

    def _place(self, row: int) -> tuple[int, int]:
        at = row if self.order is None else int(self.order[row])
        part = int(np.searchsorted(self.ends, at, side="right"))
        return part, at - int(self.ends[part]) + self.parts[part][2]

    def _entry(self, row: int) -> tuple[bytes | None, str | None]:
        part, at = self._place(row)
        value = self.blocks[part][at].as_py()
        if isinstance(value, dict):
            return value.get("bytes"), value.get("path")
        return value, None

    def _load(self, part: int) -> Any:
        return _block(self.parts[part], self.column)

    def _labels(self, name: str) -> list[int] | None:
        found = [value for part in self.parts for value in _block(part, name).to_pylist()]
        if self.order is not None:
            found = [found[row] for row in self.order]
        sound = [isinstance(value, int) and not isinstance(value, bool) for value in found]
        if not all(sound):
            wrong = sound.index(False)
            raise DataError(f"{self.origin} row {wrong}: {name} {found[wrong]!r} is no whole number")
        return None if all(value == -1 for value in found) else found  # as test splits have it


def _columns(origin: Path, schemas: list[tuple[Path, Any]]) -> tuple[str, str | None]:
    """The column of pictures and that of labels, if any, which all files must have alike."""
    found: tuple[str, str | None] | None = None
    for file, schema in schemas:
        label = next((name for name in LABELS if name in schema.names), None)
        here = picture_column(schema, file if len(schemas) > 1 else origin), label
        if found is not None and here != found:
            named, others = (" and ".join(name for name in names if name) for names in (here, found))
            raise DataError(f"{file} has {named}, where {schemas[0][0].name} has {others}: give one of them")
        found = here
    assert found is not None
    return found


def _is_pictures(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return {"bytes", "path"} <= {inner.name for inner in kind}
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def picture_column(schema: Any, origin: Path) -> str:
    """The column that holds pictures; `DataError` for none or several."""
    found = [field.name for field in schema if _is_pictures(field.type)]
    if len(found) != 1:
        held = f"several columns of pictures ({', '.join(found)})" if found else "no column of pictures"
        raise DataError(
            f"{origin} has {held} among {', '.join(schema.names)}: keep one, bytes or {{bytes, path}}"
        )
    return str(found[0])


def holds_pictures(path: Path) -> bool:
    """Whether a Parquet file is a table of pictures and no list of files."""
    schema = _parquet(path).schema_arrow
    return "path" not in schema.names or any(_is_pictures(field.type) for field in schema)


def open_parquet(origin: Path, files: list[Path]) -> Table:
    """The rows of Parquet files, in order."""
    opened = [(file, _parquet(file)) for file in files]
    parts = [
        (file, group, parquet.metadata.row_group(group).num_rows)
        for file, parquet in opened
        for group in range(parquet.num_row_groups)
    ]
    return Table(origin, [(file, parquet.schema_arrow) for file, parquet in opened], parts, None)


def open_saved(folder: Path) -> Table:
    """A folder of `save_to_disk`: record batches in `.arrow` files, perhaps in an order of their own."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        indices = [entry["filename"] for entry in state.get("_indices_data_files") or []]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: state.json cannot be read ({error})") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in [*names, *indices]):
        raise DataError(f"{folder}: state.json names files outside the folder")
    files = [folder / name for name in names]
    parts: list[Part] = []
    schemas = []
    for file in files:
        batches = _batches(file)
        schemas += [(file, batches[0].schema)] if batches else []
        parts += [(file, number, batch.num_rows) for number, batch in enumerate(batches)]
    if not schemas:
        raise DataError(f"{folder} holds no pictures")
    order = None
    if indices:
        columns = [batch.column(0).to_numpy() for name in indices for batch in _batches(folder / name)]
        order = np.concatenate(columns).astype(np.int64)
    return Table(folder / "state.json", schemas, parts, order)


def class_names(schema: Any, label: str) -> list[str] | None:
    """The names of a label's classes, as Hugging Face keeps them beside the schema."""
    try:
        kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = kept["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _parquet(path: Path) -> Any:
    try:
        return arrow().parquet.ParquetFile(path)
    except (arrow().ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {one_line(error)}") from error


def _batches(path: Path) -> list[Any]:
    """Mapped into memory: a batch costs its description alone until it is looked at."""
    try:
        return list(arrow().ipc.open_stream(arrow().memory_map(str(path))))
    except (arrow().ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a table of record batches ({one_line(error)})") from error


def _block(part: Part, column: str) -> Any:
    path, number, _ = part
    try:
        if path.suffix == ".parquet":
            return _parquet(path).read_row_group(number, columns=[column]).column(0)
        return _batches(path)[number].column(column)
    except (arrow().ArrowInvalid, OSError) as error:
        raise DataError(f"{path} block {number} cannot be read ({one_line(error)})") from error
