"""Settings as frozen dataclasses that believe nothing: types and signs are checked, JSON is read strictly."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from icgan_training.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _Config = TypeVar("_Config", bound=DataclassInstance)
else:
    _Config = TypeVar("_Config")


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """The fields as plain JSON types."""
    values = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_dict(cls: type[_Config], data: dict[str, Any]) -> _Config:
    """What `to_dict` gave. Raises ConfigError naming unknown, missing and mistyped fields."""
    if not isinstance(data, dict):
        raise ConfigError(f"{cls.__name__}: expected an object, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(data.keys() - fields.keys())
    missing = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in data]
    if unknown:
        raise ConfigError(f"{cls.__name__}: unknown field {', '.join(unknown)}; known: {', '.join(fields)}")
    if missing:
        raise ConfigError(f"{cls.__name__}: missing field {', '.join(missing)}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return cls(**values)


def check_types(config: DataclassInstance) -> None:
    """Raise ConfigError for the first field that is not of its annotated type."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            raise ConfigError(f"{name} is {value!r}; expected {_words(hint)}")


def check_positive(config: DataclassInstance, *names: str) -> None:
    """Raise ConfigError for the first of these fields that is neither positive nor null."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} is {value}; it must be positive")


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if hint is float:  # JSON writes 1.0 as 1 in some tools; NaN and infinity are nobody's setting
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join("null" if part is type(None) else _words(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {typing.get_args(hint)[0].__name__}"
    return str(hint.__name__)
