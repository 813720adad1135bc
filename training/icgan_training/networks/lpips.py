"""LPIPS (Zhang et al. 2018) with the AlexNet trunk: a perceptual distance between pictures.

Five feature maps are scaled to unit length per pixel, their squared difference is weighted per channel by
learnt weights, averaged over the pixels and summed over the maps.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from icgan_training.errors import WeightsError

# (in, out, kernel, stride, padding, max pool before)
LAYERS = (
    (3, 64, 11, 4, 2, False),
    (64, 192, 5, 1, 2, True),
    (192, 384, 3, 1, 1, True),
    (384, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
# What an array inside the published pickle is made of; anything else in the file is refused.
ARRAY_PARTS = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}


class Lpips(nn.Module):
    """Two batches of uint8 RGB pictures [N, S, S, 3], S of at least 32 -> distances [N], 0 for equal ones."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, stride=stride, padding=padding) for i, o, k, stride, padding, _ in LAYERS
        )
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(o)) for _, o, *_ in LAYERS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.distance(self.maps(one), self.maps(other))

    def maps(self, image: Tensor) -> list[Tensor]:
        """The five feature maps [N, C, H, W] of pictures, unit length per pixel."""
        x = (image.permute(0, 3, 1, 2).float() / 127.5 - 1 - self.shift) / self.scale
        maps = []
        for conv, (*_, pool_before) in zip(self.convs, LAYERS, strict=True):
            x = F.relu(conv(F.max_pool2d(x, 3, stride=2) if pool_before else x))
            maps.append(x / (x.norm(dim=1, keepdim=True) + EPS))
        return maps

    def distance(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        """Distance [N] from the maps of two batches; batches broadcast."""
        parts = [
            ((a - b) ** 2 * weight.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
            for a, b, weight in zip(one, other, self.weights, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of arrays; every other kind of object is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ARRAY_PARTS[module, name]
        except KeyError:
            raise WeightsError(f"the LPIPS weights file asks for {module}.{name}, which is refused") from None


def lpips_from_pickle(content: bytes) -> Lpips:
    """The network from the published pickle: nested mappings of float arrays, kernels as [h, w, in, out]."""
    tree = _ArraysOnly(io.BytesIO(content)).load()
    network = Lpips()
    with torch.no_grad():
        for index, (conv, weight) in enumerate(zip(network.convs, network.weights, strict=True)):
            layer = tree["AlexNet_0"][f"Conv_{index}"]
            conv.get_parameter("weight").copy_(torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy()))
            conv.get_parameter("bias").copy_(torch.from_numpy(layer["bias"].copy()))
            head = tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
            weight.copy_(torch.from_numpy(head.reshape(-1).copy()))
    return network.eval()


def save_lpips(network: Lpips, path: Path, *, source: str, licence: str) -> None:
    """Write the weights, and where they come from, to one safetensors file."""
    metadata = {"config": json.dumps({"kind": "lpips-alexnet", "source": source, "licence": licence})}
    path.write_bytes(save(network.state_dict(), metadata=metadata))


def load_lpips(path: Path) -> Lpips:
    """Read a file `save_lpips` wrote; eval mode. Raises WeightsError."""
    network = Lpips()
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(f"{path} is not an LPIPS weights file: {str(error).splitlines()[0]}") from error
    return network.eval()
