"""Shards: files of many variants whose bytes depend on nothing but the variants.

WebDataset is a tar file with an image, its JSON and perhaps its class for each variant; Parquet has a column
for each field and the images as `datasets` stores them; `files` is a folder of images with the
metadata.jsonl that `datasets` reads. No times, no owners, no order but the given.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from icgan_runtime import files
from icgan_runtime.errors import MissingExtraError, RequestError

ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
METADATA = "metadata.jsonl"
ROWS_TOGETHER = 100  # of a Parquet file's row group: what a reader holds to get at one image


@dataclass(frozen=True)
class About:
    """What is said of a variant."""

    id: str  # its key in a shard: row of the instance, sample
    instance: str  # id of the instance
    seed: int
    sample: int
    label: int | None
    score: float | None
    licence: str  # of the weights
    marking: str  # what the image file says of its origin


@dataclass(frozen=True)
class Variant:
    """An image file and what is said of it."""

    about: About
    data: bytes


def write_shard(
    path: Path, form: str, kind: str, names: Sequence[str] | None, variants: Iterator[Variant]
) -> int:
    """Write a shard, whole or not at all, and return how many variants it holds."""
    ending, count = ENDINGS[kind], 0

    def counted() -> Iterator[Variant]:
        nonlocal count
        for variant in variants:
            count += 1
            yield variant

    try:
        if form == "files":
            with files.atomic_directory(path) as folder:
                _write_files(folder, ending, counted())
        else:
            with files.atomic_file(path) as partial:
                if form == "parquet":
                    _write_parquet(partial, ending, names, counted())
                else:
                    _write_tar(partial, ending, counted())
    except OSError as error:
        raise RequestError(
            "out",
            f"{path} cannot be written ({error.strerror or error}): mend that and give the same command "
            "again, it goes on with this shard",
        ) from None
    return count


def _write_tar(path: Path, ending: str, variants: Iterable[Variant]) -> None:
    # a TarInfo says mode 644, owner 0 without a name and time 0 by default
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for variant in variants:
            parts = {ending: variant.data, "json": _json(asdict(variant.about))}
            if variant.about.label is not None:
                parts["cls"] = str(variant.about.label).encode()
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{variant.about.id}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _write_files(folder: Path, ending: str, variants: Iterable[Variant]) -> None:
    with (folder / METADATA).open("wb") as lines:
        for variant in variants:
            name = f"{variant.about.id}.{ending}"
            (folder / name).write_bytes(variant.data)
            lines.write(_json({"file_name": name, **asdict(variant.about)}) + b"\n")


def _write_parquet(path: Path, ending: str, names: Sequence[str] | None, variants: Iterator[Variant]) -> None:
    pyarrow = arrow()
    schema = _schema(pyarrow, names)
    # uncompressed: the images are, and then nothing depends on a codec's version
    options = {"compression": "NONE", "use_dictionary": False, "version": "2.6", "store_schema": True}
    with pyarrow.parquet.ParquetWriter(path, schema, **options) as writer:
        while some := list(islice(variants, ROWS_TOGETHER)):
            rows = [
                {**asdict(one.about), "image": {"bytes": one.data, "path": f"{one.about.id}.{ending}"}}
                for one in some
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema), row_group_size=ROWS_TOGETHER)


def arrow() -> Any:
    """pyarrow, or the command that installs it."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    return pyarrow


def _schema(pyarrow: Any, names: Sequence[str] | None) -> Any:
    """Columns, and for `datasets` which of them is an image and which a class."""
    types = {
        "id": "string", "instance": "string", "seed": "int64", "sample": "int64", "label": "int64",
        "score": "float32", "licence": "string", "marking": "string",
    }  # fmt: skip
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in types.items()} | {
        "image": {"_type": "Image"}
    }
    if names is not None:
        features["label"] = {"names": list(names), "_type": "ClassLabel"}
    order = ("id", "image", *(name for name in types if name != "id"))
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [(name, image if name == "image" else getattr(pyarrow, types[name])()) for name in order]
    told = {"info": {"features": {name: features[name] for name in order}}}
    return pyarrow.schema(columns, metadata={"huggingface": json.dumps(told)})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
