"""Tables that list pictures: `.csv` and `.parquet` with a column of paths."""

import csv
from pathlib import Path
from typing import Any

from icgan_runtime.errors import MissingExtraError
from icgan_training.errors import DataError


def read_csv(path: Path) -> tuple[list[str], list[Any] | None]:
    """The columns `path` and, if it is there, `label`. Raises `DataError`."""
    files, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            for row in reader:
                files.append(row.get("path", ""))
                labels.append(row.get("label"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from error
    if "path" not in columns:
        raise DataError(f"{path} has the columns {', '.join(columns) or 'none'}; a column `path` is needed")
    return files, labels if "label" in columns else None


def read_parquet(path: Path) -> tuple[list[str], list[Any] | None]:
    """The same. Raises `MissingExtraError` without pyarrow."""
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    columns = table.column_names
    if "path" not in columns:
        raise DataError(f"{path} has the columns {', '.join(columns)}; a column `path` is needed")
    files = table["path"].to_pylist()
    return files, table["label"].to_pylist() if "label" in columns else None
