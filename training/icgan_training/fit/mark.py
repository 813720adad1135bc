"""A key in the weights: a faint constant pattern in every image that says so to whoever holds the key.

The key is a direction u, uniformly random in the m-dimensional space of a feature of pictures, and a picture
is marked when its feature points along u. That has a false-positive rate which needs no estimate: the chance
that a random direction comes as near to any feature is the area of a sphere's cap. (The test for radioactive
data is the same: Sablayrolles et al. 2020.) The runtime's detector (origin/key_feature.py, weight_key.py)
computes the same feature with numpy, and reads the same small network.

What is learnt is `output_map` of the generator: as little change as carries the key through the images that
the generator draws. It costs one addition per pixel; whoever holds the weights can take it out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.errors import ConfigError
from icgan_training.networks.generator import Generator

LOW, HIGH = 22, 32  # of 64 half periods across the picture
GRID = 64
WINDOW = 7  # pixels of the local strength
FLOOR = 0.3  # of its mean, added to it
LUMA = (0.299, 0.587, 0.114)
# dB by whether the picture fills the grid: benchmarks.weight_key says what is found at which distance
DISTANCES = {True: 38.0, False: 35.0}
POOL, BATCH = 512, 24
SURE = 2e-9  # chance that every image should stay below while it is learnt
REACH = 1.4  # times the cosine that SURE asks for: room for edits
EDITS = ("none", "half", "noise", "half")  # that images are learnt under, in turns


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


class KeyReader(nn.Module):
    """Takes off what is the picture's own: maps [N, g, g] of the band, and of all brightness -> [N, g, g]."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        self.c = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        self.d = nn.Conv2d(channels, 1, 3, padding=1)

    @classmethod
    def shipped(cls) -> KeyReader:
        """The one that the detector runs."""
        path = resources.files("icgan_runtime") / "origin" / "key_reader.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            reader = cls(len(arrays["a.bias"]))
            reader.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays})
        return reader.requires_grad_(False)

    def forward(self, flat: Tensor, rest: Tensor) -> Tensor:
        x = F.relu(self.a(torch.stack([flat, rest], 1)))
        x = x + F.relu(self.b(x))
        x = x + F.relu(self.c(x))
        clean: Tensor = flat + self.d(x)[:, 0]
        return clean


class MarkFeature:
    """The feature of a picture, differentiable."""

    def __init__(self, resolution: int, reader: KeyReader | None = None) -> None:
        self.side = min(resolution, GRID)
        self.reader = KeyReader.shipped() if reader is None else reader
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
        found: Tensor = (self.cosines @ self.clean(grey) @ self.cosines.T)[:, self.inside]
        return found

    def clean(self, grey: Tensor) -> Tensor:
        """Brightness [N, g, g] -> its band over its local strength, without what is the picture's own."""
        band = self.cosines.T @ ((self.cosines @ grey @ self.cosines.T) * self.weight) @ self.cosines
        strength = (local_mean(band.square()) + 1e-3).sqrt()
        flat = band / (strength + FLOOR * strength.mean((1, 2), keepdim=True))
        rest = grey - local_mean(grey)
        rest = rest / (rest.square().mean((1, 2), keepdim=True) + 1).sqrt()
        clean: Tensor = self.reader(flat, rest)
        return clean

    def pattern(self, directions: Tensor) -> Tensor:
        """What pictures would have to be added for features in these directions, [N, m] -> [N, g, g]."""
        coefficients = torch.zeros(len(directions), self.side, self.side)
        coefficients[:, self.inside] = directions
        return self.cosines.T @ coefficients @ self.cosines


def local_mean(grids: Tensor) -> Tensor:
    """[N, g, g] over windows."""
    return F.avg_pool2d(F.pad(grids[:, None], (WINDOW // 2,) * 4, mode="reflect"), WINDOW, 1)[:, 0]


def chance(cosine: Tensor, dimensions: int) -> Tensor:
    """At most so likely for a random direction."""
    return torch.where(cosine > 0, 0.5 * (1 - cosine.square()) ** ((dimensions - 1) / 2), 1.0)


def mark_generator(
    generator: Generator,
    draw: Callable[[int, int], Tensor],
    secret: bytes,
    psnr: float | None = None,
    steps: int = 300,
) -> tuple[Generator, MarkReport]:
    """The same generator with a key in its output map, and what that did to images it was not learnt from.

    `draw(count, seed)` gives images [count, 3, R, R] in [-1, 1] of the unmarked generator; `psnr` is the mean
    distance to them, in dB, that the map must keep (None: that of DISTANCES).
    """
    config = generator.config
    psnr = DISTANCES[config.resolution >= GRID] if psnr is None else psnr
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
    seed = torch.Generator().manual_seed(0)
    pattern = F.interpolate(feature.pattern(direction[None])[None], size=pool.shape[-1], mode="bicubic")[0]
    pattern = pattern * torch.tensor(LUMA)[:, None, None]
    output_map = pattern * (3 / 127.5 / pattern.square().mean().sqrt())
    output_map.requires_grad_()
    optimiser = torch.optim.Adam([output_map], lr=1e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, 2 * (1 - step / steps))
        images = pool[torch.randint(len(pool), (BATCH,), generator=seed)]
        after = levels(torch.tanh(before_tanh(images) + output_map))
        shown = _edited(after, EDITS[step % len(EDITS)], seed)
        cosine = F.cosine_similarity(feature(shown), direction[None])
        # squared: the images that carry it least decide
        loss = 100 * F.relu(wanted - cosine).square().mean()
        loss = loss + 5 * F.relu(psnr - distance(levels(images), after))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():  # the steps end near the distance, on either side
        far = distance(levels(pool), levels(torch.tanh(before_tanh(pool) + output_map)))
        return output_map * 10 ** ((far - psnr) / 20)


def _edited(images: Tensor, edit: str, seed: torch.Generator) -> Tensor:
    """Pictures as others pass them on. Halving takes most away, so it is met most often."""
    if edit == "noise":
        return images + 5 * torch.randn(images.shape, generator=seed)
    if edit == "half":
        side = images.shape[-1]
        small = F.interpolate(images, size=side // 2, mode="bicubic", antialias=True)
        return F.interpolate(small, size=side, mode="bicubic")
    return images


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
