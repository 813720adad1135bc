"""What becomes of a photo's embedding when its colour profile is ignored, and when it is followed.

    icgan-train fetch groceries --out data/groceries
    python -m benchmarks.colour_profiles models/demo data/groceries

300 photos that are not among the model's instances are stored once more as a phone would store them, in
Display P3 with its profile and in Adobe RGB with its. The embedding of each is compared with that of the sRGB
original: cosine, and whether the nearest of the instances is another one. Prints a table and, as its last
line, JSON.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from benchmarks.neighbour_accuracy import embed
from icgan_runtime import images
from icgan_training.data.sources import open_source
from icgan_training.fit.run import open_encoder
from tests.picture_files import ADOBE_RGB, DISPLAY_P3, profile

PICTURES = 300
SRGB = ImageCms.createProfile("sRGB")


def twin(photo: Image.Image, wide: bytes) -> bytes:
    """A PNG of the same colours in another colour space, with its profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(wide))
    stored = ImageCms.profileToProfile(photo, SRGB, target, outputMode="RGB")
    assert stored is not None
    stream = io.BytesIO()
    stored.save(stream, "PNG", icc_profile=wide)
    return stream.getvalue()


def without_profile(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a folder of weights with its instances")
    parser.add_argument("source", type=Path, help="photos")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    size = config["model"]["resolution"]
    encoder, _ = open_encoder(args.model, config)

    stored = open_source(args.model / "instances")
    bank_pictures = np.stack([stored.read(row, size) for row in range(len(stored))])
    known = {picture.tobytes() for picture in bank_pictures}
    source = open_source(args.source)
    rows = np.random.default_rng(0).permutation(len(source))
    photos: list[Image.Image] = []
    for row in rows:
        if len(photos) < PICTURES and source.read(row, size).tobytes() not in known:
            with Image.open(source.name(row)) as opened:
                photos.append(opened.convert("RGB"))
    bank = embed(encoder, bank_pictures)
    plain = embed(encoder, np.stack([images.load(photo, size) for photo in photos]))
    nearest = (plain @ bank.T).argmax(axis=1)

    report = {}
    for name, space in {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}.items():
        twins = [twin(photo, profile(*space)) for photo in photos]
        for rule, read in {"ignored": without_profile, "followed": lambda data: data}.items():
            found = embed(encoder, np.stack([images.load(read(data), size) for data in twins]))
            cosines = (found * plain).sum(axis=1)
            changed = float(((found @ bank.T).argmax(axis=1) != nearest).mean())
            report[f"{name}, {rule}"] = {
                "mean": round(float(cosines.mean()), 5),
                "worst": round(float(cosines.min()), 4),
                "nearest_changed": round(changed, 4),
            }
    print(f"{len(photos)} photos, {len(bank)} instances, {size} px\n")
    print("| profile | cosine, mean | worst | nearest instance is another |\n|---|---|---|---|")
    for name, row in report.items():
        print(f"| {name} | {row['mean']} | {row['worst']} | {row['nearest_changed']:.1%} |")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
