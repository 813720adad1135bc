"""A key in the weights, measured end to end: what survives, what is taken for marked, and what it costs.

    python -m benchmarks.weight_key bundles/demo bundles/demo-marked --key key.txt \\
        --strangers data/groceries64 --out bench/key/demo
    python -m benchmarks.weight_key ... --images 1324 --only fid --fid  # FID without and with the key

Marked images are drawn by ONNX Runtime, edited, and given to the detector that `icgan detect` runs. False
positives are counted, on real pictures, the unmarked generator and the marked one under other keys.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.fid_check import independent_fid
from benchmarks.origin import EDITS, edited, jpeg
from icgan_runtime import Pipeline
from icgan_runtime.errors import IcganError
from icgan_runtime.marks.keys import read_secret
from icgan_runtime.origin.key_feature import Seen
from icgan_runtime.origin.likeness import WHOLE
from icgan_runtime.origin.weight_key import FALSE_POSITIVE, GRIDS, Detection, cap, detect
from icgan_training.data.fetch import find_weights
from icgan_training.distributed import local_device
from icgan_training.score.feature_networks import inception_network

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
GROUP = 8
STRENGTHS = (1.4, 1.0, 0.8, 0.63, 0.5)  # times the pattern: 3 dB more to 6 dB less
SAMPLED_KEYS, KEYS_AT_ONCE = 500_000, 20_000


def drawings(bundle: Path, count: int, precision: str | None = None, backend: str = "auto") -> U8:
    """The same instances and seeds for every bundle [N, R, R, 3]."""
    with Pipeline.load(bundle, backend=backend, precision=precision, threads=1) as pipe:
        rows = np.random.default_rng(1).choice(len(pipe.bank), count)
        return np.stack(
            [
                pipe.generate_from(pipe.bank.embeddings[row], seed=seed).images[0]
                for seed, row in enumerate(rows)
            ]
        )


def psnr(first: U8, second: U8) -> F32:
    """[N], in dB."""
    squares = ((first.astype(np.float32) - second) ** 2).mean(axis=(1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(squares, 1e-6)), np.float32)


def shares(shown: list[U8], secret: bytes) -> dict[str, float]:
    """How often the key is found in one image, and in groups."""
    one = [detect([image], secret).found for image in shown]
    eight = [detect(shown[at : at + GROUP], secret).found for at in range(0, len(shown) - GROUP + 1, GROUP)]
    return {"one": float(np.mean(one)), "eight": float(np.mean(eight)), "images": len(shown)}


def survival(drawn: U8, secret: bytes) -> dict[str, dict[str, float]]:
    """The same after each edit."""
    found = {}
    for name in EDITS:
        found[name] = shares([edited(image, name) for image in drawn], secret)
        print(f"{name:22} one {found[name]['one']:.3f}  eight {found[name]['eight']:.3f}", flush=True)
    return found


def attacks(drawn: U8, secret: bytes, plain: U8) -> dict[str, dict[str, float]]:
    """What is done on purpose, and how far that takes an image from the marked one."""
    half = len(drawn) // 2
    held = drawn[half:]
    smooth = np.stack(
        [np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(3))) for image in drawn]
    )
    # the pattern, as whoever has many marked images guesses it: what medians take off has it in common
    guess = (drawn[:half].astype(np.float32) - smooth[:half]).mean(axis=0)
    known = (drawn[:half].astype(np.float32) - plain[:half]).mean(axis=0)

    def less(pattern: F32) -> U8:
        return np.clip(held - pattern, 0, 255).round().astype(np.uint8)

    ways: dict[str, U8] = {
        "median of 3 × 3": smooth[half:],
        "JPEG 20": np.stack([np.asarray(jpeg(Image.fromarray(image), 20)) for image in held]),
        f"mean of {half} images' fine detail taken off": less(guess),
        f"twice that of {half} images": less(2 * guess),
        "pattern known and taken off": less(known),
    }
    found = {}
    for name, shown in ways.items():
        found[name] = shares(list(shown), secret) | {"psnr": float(psnr(shown, held).mean())}
        print(f"{name:45} one {found[name]['one']:.3f} eight {found[name]['eight']:.3f}", flush=True)
    return found


def false_positives(sets: dict[str, U8], marked: U8, secret: bytes) -> dict[str, Any]:
    """What is taken for marked: counted at one place for half a million keys, and by the whole detector."""
    found: dict[str, Any] = {}
    for name, pictures in (sets | {"marked with another key": marked}).items():
        grid = GRIDS[0] if pictures.shape[1] >= GRIDS[0] else GRIDS[1]
        rows = np.stack([Seen(picture, grid).at(False, WHOLE) for picture in pictures])
        above, spread = _beyond(rows)
        verdicts = [
            detect([picture], f"other key {name} {number:08}".encode())
            for number, picture in enumerate(pictures)
        ]
        groups = [
            detect(list(pictures[at : at + GROUP]), f"other key of eight {name} {at:08}".encode())
            for at in range(0, len(pictures) - GROUP + 1, GROUP)
        ]
        found[name] = {
            "pictures": len(pictures),
            "rate_at_one_place": above,
            "allowed": FALSE_POSITIVE,
            "largest_deviation_of_a_key": spread,
            **_counted("one", verdicts),
            **_counted("eight", groups),
        }
        if name != "marked with another key":
            found[name] |= _counted("this key, one", [detect([picture], secret) for picture in pictures])
        print(name, json.dumps(found[name]), flush=True)
    return found


def _counted(name: str, verdicts: list[Detection]) -> dict[str, float]:
    return {
        f"{name}: tried": len(verdicts),
        f"{name}: found": sum(verdict.found for verdict in verdicts),
        f"{name}: least chance": min(verdict.chance for verdict in verdicts),
    }


def _beyond(rows: F32) -> tuple[float, float]:
    """Share of pictures and random keys beyond the cosine that 1e-6 allows at one place, and how far the mean
    cosine of a key with all of these pictures is from 0 at most, in deviations of one cosine."""
    dimensions, rng = rows.shape[1], np.random.default_rng(0)
    steps = np.linspace(0, 1, 100_001)
    threshold = float(steps[np.argmax(cap(steps, dimensions) <= FALSE_POSITIVE)])
    beyond, furthest = 0, 0.0
    for _ in range(SAMPLED_KEYS // KEYS_AT_ONCE):
        keys = rng.standard_normal((KEYS_AT_ONCE, dimensions), np.float32)
        cosines = rows @ (keys / np.linalg.norm(keys, axis=1, keepdims=True)).T
        beyond += int((cosines > threshold).sum())
        furthest = max(furthest, float(np.abs(cosines.mean(axis=0)).max()) * dimensions**0.5)
    return beyond / (len(rows) * SAMPLED_KEYS), furthest


def precisions(bundle: Path, count: int, secret: bytes) -> dict[str, dict[str, float]]:
    """The key in what the graphs of every precision draw, and in what bfloat16 makes of the first."""
    held = {entry["precision"] for entry in json.loads((bundle / "manifest.json").read_text())["graphs"]}
    ways = {precision: (precision, "auto") for precision in sorted(held)}
    ways["fp32 on openvino-bf16"] = ("fp32", "openvino-bf16")
    found = {}
    for way, (precision, backend) in ways.items():
        try:
            drawn = drawings(bundle, count, precision, backend)
        except IcganError as error:  # no such library, or a processor without kernels for a precision
            print(f"{way}: not run here ({error})")
            continue
        for name in ("none", "JPEG 75"):
            found[f"{way}, {name}"] = shares([edited(image, name) for image in drawn], secret)
        print(way, found[f"{way}, JPEG 75"], flush=True)
    return found


def strengths(plain: U8, marked: U8, secret: bytes, wanted: list[float]) -> dict[str, dict[str, float]]:
    """PSNR against what is found, with the pattern so many times as strong."""
    found = {}
    for times in wanted:
        pictures = stronger(plain, marked, times)
        row = {"psnr": float(psnr(plain, pictures).mean())}
        for name in ("none", "JPEG 75", "half size", "5 % crop"):
            row |= {
                f"{name}, {size}": share
                for size, share in shares([edited(image, name) for image in pictures], secret).items()
                if size != "images"
            }
        found[f"{times}"] = row
        print(json.dumps(row), flush=True)
    return found


def fid_by_strength(real: U8, plain: U8, marked: U8, wanted: list[float]) -> dict[str, Any]:
    """FID without the key and with it, the same instances and seeds, of all images and of each half.

    The halves say how far the change would be another with other seeds.
    """
    halves = {"all": slice(None), "first half": slice(0, None, 2), "second half": slice(1, None, 2)}
    seen, truth = _features(plain), _features(real)
    before = {name: independent_fid(truth, seen[some]) for name, some in halves.items()}
    found: dict[str, Any] = {"images": len(plain), "real": len(real), "unmarked": before}
    print(json.dumps(found), flush=True)
    for times in wanted:
        pictures = stronger(plain, marked, times)
        seen = _features(pictures)
        after = {name: independent_fid(truth, seen[some]) for name, some in halves.items()}
        found[f"{times}"] = {"psnr": float(psnr(plain, pictures).mean())} | {
            name: after[name] - before[name] for name in halves
        }
        print(times, json.dumps(found[f"{times}"]), flush=True)
    return found


def stronger(plain: U8, marked: U8, times: float) -> U8:
    """The marked images with the pattern so many times as strong."""
    shown = plain + times * (marked.astype(np.float32) - plain)
    return np.clip(shown, 0, 255).round().astype(np.uint8)


_SEEN: dict[bytes, F32] = {}


def _features(pictures: U8) -> F32:
    """Of Inception, each set once."""
    name = sha256(pictures.tobytes()).digest()
    if name not in _SEEN:
        network = inception_network(find_weights("inception"), local_device())
        parts = range(0, len(pictures), 50)
        _SEEN[name] = np.concatenate([network(pictures[at : at + 50]) for at in parts])
    return _SEEN[name]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plain", type=Path, metavar="UNMARKED", help="bundle")
    parser.add_argument("marked", type=Path, metavar="MARKED", help="bundle of the same run, marked")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--strangers", type=Path, help="prepared data set of real pictures")
    parser.add_argument("--only", nargs="+", metavar="PART", help="measure these parts alone")
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=STRENGTHS, metavar="T", help="times the pattern"
    )
    parser.add_argument("--fid", action="store_true", help="to as many of --strangers, too (slow)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    secret = read_secret("key", options.key)
    plain, marked = (drawings(bundle, options.images) for bundle in (options.plain, options.marked))
    real = None if options.strangers is None else np.load(options.strangers / "images.npy", mmap_mode="r")
    sets = {"unmarked generator": plain}
    if real is not None:
        sets["real pictures"] = np.array(real[: options.images])
    near = psnr(plain, marked)
    print(f"PSNR {near.mean():.2f} dB", flush=True)
    parts: dict[str, Callable[[], Any]] = {
        "psnr": lambda: {"mean": float(near.mean()), "least": float(near.min())},
        "edits": lambda: survival(marked, secret),
        "attacks": lambda: attacks(marked, secret, plain),
        "false positives": lambda: false_positives(sets, marked, secret),
        "precisions": lambda: precisions(options.marked, 64, secret),
        "strengths": lambda: strengths(plain, marked, secret, options.strengths),
    }
    if options.fid and real is not None:
        parts["fid"] = lambda: fid_by_strength(sets["real pictures"], plain, marked, options.strengths)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "report.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, measure in parts.items():
        if options.only is not None and name not in options.only:
            continue
        report[name] = measure()
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
