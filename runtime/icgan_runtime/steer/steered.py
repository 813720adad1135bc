"""What steering gives: pictures, how they were scored, and what draws each of them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import sheets
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import MAX_BYTES, SINGLE, Claim, Latent, Sheet, Source, check_detail
from icgan_runtime.marks.mark import Mark
from icgan_runtime.request import Request

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Steered:
    """Pictures that were looked for, best first, or along a path.

    Those of `rank` are samples of the request's seed, as `generate` draws them. The others have noise that
    no seed gives: it is in `noise`, and `weights` say of which mixture of the pictures they are.
    """

    images: U8  # [n, R, R, 3]
    scores: F64 | None  # [n], higher is better; None for a path
    embeddings: F32  # [M, D], of the pictures that are followed
    request: Request  # the seed that draws or searches; truncation, condition and label of all
    samples: I64 | None = None  # [n], numbers in the seed
    noise: F32 | None = None  # [n, dim_z]
    weights: F32 | None = None  # [n, M], of the embeddings
    history: tuple[tuple[float, ...], ...] = ()  # [n][iterations], the best score so far of each search
    source: Source | None = None

    def __repr__(self) -> str:
        n, height, width, _ = self.images.shape
        scores = "" if self.scores is None else f", scores {self.scores.max():.4g} to {self.scores.min():.4g}"
        return f"Steered({n} images of {width} × {height}, seed {self.request.seed}{scores})"

    def sheet(self, columns: int | None = None) -> U8:
        """The images side by side on white, as `Result.sheet`."""
        return sheets.grid(self.images, columns)

    def pil(self) -> list[Image.Image]:
        """The images as PIL images."""
        return [Image.fromarray(image) for image in self.images]

    def save(
        self,
        path: str | Path,
        mark: bool = True,
        sign_key: str | Path | None = None,
        embedding: str = "none",
    ) -> list[Path]:
        """Write the images as `Result.save` does: one file, or a folder of a PNG file per image.

        The files of a folder are named by the number in the seed where there is one, else by the place in
        `images`. Their mark says what draws them again: seed and sample, or noise and weights.
        """

        def marked(some: range, sheet: Sheet) -> Mark | None:
            return Mark(self.claim(some, sheet, embedding), sign_key) if mark else None

        numbers = range(len(self.images)) if self.samples is None else self.samples.tolist()
        return sheets.write_pictures(path, self.images, numbers, marked)

    def animate(
        self,
        path: str | Path,
        frame_ms: int = 80,
        mark: bool = True,
        sign_key: str | Path | None = None,
        embedding: str = "none",
    ) -> Path:
        """Write the images as an animated WebP file, each shown for `frame_ms` milliseconds.

        The mark is that of the first image, which is what programs see that know no animation. Raises
        RequestError for another ending than .webp, and where nothing can be written.
        """
        wanted = Mark(self.claim(range(1), SINGLE, embedding), sign_key) if mark else None
        sheets.write_animation(Path(path), self.images, frame_ms, "path", wanted)
        return Path(path)

    def claim(self, some: Sequence[int], sheet: Sheet, embedding: str = "none") -> Claim | None:
        """What a file with some of the images says of its origin; None if that is not known.

        None, too, for a sheet of so many that their noise is more than a claim holds. Raises RequestError for
        an `embedding` that is none of "none", "hash" and "whole", or of a mixture.
        """
        check_detail(embedding)
        if embedding != "none" and len(self.embeddings) > 1:
            raise RequestError("embedding", f"{embedding!r}, but several pictures are followed; use 'none'")
        if self.source is None:
            return None
        rows = list(some)
        samples = None if self.samples is None else tuple(self.samples[rows].tolist())
        consecutive = samples is not None and samples == tuple(range(samples[0], samples[0] + len(rows)))
        claim = self.request.claim(
            self.source,
            0 if samples is None else samples[0],
            len(rows),
            sheet,
            self.embeddings[0],
            embedding,
            samples=None if consecutive else samples,
            latents=self._latents(rows),
        )
        return claim if len(claim.to_text()) <= MAX_BYTES else None

    def _latents(self, rows: list[int]) -> tuple[Latent, ...] | None:
        if self.noise is None or self.weights is None:
            return None
        return tuple(Latent(_short(self.noise[row]), _short(self.weights[row])) for row in rows)


def _short(values: F32) -> tuple[float, ...]:
    """Numbers with as few digits as say which float32 each is."""
    return tuple(float(str(value)) for value in values)
