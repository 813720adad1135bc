"""Self-attention (Zhang et al. 2019), as published and with fewer products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.constant_layers import constant, conv
from icgan_export.rewrite.fold import Weights

# Scores of a picture that are computed at a time: half a MiB, which stays in a cache until they are used.
LARGEST_SCORES = 2**17


class Attention(nn.Module):
    """Self-attention (Zhang et al. 2019) on [N, C, h, w] as BigGAN writes it: four 1x1 convolutions."""

    def __init__(self, weights: Weights, layer: str, parts: bool = False) -> None:
        super().__init__()
        self.largest = LARGEST_SCORES if parts else 0
        self.theta, self.phi, self.g, self.o = (
            conv(weights[f"{layer}.{name}.weight"], None) for name in ("theta", "phi", "g", "o")
        )
        self.gamma = constant(weights[f"{layer}.gamma"])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.theta(x), F.max_pool2d(self.phi(x), 2, 2), F.max_pool2d(self.g(x), 2, 2)
        attended: Tensor = self.o(_attend(query, key, value, self.largest))
        return self.gamma * attended + x


class ProductAttention(nn.Module):
    """Self-attention with theta, phi and g as one convolution, pooled together, and gamma inside o."""

    def __init__(self, weights: Weights, layer: str, parts: bool = False) -> None:
        super().__init__()
        self.largest = LARGEST_SCORES if parts else 0
        theta, phi, g, o = (weights[f"{layer}.{name}.weight"] for name in ("theta", "phi", "g", "o"))
        self.query = conv(theta, None)
        self.memory = conv(torch.cat([phi, g]), None)
        self.split = [len(phi), len(g)]
        self.o = conv(o * weights[f"{layer}.gamma"], None)

    def forward(self, x: Tensor) -> Tensor:
        key, value = torch.split(F.max_pool2d(self.memory(x), 2, 2), self.split, dim=1)
        attended: Tensor = self.o(_attend(self.query(x), key, value, self.largest))
        return attended + x


def _attend(query: Tensor, key: Tensor, value: Tensor, largest: int = 0) -> Tensor:
    """query [N, K, h, w], key [N, K, h/2, w/2], value [N, V, h/2, w/2] -> [N, V, h, w].

    With `largest`, queries are taken in parts so that a picture's scores are at most that many at a time.
    """
    queries = query.flatten(2).transpose(1, 2)  # [N, h w, K]
    keys, values = key.flatten(2), value.flatten(2).transpose(1, 2)
    attended = _in_parts(queries, keys, values, largest)  # [N, h w, V]
    return attended.transpose(1, 2).reshape(-1, value.shape[1], *query.shape[2:])


def _in_parts(queries: Tensor, keys: Tensor, values: Tensor, largest: int) -> Tensor:
    """[N, Q, K], [N, K, M], [N, M, V] -> [N, Q, V]; in fours, as a WebGPU shader may bind 8 tensors."""
    count, memory = queries.shape[1], keys.shape[2]
    parts = min(4, -(-count * memory // largest)) if largest else 1
    if parts == 1:
        return torch.softmax(queries @ keys, dim=2) @ values
    some = torch.split(queries, -(-count // parts), dim=1)
    return torch.cat([_in_parts(each, keys, values, largest) for each in some], dim=1)
