"""The pictures of docs/origin.md, one for each layer.

python -m benchmarks.origin_pictures bundles/demo bundles/demo-marked --out docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.origin import edited
from icgan_runtime import Pipeline, files, images, sheets
from icgan_runtime.marks.claim import SINGLE
from icgan_runtime.marks.mark import Mark

U8 = NDArray[np.uint8]
ROWS, SEED = (3, 60, 150, 320), 7


def drawings(bundle: Path) -> U8:
    """An image of each instance [4, R, R, 3]."""
    with Pipeline.load(bundle) as pipe:
        embeddings = pipe.bank.embeddings
        return np.stack([pipe.generate_from(embeddings[row], seed=SEED).images[0] for row in ROWS])


def stronger(first: U8, second: U8, factor: int) -> U8:
    """Their difference around grey, so many times as strong."""
    difference = factor * (second.astype(int) - first)
    return np.clip(128 + difference, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plain", type=Path, metavar="UNMARKED", help="bundle")
    parser.add_argument("marked", type=Path, metavar="MARKED", help="bundle of the same run, marked")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plain, marked = drawings(options.plain), drawings(options.marked)
    shown = np.stack([edited(image, "JPEG 75") for image in plain])
    with Pipeline.load(options.plain) as pipe:
        result = pipe.generate_from(pipe.bank.embeddings[ROWS[0]], seed=SEED)
        # carries its claim: icgan prove docs/images/origin-mark.png --bundle bundles/demo --bank
        data = Mark(result.claim(0, 1, SINGLE)).encode(result.images[0], "PNG")
    files.write_whole(options.out / "origin-mark.png", data, "out")
    for name, rows in (
        ("origin-key", (plain, marked, stronger(plain, marked, 8))),
        ("origin-proof", (shown, plain, stronger(plain, shown, 4))),
    ):
        sheet = sheets.grid(np.concatenate(rows), columns=len(ROWS), gap=2)
        files.write_whole(options.out / f"{name}.png", images.encode(sheet), "out")


if __name__ == "__main__":
    main()
