"""What survives what: a key in the weights, and proof by drawing again, under edits.

    python -m benchmarks.origin MARKED_BUNDLE --key key.txt --out bench/origin  # the key
    python -m benchmarks.origin BUNDLE --out bench/origin  # proof
    python -m benchmarks.origin BUNDLE --sign-key signer.pem --out bench/origin  # what a signature costs

Strangers: real pictures (--strangers FOLDER) under other keys, counted at a false-positive rate of 1e-6.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from icgan_runtime import Pipeline, images
from icgan_runtime.chain import LocalChain
from icgan_runtime.marks.claim import SINGLE
from icgan_runtime.marks.keys import read_secret
from icgan_runtime.marks.mark import find_signer, read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import MATCH, PROVED, Queries, prove
from icgan_runtime.origin.weight_key import FALSE_POSITIVE, detect

U8 = NDArray[np.uint8]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (round(side * share) for side in image.size)
    return image.crop((x - x // 2, y // 2, image.width - x // 2, image.height - y + y // 2))


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: scaled(image, 0.5),
    "twice the size": lambda image: scaled(image, 2),
    "5 % crop": lambda image: cropped(image, 0.05),
    "blur, radius 0.7": lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
    "noise, 5 levels": lambda image: noisy(image, 5),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "blur, radius 2": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "quarter size": lambda image: scaled(image, 0.25),
}


def edited(pixels: U8, name: str) -> U8:
    return np.asarray(EDITS[name](Image.fromarray(pixels)))


def measure_key(drawn: U8, secret: bytes) -> dict[str, dict[str, float]]:
    """Share of images, and of groups of eight, whose key is found after each edit."""
    report = {}
    for name in EDITS:
        shown = [edited(image, name) for image in drawn]
        single = [detect([image], secret).found for image in shown]
        groups = [detect(shown[start : start + 8], secret).found for start in range(0, len(shown) - 7, 8)]
        report[name] = {"one": float(np.mean(single)), "eight": float(np.mean(groups)), "images": len(shown)}
        print(f"{name:20} one {report[name]['one']:.3f}  eight {report[name]['eight']:.3f}", flush=True)
    return report


def measure_strangers(folder: Path, count: int) -> dict[str, float]:
    """Real pictures, each under another key: how many are taken for marked."""
    paths = sorted(folder.rglob("*.jpg"))[:count]
    chances = [
        detect([images.pixels(path.read_bytes())], f"stranger {number:08}".encode()).chance
        for number, path in enumerate(paths)
    ]
    found = sum(chance <= FALSE_POSITIVE for chance in chances)
    print(f"strangers: {found} of {len(chances)} found, least chance {min(chances):.2g}", flush=True)
    return {"pictures": len(chances), "found": found, "least_chance": min(chances)}


def measure_proof(
    pipe: Pipeline, instances: int, seeds: int, tries: int, index: Path
) -> dict[str, dict[str, float]]:
    """Share of images whose instance and seed are recovered among all candidates, after each edit."""
    chain, rng = pipe.chain, np.random.default_rng(0)
    assert isinstance(chain, LocalChain)
    rows = rng.choice(len(pipe.bank), instances, replace=False)
    queries = Queries(np.asarray(pipe.bank.embeddings[rows]), tuple(map(int, pipe.bank.ids[rows])))
    settings = recover.Settings(range(seeds), range(1), 1.0)
    truth = [(int(rng.integers(instances)), int(rng.integers(seeds))) for _ in range(tries)]
    report: dict[str, dict[str, float]] = {}
    for name in EDITS:
        right, wrong, took = 0, 0, []
        for instance, seed in truth:
            drawn = pipe.generate_from(queries.embeddings[instance], seed=seed).images[0]
            data = images.encode(edited(drawn, name))
            start = time.perf_counter()
            verdict = prove(data, read_marks(data), chain, queries, settings, index)
            took.append(time.perf_counter() - start)
            if verdict.verdict in (PROVED, MATCH):
                same = (verdict.instance, verdict.seed) == (queries.ids[instance], seed)  # type: ignore[index]
                right, wrong = right + same, wrong + (not same)
        report[name] = {"recovered": right / tries, "false": wrong / tries, "seconds": float(np.median(took))}
        print(f"{name:20} recovered {right}/{tries}, false {wrong}, {np.median(took):.1f} s each", flush=True)
    return report


def measure_signing(pipe: Pipeline, key: Path) -> dict[str, dict[str, float]]:
    """Bytes and processor time that a signed manifest adds to a file."""
    result, report = pipe.generate_from(pipe.bank.embeddings[0]), {}
    claim, signer = result.claim(0, 1, SINGLE), find_signer(key)
    assert signer is not None
    for kind in ("PNG", "JPEG", "WEBP"):
        plain, took = images.encode(result.images[0], kind), []
        for _ in range(50):
            start = time.process_time()
            signed = signer.sign(plain, kind, claim)
            took.append(time.process_time() - start)
        added = len(signed) - len(plain)
        report[kind] = {"bytes": added, "milliseconds": 1000 * float(np.median(took))}
        print(f"{kind:5} + {added} bytes, {report[kind]['milliseconds']:.2f} ms of processor", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--strangers", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--sign-key", type=Path, help="measure signing with this key alone")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {}
    with Pipeline.load(options.bundle, precision=options.precision) as pipe:
        if options.sign_key is not None:
            report["signing"] = measure_signing(pipe, options.sign_key)
        elif options.key is None:
            index = options.out / "index"
            report["proof"] = measure_proof(pipe, options.instances, options.seeds, options.tries, index)
        else:
            secret = read_secret("key", options.key)
            rows = np.random.default_rng(1).choice(len(pipe.bank), options.images)
            drawn = [
                pipe.generate_from(pipe.bank.embeddings[row], seed=int(seed)).images[0]
                for seed, row in enumerate(rows)
            ]
            report["key"] = measure_key(np.stack(drawn), secret)
            if options.strangers is not None:
                report["strangers"] = measure_strangers(options.strangers, options.images)
    name = (
        "signing"
        if options.sign_key
        else "proof"
        if options.key is None
        else f"key-{options.precision or 'highest'}"
    )
    (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
