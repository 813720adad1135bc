"""A StyleGAN2 snapshot as the published ones are written: a pickle of objects that carry their source.

The source here would end the program if anything ran it.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.layers import EqualConv, ModulatedConv, filter_kernel

SOURCE = "raise SystemExit('source inside a snapshot has run')"


class EasyDict(dict):  # type: ignore[type-arg]
    """Settings, under the name that snapshots give them."""


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise SystemExit("a snapshot was unpickled")


class Persistent:
    """An object that is pickled with its class's source."""

    def __init__(self, kind: str, state: dict[str, Any]) -> None:
        self.kind, self.state = kind, state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.kind}
        return _reconstruct_persistent_obj, (meta | {"state": self.state},)


@contextlib.contextmanager
def as_published() -> Iterator[None]:
    """The two names above in the modules that snapshots take them from."""
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib")}
    modules["dnnlib.util"] = types.ModuleType("dnnlib.util")
    modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(EasyDict, "__module__", "dnnlib.util"),
        mock.patch.object(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence"),
    ):
        yield


def persistent(module: nn.Module, settings: dict[str, Any] | None = None) -> Persistent:
    """A module and its children, with the filter where published layers have a copy."""
    buffers = OrderedDict(module.named_buffers(recurse=False))
    if isinstance(module, ModulatedConv | EqualConv) or hasattr(module, "torgb"):
        buffers["resample_filter"] = filter_kernel(1.0).float()
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(module.named_parameters(recurse=False)),
        "_buffers": buffers,
        "_modules": OrderedDict((name, persistent(child)) for name, child in module.named_children()),
    }
    if settings is not None:
        state |= {"_init_args": (), "_init_kwargs": EasyDict(settings)}
    return Persistent(type(module).__name__, state)


def write_snapshot(
    path: Path, generator: StyleGAN2Generator, discriminator: StyleGAN2Discriminator, **entries: Any
) -> None:
    """The networks as a published snapshot; `entries` replace entries of it."""
    config = generator.config
    shared: dict[str, Any] = {"c_dim": config.class_count or 0, "h_dim": config.embedding_dim or 0}
    shared |= {"img_resolution": config.resolution, "img_channels": 3}
    widths: dict[str, Any] = {"channel_base": config.channel_base, "channel_max": config.channel_max}
    widths |= {"num_fp16_res": config.half_sides, "conv_clamp": config.conv_clamp}
    made = shared | {
        "z_dim": config.dim_z,
        "w_dim": config.dim_w,
        "mapping_kwargs": EasyDict(num_layers=config.mapping_layers),
        "synthesis_kwargs": EasyDict(widths),
    }
    judged = (
        shared
        | widths
        | {
            "block_kwargs": EasyDict(),
            "mapping_kwargs": EasyDict(),
            "epilogue_kwargs": EasyDict(mbstd_group_size=config.minibatch_group),
        }
    )
    with as_published(), torch.no_grad(), path.open("wb") as file:
        content = {
            "training_set_kwargs": EasyDict(path="elsewhere/COCO128", resolution=config.resolution),
            "G": persistent(generator, made),
            "D": persistent(discriminator, judged),
            "G_ema": persistent(generator, made),
            "augment_pipe": None,
        }
        pickle.dump(content | entries, file, protocol=4)
