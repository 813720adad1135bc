"""The small network of the detector of keys in weights, trained on pictures that carry random patterns.

    python -m benchmarks.key_reader data/groceries data/cifar10 --out key_reader.npz

The file is that of runtime/icgan_runtime/origin. Every picture of every step has a direction of its own, so
the network learns what a picture looks like without a pattern, and no key. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from icgan_runtime import files
from icgan_training.fit.mark import LUMA, KeyReader, MarkFeature

U8 = NDArray[np.uint8]
RATE, BATCH = 2e-3, 24
NEAR, FAR = 34.5, 37.0  # dB of the patterns
WANTED = 0.4  # cosine that no picture should stay below


def photos(folder: Path, count: int, rng: np.random.Generator) -> U8:
    """Random squares of photos, at 64 px."""
    paths = sorted(folder.rglob("*.jpg"))
    shown = []
    for index in rng.permutation(len(paths))[:count]:
        with Image.open(paths[index]) as image:
            image.draft("RGB", (160, 160))
            picture = image.convert("RGB")
        side = min(picture.size)
        x, y = (int(rng.integers(length - side + 1)) for length in picture.size)
        square = picture.crop((x, y, x + side, y + side))
        shown.append(np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS)))
    return np.stack(shown)


def edited(pixels: U8, kind: int, rng: np.random.Generator) -> U8:
    """One of: nothing, JPEG, half the size and back, blur, noise."""
    image, side = Image.fromarray(pixels), pixels.shape[0]
    if kind == 1:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(55, 90)))
        image = Image.open(stream).convert("RGB")
    elif kind == 2:
        small = image.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
        image = small.resize((side, side), Image.Resampling.BICUBIC)
    elif kind == 3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    elif kind == 4:
        noisy = pixels + rng.normal(0, 5, pixels.shape)
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.asarray(image)


def marked(pictures: U8, feature: MarkFeature, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, g, g] with a pattern each, edited, and the patterns' directions [N, m]."""
    count = len(pictures)
    drawn = torch.from_numpy(rng.normal(size=(count, feature.dimensions))).float()
    directions = F.normalize(drawn)
    pattern = feature.pattern(directions)[:, None] * torch.tensor(LUMA)[None, :, None, None]
    wanted = 255 * 10 ** (-torch.from_numpy(rng.uniform(NEAR, FAR, (count, 1, 1, 1))).float() / 20)
    pattern *= wanted / pattern.square().mean((1, 2, 3), keepdim=True).sqrt()
    plain = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    shown = (plain + pattern).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    passed_on = np.stack([edited(each, int(rng.integers(5)), rng) for each in shown])
    return torch.from_numpy(passed_on).permute(0, 3, 1, 2).float(), directions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="what `icgan-train fetch groceries` wrote")
    parser.add_argument("cifar10", type=Path, help="what `icgan-train fetch cifar10` wrote")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    small = np.load(options.cifar10 / "images.npy", mmap_mode="r")
    pictures = {64: photos(options.photos, 1000, rng)}
    pictures[32] = np.array(small[np.sort(rng.choice(len(small), 2000, replace=False))])
    reader = KeyReader()
    torch.nn.init.zeros_(reader.d.weight)
    torch.nn.init.zeros_(reader.d.bias)  # at first it takes nothing off
    by_side = {side: MarkFeature(side, reader) for side in pictures}
    optimiser = torch.optim.Adam(reader.parameters(), lr=RATE)
    for step in range(options.steps):
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 20, 1.52 - 1.5 * step / options.steps)
        side = 32 if step % 3 == 2 else 64
        count = BATCH * 64 // side
        shown = pictures[side][rng.integers(len(pictures[side]), size=count)]
        images, directions = marked(shown[:, :, :: rng.choice((-1, 1))], by_side[side], rng)
        cosine = F.cosine_similarity(by_side[side](images), directions)
        loss = 2 * F.relu(WANTED - cosine).square().mean() - cosine.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step}, {side} px: cosine {cosine.mean():.3f}", flush=True)
    arrays = {name: value.numpy() for name, value in reader.state_dict().items()}
    with files.atomic_file(options.out) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    main()
