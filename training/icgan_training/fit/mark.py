"""A key in the weights: a faint constant pattern in every image that says so to whoever holds the key.

The key is a direction u, uniformly random in the m-dimensional space of a feature of pictures, and a picture
is marked when its feature points along u. That has a false-positive rate which needs no estimate: for any
feature vector, a random direction has a cosine above c with a probability of at most (1 - c²)^((m-1)/2) / 2.
(The test for radioactive data is the same: Sablayrolles et al. 2020.) The feature is arithmetic, no network:
brightness in a band of spatial frequencies that JPEG and halving leave alone, divided by its own local
strength, as cosine coefficients. The runtime's detector (origin/weight_key.py) computes the same with numpy.

What is learnt is `output_map` of the generator: as little change as carries the key through the images that
the generator draws. It costs one addition per pixel; whoever holds the weights can take it out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from icgan_training.errors import ConfigError
from icgan_training.networks.generator import Generator

LOW, HIGH = 22, 32  # of 64 half periods across the picture
GRID = 64
WINDOW = 7  # pixels of the local strength
FLOOR = 0.3  # of its mean, added to it
LUMA = (0.299, 0.587, 0.114)
POOL, BATCH = 512, 48
SURE = 1e-9  # chance that every image should stay below while it is learnt
REACH = 1.3  # times the cosine that SURE asks for: room for edits


@dataclass(frozen=True)
class MarkReport:
    """What marking cost and gave, on images that it was not learnt from."""

    psnr: float  # dB to the unmarked images, mean
    found: float  # share of single unedited images with a chance below 1e-6
    dimensions: int


def key_direction(secret: bytes, dimensions: int) -> NDArray[np.float64]:
    """The unit direction [dimensions] of a secret, uniform: Box-Muller on a SHAKE-256 stream."""
    stream = hashlib.shake_256(b"icgan key in the weights 1\0" + secret).digest(16 * dimensions)
    words = np.frombuffer(stream, "<u8").reshape(2, dimensions)
    radius, angle = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    direction: NDArray[np.float64] = normal / np.linalg.norm(normal)
    return direction


class MarkFeature:
    """The feature of a picture, differentiable."""

    def __init__(self, resolution: int) -> None:
        self.side = min(resolution, GRID)
        scale = self.side / GRID
        index = torch.arange(self.side, dtype=torch.float64)
        cosines = torch.cos(math.pi / self.side * index[:, None] * (index + 0.5)) * math.sqrt(2 / self.side)
        cosines[0] *= math.sqrt(0.5)
        radius = torch.hypot(index[:, None], index[None]) / scale
        self.cosines = cosines.float()
        self.inside = (radius >= LOW) & (radius < HIGH)
        self.weight = (((radius >= LOW - 4) & (radius < HIGH + 2)) * radius).float()
        self.dimensions = int(self.inside.sum())

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in grey levels -> [N, dimensions]."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, size=self.side, mode="bicubic", antialias=True)
        grey = torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA))
        band = self.cosines.T @ ((self.cosines @ grey @ self.cosines.T) * self.weight) @ self.cosines
        edge = WINDOW // 2
        squares = F.pad(band.square()[:, None], (edge,) * 4, mode="reflect")
        strength = (F.avg_pool2d(squares, WINDOW, 1)[:, 0] + 1e-3).sqrt()
        flat = band / (strength + FLOOR * strength.mean((1, 2), keepdim=True))
        return (self.cosines @ flat @ self.cosines.T)[:, self.inside]


def chance(cosine: Tensor, dimensions: int) -> Tensor:
    """At most so likely for a random direction."""
    return torch.where(cosine > 0, 0.5 * (1 - cosine.square()) ** ((dimensions - 1) / 2), 1.0)


def mark_generator(
    generator: Generator,
    draw: Callable[[int, int], Tensor],
    secret: bytes,
    psnr: float = 35.2,
    steps: int = 600,
) -> tuple[Generator, MarkReport]:
    """The same generator with a key in its output map, and what that did to images it was not learnt from.

    `draw(count, seed)` gives images [count, 3, R, R] in [-1, 1] of the unmarked generator; `psnr` is the mean
    distance to them, in dB, that the map must keep.
    """
    config = generator.config
    if config.output_map:
        raise ConfigError("this generator has a key already: mark the weights it was made of")
    feature = MarkFeature(config.resolution)
    direction = torch.from_numpy(key_direction(secret, feature.dimensions)).float()
    wanted = REACH * math.sqrt(1 - (2 * SURE) ** (2 / (feature.dimensions - 1)))
    pool = draw(POOL, 1)
    output_map = _learn(pool, feature, direction, wanted, psnr, steps)
    marked = Generator(replace(config, output_map=True))
    marked.load_state_dict({**generator.state_dict(), "output_map": output_map})
    held = draw(POOL, 2)
    with torch.no_grad():
        before, after = levels(held), levels(torch.tanh(before_tanh(held) + output_map)).round()
        cosine = F.cosine_similarity(feature(after), direction[None])
        found = (chance(cosine, feature.dimensions) < 1e-6).float().mean()
    return marked.eval(), MarkReport(float(distance(before, after)), float(found), feature.dimensions)


def _learn(
    pool: Tensor, feature: MarkFeature, direction: Tensor, wanted: float, psnr: float, steps: int
) -> Tensor:
    shape = pool.shape[1:]
    seed = torch.Generator().manual_seed(0)
    coefficients = torch.zeros(feature.side, feature.side)
    coefficients[feature.inside] = direction
    pattern = feature.cosines.T @ coefficients @ feature.cosines
    pattern = (
        F.interpolate(pattern[None, None], size=shape[-1], mode="bicubic")[0]
        * torch.tensor(LUMA)[:, None, None]
    )
    output_map = pattern * (3 / 127.5 / pattern.square().mean().sqrt())
    output_map.requires_grad_()
    optimiser = torch.optim.Adam([output_map], lr=1e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, 2 * (1 - step / steps))
        images = pool[torch.randint(len(pool), (BATCH,), generator=seed)]
        after = levels(torch.tanh(before_tanh(images) + output_map))
        cosine = F.cosine_similarity(feature(after), direction[None])
        loss = F.relu(wanted - cosine).mean() * 10 + 5 * F.relu(psnr - distance(levels(images), after))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return output_map.detach()


def before_tanh(images: Tensor) -> Tensor:
    """What the generator's output was before its tanh."""
    return torch.atanh(images.clamp(-0.9999, 0.9999))


def levels(images: Tensor) -> Tensor:
    """[-1, 1] as grey levels, 0 to 255."""
    return (images + 1) * 127.5


def distance(before: Tensor, after: Tensor) -> Tensor:
    """Mean PSNR in dB of images in grey levels."""
    squares = (before - after).square().mean((1, 2, 3)).clamp_min(1e-6)
    return (10 * torch.log10(255**2 / squares)).mean()
