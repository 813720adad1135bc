"""timm's architectures as encoders, with weights that the user brings; the one file that imports timm.

timm imports torchvision, of which its models need one class and its data loading the transforms. Where
torchvision is absent, or of another build than torch ("operator torchvision::nms does not exist"), empty
classes stand in while timm is imported: no network that can be an encoder calls them.
"""

from __future__ import annotations

import difflib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from icgan_runtime.errors import MissingExtraError
from icgan_training.errors import WeightsError

PREFIX = "timm:"
RESIZES = ("bicubic", "bilinear")
# What training left in a file beside the network: heads of SwAV, DINO and BYOL, and the classifiers.
UNUSED = ("projection_head.", "prototypes.", "fc.", "head.", "classifier.", "head_dist.")
CONTAINERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.", "backbone.")
STAND_INS = ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc", ".datasets")


@dataclass(frozen=True)
class Description:
    """What timm's own configuration says of an architecture and of the pictures it was trained on."""

    embedding_dim: int  # D
    input_size: int  # side in pixels
    mean: tuple[float, float, float]  # RGB, on the [0, 1] scale
    std: tuple[float, float, float]
    resize: str  # one of RESIZES


def describe(name: str) -> Description:
    """The encoder that `timm:NAME` is. Raises WeightsError for one that does not fit our preprocessing:
    square RGB pictures, enlarged whole; timm's centre crop is not applied, they are cropped already."""
    with torch.device("meta"):  # shapes only
        model = _create(name)
    given = model.pretrained_cfg
    channels, height, width = given["input_size"]
    faults = []
    if channels != 3 or height != width:
        faults.append(f"takes {channels} channels of {height} x {width} pixels, ours are square RGB")
    if given["interpolation"] not in RESIZES:
        faults.append(f"wants pictures resized by {given['interpolation']!r}, known: {', '.join(RESIZES)}")
    if any(len(given[key]) != 3 for key in ("mean", "std")):
        faults.append("names no mean and standard deviation of three channels")
    if faults:
        raise WeightsError(f"{PREFIX}{name} {'; '.join(faults)}: choose another encoder")
    mean, std = given["mean"], given["std"]
    return Description(_width(model), height, tuple(mean), tuple(std), given["interpolation"])


def timm_backbone(name: str, input_size: int) -> nn.Module:
    """The untrained network: normalised pictures [N, 3, S, S] of one size -> pooled features [N, D].

    Raises WeightsError for an unknown name or a size that the architecture cannot take.
    """
    model = _create(name)
    _set_size(model, name, input_size)
    return model.eval()  # type: ignore[no-any-return]


def read_timm_weights(name: str, path: Path, input_size: int) -> nn.Module:
    """`timm_backbone` with the weights of a file, every one of the network's tensors found in it.

    path: safetensors, or a torch state dict, read with `weights_only=True`; in timm's names or the
    publisher's, where timm itself converts them. Position embeddings are resampled to `input_size`.
    Raises WeightsError that names what does not fit.
    """
    model = _create(name)
    state = _converted(model, name, _read(path), path)
    wanted = model.state_dict()
    missing = sorted(key for key in wanted.keys() - state.keys() if not key.endswith("num_batches_tracked"))
    unexpected = sorted(key for key in state.keys() - wanted.keys() if not key.startswith(_unused(model)))
    shapes = sorted(
        f"{key} is {list(state[key].shape)}, expected {list(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if wanted[key].shape != state[key].shape
    )
    for fault, found in (("missing", missing), ("unexpected", unexpected), ("shape of", shapes)):
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise WeightsError(f"{path} does not fit {PREFIX}{name}: {fault} {', '.join(found[:3])}{more}")
    kept = {key: value.float() for key, value in state.items() if key in wanted}
    model.load_state_dict(kept, strict=False)  # counters of batch norms may be absent
    _set_size(model, name, input_size)
    return model.eval()  # type: ignore[no-any-return]


def timm_first_convolution(backbone: Any) -> nn.Conv2d | None:
    """The layer that sees the picture, where timm names it and it is a plain convolution."""
    place = backbone.pretrained_cfg.get("first_conv")
    layer = backbone.get_submodule(place) if isinstance(place, str) else None
    return layer if type(layer) is nn.Conv2d else None  # others change their weights as they run


def _create(name: str) -> Any:
    """A model without its classifier, at the size of timm's configuration. Raises WeightsError."""
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise WeightsError(f"timm has no model {name!r}" + (f"; it has {', '.join(near)}" if near else ""))
    try:
        return timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise WeightsError(f"timm's {name} cannot be built as an encoder: {error}") from error


def _set_size(model: Any, name: str, input_size: int) -> None:
    """Make a network of fixed size one of `input_size`, weights included; others take any size."""
    fixed = model.pretrained_cfg["input_size"][-1]
    if input_size == fixed:
        return
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(input_size, input_size))
        elif model.pretrained_cfg.get("fixed_input_size"):
            raise ValueError(f"it takes {fixed} px alone")
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise WeightsError(f"{PREFIX}{name} cannot take pictures of {input_size} px: {error}") from error


def _width(model: Any) -> int:
    return int(getattr(model, "head_hidden_size", model.num_features))


def _unused(model: Any) -> tuple[str, ...]:
    """Beginnings of tensor names that a network without classifier does not have."""
    layers = model.pretrained_cfg.get("classifier") or ()
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    return (*UNUSED, *(f"{layer}." for layer in layers))


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a state dict or the first state dict within the file."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"weights file {path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    # torch reports broken files with many types, all of them the file's fault, and would have code in it run
    except Exception as error:
        raise WeightsError(
            f"{path} is not a plain torch state dict: it is damaged, of another kind, or carries code"
        ) from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} is not a plain torch state dict: expected a mapping of names to tensors")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _converted(model: Any, name: str, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The file's tensors in timm's names: wrappers off, and what timm converts for this architecture."""
    for wrapper in WRAPPERS:
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    home = vars(sys.modules[type(model).__module__])
    known = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
    convert = next((home[function] for function in known if function in home), None)
    if convert is None:
        return dict(state)
    try:
        arguments = (dict(state), model)[: convert.__code__.co_argcount]
        return dict(convert(*arguments))
    except Exception as error:  # whatever a file of another model makes the conversion trip over
        raise WeightsError(f"{path} does not fit {PREFIX}{name}: {error!r}") from error


def _timm() -> Any:
    """The library. Raises MissingExtraError."""
    with warnings.catch_warnings(), _torchvision_or_stand_in():
        warnings.simplefilter("ignore")  # timm's own deprecations
        try:
            import timm
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "timm", "timm") from error
    return timm


@contextmanager
def _torchvision_or_stand_in() -> Iterator[None]:
    if "timm" in sys.modules:
        yield
        return
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half an import
    else:
        yield
        return
    names = [f"torchvision{rest}" for rest in STAND_INS]
    sys.modules.update({name: _StandIn(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Empty(type):
    """A class whose every attribute is another such class: a base, a member of an enumeration, a marker."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _StandIn(types.ModuleType):
    """A module that has whatever is imported from it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})
