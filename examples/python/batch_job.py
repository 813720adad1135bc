"""A batch job: every picture of a folder through one pipeline, n variations of each.

    python examples/python/batch_job.py bundles/demo PICTURES -n 4 --out varied

The seed of a picture follows from its bytes, so a picture gets the same variations in every run, wherever
it lies in the folder. A picture that is done is left alone, so a stopped job goes on; one that cannot be
decoded is named, and the job ends with status 1 after the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path

from icgan_runtime import Pipeline
from icgan_runtime.errors import DecodeError
from icgan_runtime.files import atomic_directory

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def main() -> int:
    options = parse()
    pictures = [path for path in sorted(options.pictures.rglob("*")) if path.suffix.lower() in SUFFIXES]
    failed = 0
    with Pipeline.load(options.bundle) as pipe:
        for number, path in enumerate(pictures, 1):
            out = options.out / path.relative_to(options.pictures)
            if out.exists():
                continue
            try:
                vary(pipe, path, out, options.n)
            except DecodeError as error:
                failed += 1
                print(f"{path}: {error}", file=sys.stderr)
            else:
                print(f"{number}/{len(pictures)} {path}")
    return 1 if failed else 0


def vary(pipe: Pipeline, path: Path, out: Path, n: int) -> None:
    """Write the folder `out` of one picture, 00000.png ... and about.json: whole or not at all."""
    seed = zlib.crc32(path.read_bytes())
    result = pipe.generate(path, n=n, seed=seed, truncation=0.7)
    with atomic_directory(out) as folder:
        result.save(folder)
        about = {
            "seed": seed,
            "neighbours": result.neighbours.ids.tolist(),
            "scores": [round(float(score), 4) for score in result.neighbours.scores],
        }
        (folder / "about.json").write_text(json.dumps(about) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("pictures", type=Path, help="folder, searched with its sub-folders")
    parser.add_argument("-n", type=int, default=4, help="variations of each (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("varied"), help="folder to write (default: varied)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
