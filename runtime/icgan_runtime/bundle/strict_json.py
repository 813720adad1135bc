"""Dataclasses as JSON and back, believing nothing: a file's schema is the dataclass that it is read into.

An unknown key, a missing one, a wrong type, NaN, or text that a terminal cannot show is refused with its
place in the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from icgan_runtime.errors import BundleError

MAX_NESTING = 32  # of a report: deeper ones end programs that show or write them
# All control characters but newline; and lone surrogates, which UTF-8 cannot carry.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Marks a field that the first version of a format has not: what its default means is not written, so that
# what needs no later version is the same bytes, and the same hash, as ever.
LATER = "later"

Json = dict[str, Any]


def parse(hint: Any, data: bytes, file: str, name: str, *versions: int) -> Any:
    """The dataclass `hint` from JSON text that says `"format": name` and a `"schema_version"` of `versions`.

    Raises BundleError, which names `file`, for anything else.
    """
    try:
        value = json.loads(
            data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(file, f"not valid JSON ({error})") from None
    if not isinstance(value, dict) or value.get("format") != name:
        raise BundleError(file, f'format is not "{name}"')
    found = value.get("schema_version")
    if found not in versions or isinstance(found, bool):
        read = " and ".join(map(str, versions))
        raise BundleError(file, f"schema_version {found!r}, this runtime reads {read}; export it again")
    body = {key: item for key, item in value.items() if key not in ("format", "schema_version")}
    try:
        return from_json(hint, body, file.rpartition("/")[2].removesuffix(".json"))
    except ValueError as error:
        raise BundleError(file, str(error)) from None


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and mappings as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: to_json(getattr(value, item.name))
            for item in dataclasses.fields(value)
            if not (item.metadata.get(LATER) and getattr(value, item.name) == item.default)
        }
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(hint: Any, value: Any, where: str) -> Any:
    """The inverse of `to_json` for the type `hint`; ValueError names the place of anything unexpected."""
    if dataclasses.is_dataclass(hint):
        return _dataclass_from_json(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _union_from_json(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(isinstance(value, dict), where, "an object", value)
        if arguments[1] is Any:
            from_json(Any, list(value), where)  # keys of a report are free, too
        return {key: from_json(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        _expect(not any(map(_CONTROLS.search, _texts(value))), where, "no control characters", value)
        _expect(not _deeper(value, MAX_NESTING), where, f"at most {MAX_NESTING} levels", "more")
        return value
    # bool is an int to Python, but not to a file format
    _expect(
        isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), where, hint.__name__, value
    )
    if hint is str:  # strings reach terminals and hashes: no escape sequences, no lone surrogates
        _expect(value.replace("\n", "").isprintable(), where, "printable text", value)
    return value


def _dataclass_from_json(hint: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    names = [item.name for item in dataclasses.fields(hint)]
    later = {item.name for item in dataclasses.fields(hint) if item.metadata.get(LATER)}
    # every key is written, so every key is required: a default serves the code that builds, not the file
    for key in value:
        if key not in names:
            raise ValueError(f"{where}: unknown key {key!r}")
    for name in names:
        if name not in value and name not in later:
            raise ValueError(f"{where}: key {name!r} is missing")
    hints = typing.get_type_hints(hint)
    present = [name for name in names if name in value]
    return hint(**{name: from_json(hints[name], value[name], f"{where}.{name}") for name in present})


def _union_from_json(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    for choice in choices:
        if choice is not type(None) and (not isinstance(choice, type) or isinstance(value, choice)):
            return from_json(choice, value, where)
    expected = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise ValueError(f"{where}: expected {expected}, got {_brief(value)}")


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested more than so many levels deep."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)


def _texts(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys included, however deep it is."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item


def _expect(true: bool, where: str, expected: str, value: Any) -> None:
    if not true:
        raise ValueError(f"{where}: expected {expected}, got {_brief(value)}")


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def digest(value: Any) -> str:
    """SHA-256 of the canonical text: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
