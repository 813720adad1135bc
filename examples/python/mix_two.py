"""From one picture to another: embeddings between theirs, drawn from the same noise.

    python examples/python/mix_two.py bundles/demo a.jpg b.jpg --steps 7 --out mix.png

Embeddings have length 1, so the way between two of them is an arc of a circle, not a straight line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from icgan_runtime import Pipeline
from icgan_runtime.marks.mark import Mark
from icgan_runtime.sheets import write_picture


def arc(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
    """Unit vectors float32 [steps, D] from `a` to `b` (both [D], unit length) along the shortest arc."""
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if angle < 1e-4:  # one picture twice: there is no way to go
        return np.repeat(a[None], steps, 0)
    t = np.linspace(0, 1, steps)[:, None]
    points = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return points.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--steps", type=int, default=7, help="columns (default: 7)")
    parser.add_argument("--seeds", type=int, default=3, help="rows (default: 3)")
    parser.add_argument("--out", default="mix.png", help="sheet to write (default: mix.png)")
    options = parser.parse_args()
    with Pipeline.load(options.bundle) as pipe:
        a, b = pipe.embed([options.a, options.b])
        way = arc(a, b, options.steps)
        rows = [
            np.hstack([pipe.generate_from(embedding=e, seed=seed, truncation=0.7).images[0] for e in way])
            for seed in range(options.seeds)
        ]
    # says that it is generated, and no more: a claim names one picture that was followed
    write_picture(Path(options.out), np.vstack(rows), "out", Mark(None))
    print(f"wrote {options.out}: {options.seeds} seeds, {options.steps} steps")


if __name__ == "__main__":
    main()
