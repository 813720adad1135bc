"""What `icgan detect` computes as one ONNX graph, for programs that look for a key in the weights themselves.

The graph looks at all 450 places exactly, where the runtime's detector (origin/weight_key.py) looks at those
that promise most; each keeps its share of the rate, so what it says is as cautious and finds no less.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_export.lower.onnx_export import TRACED_BATCH, export_onnx
from icgan_runtime import __version__
from icgan_runtime.origin.key_feature import in_band, seen_part
from icgan_runtime.origin.weight_key import FALSE_POSITIVE, GRIDS, SIDES, key_direction, searched
from icgan_training.fit.mark import LUMA, MarkFeature

LEAST = 1e-37  # chance that float32 still holds
TRACED_SIDE = 96


class _Places(nn.Module):
    """The key at every place of pictures on one grid."""

    parts: Tensor
    inside: Tensor
    direction: Tensor
    shares: Tensor

    def __init__(self, grid: int, secret: bytes) -> None:
        super().__init__()
        self.grid = grid
        self.feature = MarkFeature(grid)
        inside = in_band(grid)  # [c, c]
        self.dimensions = int(inside.sum())
        direction = np.zeros(inside.shape, np.float32)
        direction[inside] = key_direction(secret, self.dimensions)
        parts = np.stack([seen_part(grid, first, removed) for removed, first in SIDES])  # [S, c, g]
        self.register_buffer("parts", torch.from_numpy(parts))
        self.register_buffer("inside", torch.from_numpy(inside).float()[:, None])  # [c, 1, c]
        self.register_buffer("direction", torch.from_numpy(direction)[:, None])
        shares = np.reshape(searched()[1], (2, len(SIDES), len(SIDES)))
        self.register_buffer("shares", torch.from_numpy(shares).float())

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H, W] in grey levels -> how likely chance is, [N] of each, and [1] of their mean feature."""
        cells = F.interpolate(grey[:, None], size=(self.grid, self.grid), mode="bicubic", antialias=True)
        clean = torch.stack([self.feature.clean(cells[:, 0]), self.feature.clean(cells[:, 0].flip(2))], 1)
        sides, block = self.parts.shape[0], self.parts.shape[1]
        rows = self.parts @ clean[:, :, None]  # [N, 2, S, c, g]
        columns = self.parts.permute(2, 0, 1).reshape(self.grid, sides * block)  # [g, S · c]
        found = (rows @ columns).reshape(-1, 2, sides, block, sides, block) * self.inside
        unit = _unit(found)
        return self._least(unit), self._least(_unit(unit.mean(0, keepdim=True)))

    def _least(self, unit: Tensor) -> Tensor:
        """Unit features [N, 2, S, c, S, c] -> the least chance over share of all places, [N]."""
        cosine = (unit * self.direction).sum((3, 5)).clamp(1e-9, 1.0)
        beyond = cosine * math.sqrt(2 * math.pi * (self.dimensions - 1))
        cap = (1 - cosine.square()) ** ((self.dimensions - 1) / 2) * beyond.reciprocal().clamp(max=0.5)
        return (torch.where(cosine > 1e-9, cap, torch.ones_like(cap)) / self.shares).amin((1, 2, 3))


def _unit(feature: Tensor) -> Tensor:
    return feature / feature.square().sum((3, 5), keepdim=True).sqrt().clamp(min=1e-6)


class KeyDetector(nn.Module):
    """`image` uint8 [N, H, W, 3], of one model and edited alike -> `chance` [1] and `each` [N]."""

    luma: Tensor

    def __init__(self, secret: bytes) -> None:
        super().__init__()
        self.places = nn.ModuleList(_Places(grid, secret) for grid in GRIDS)
        self.register_buffer("luma", torch.tensor(LUMA))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """At most so likely without the key, everything that was tried counted: of all, and of each image."""
        grey = image.float() @ self.luma
        found = [places(grey) for places in self.places]
        each = torch.stack([alone for alone, _ in found]).amin(0)
        together = torch.stack([mean for _, mean in found]).amin(0)
        count = torch.ones_like(each).sum()
        tries = torch.where(count > 1, 2 * count, torch.ones_like(count))  # as weight_key counts them
        each, together = len(GRIDS) * tries * each, len(GRIDS) * 2 * together
        best = torch.minimum(each.amin(0, keepdim=True), together)
        return best.clamp(LEAST, 1.0), each.clamp(LEAST, 1.0)


def detector_graph(secret: bytes) -> onnx.ModelProto:
    """The detector of one key; the key's direction is in it."""
    example = torch.zeros((TRACED_BATCH, TRACED_SIDE, TRACED_SIDE + 1, 3), dtype=torch.uint8)
    metadata = {"icgan.version": __version__, "icgan.false_positive": f"{FALSE_POSITIVE:g}"}
    free = {1: "H", 2: "W"}
    return export_onnx(KeyDetector(secret), {"image": example}, ("chance", "each"), metadata, free=free)
