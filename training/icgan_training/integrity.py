"""Is a file still the one that was written? Sizes and hashes of prepared data sets and weights files.

A prepared data set lists its files in `dataset.json`. A weights file or checkpoint carries the hash of its
own content (`seal`), so that it stays one file that is renewed in one moment. Both find damage and mix-ups;
neither is a signature. Files written before there were hashes are read as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SEAL = "sha256"  # key in the JSON of a safetensors file's metadata
MAX_JSON_BYTES = 8 << 20


def inside(folder: Path, name: str) -> Path:
    """The regular file `name` of `folder`; ValueError when it is missing, special, or linked from outside."""
    path = folder / name
    if not path.exists():
        raise ValueError("is missing")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("is a link that leaves the folder; copy the file there")
    if not path.is_file():
        raise ValueError("is not a regular file")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; ValueError says what is wrong with it, OSError that it cannot be read."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes, at most {MAX_JSON_BYTES} are accepted")
    try:
        value = json.loads(path.read_bytes().decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def seal(tensors: Mapping[str, Tensor], key: str, value: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of a safetensors file: `value` as JSON, with the hash of it and of all tensors under SEAL.

    One entry only: the library writes several in an order of chance, and equal runs would give unequal files.
    """
    return {key: json.dumps({**value, SEAL: _digest(tensors, value)})}


def read_sealed(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `seal` was given, from a safetensors file; ValueError unless it is what was sealed.

    A missing file is a FileNotFoundError, a file without such an entry a KeyError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    try:
        value = json.loads(metadata[key])
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("its metadata is not a JSON object")
    sealed = value.pop(SEAL, None)
    if sealed is not None and _digest(tensors, value) != sealed:
        raise ValueError("its content is not what its SHA-256 says")
    return value, tensors


def _digest(tensors: Mapping[str, Tensor], value: Mapping[str, Any]) -> str:
    """SHA-256 of `value` and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
