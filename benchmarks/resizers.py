"""What becomes of a photo's embedding when another program crops and reduces it.

    icgan-train fetch groceries --out data/groceries
    pip install opencv-python-headless
    python -m benchmarks.resizers models/demo data/groceries

Photos that are not among the model's instances are reduced to the encoder's input by other means; the
embedding of each is compared with that of the rule's own reduction: cosine, and whether the nearest of the
instances is another one. Prints a table and, as its last line, JSON.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.neighbour_accuracy import embed
from icgan_runtime import images
from icgan_training.data.sources import open_source
from icgan_training.fit.run import open_encoder

U8 = NDArray[np.uint8]
Resize = Callable[[U8, int], U8]


def pillow(resample: Image.Resampling) -> Resize:
    return lambda square, size: np.asarray(Image.fromarray(square).resize((size, size), resample))


def torch_bilinear(antialias: bool) -> Resize:
    def resize(square: U8, size: int) -> U8:
        planes = torch.from_numpy(square).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(
            planes, (size, size), mode="bilinear", antialias=antialias, align_corners=False
        )
        return small.round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()

    return resize


def opencv(name: str) -> Resize:
    import cv2

    return lambda square, size: np.asarray(cv2.resize(square, (size, size), interpolation=getattr(cv2, name)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a folder of weights with its instances")
    parser.add_argument("source", type=Path, help="photos")
    parser.add_argument("--photos", type=int, default=200)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    size = config["model"]["resolution"]
    encoder, _ = open_encoder(args.model, config)
    ways: dict[str, Resize] = {
        "torch F.interpolate, antialias=True": torch_bilinear(True),
        "Pillow, Lanczos": pillow(Image.Resampling.LANCZOS),
        "Pillow, box": pillow(Image.Resampling.BOX),
        "OpenCV, INTER_AREA": opencv("INTER_AREA"),
        "OpenCV, INTER_LINEAR": opencv("INTER_LINEAR"),
        "torch F.interpolate, antialias=False": torch_bilinear(False),
    }

    stored = open_source(args.model / "instances")
    bank_pictures = np.stack([stored.read(row, size) for row in range(len(stored))])
    known = {picture.tobytes() for picture in bank_pictures}
    source = open_source(args.source)
    squares: list[U8] = []
    for row in np.random.default_rng(0).permutation(len(source)):
        if len(squares) < args.photos and source.read(row, size).tobytes() not in known:
            pixels = images.pixels(Path(source.name(row)).read_bytes())
            side = min(pixels.shape[:2])
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            squares.append(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    bank = embed(encoder, bank_pictures)
    plain = embed(encoder, np.stack([images.load(square, size) for square in squares]))
    nearest = (plain @ bank.T).argmax(axis=1)

    report = {}
    for name, resize in ways.items():
        found = embed(encoder, np.stack([resize(square, size) for square in squares]))
        changed = float(((found @ bank.T).argmax(axis=1) != nearest).mean())
        report[name] = {
            "mean": round(float((found * plain).sum(axis=1).mean()), 5),
            "nearest_changed": round(changed, 4),
        }
    print(f"{len(squares)} photos, {len(bank)} instances, {size} px\n")
    print("| reduced by | cosine, mean | nearest instance is another |\n|---|---|---|")
    for name, row in report.items():
        print(f"| {name} | {row['mean']} | {row['nearest_changed']:.1%} |")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
