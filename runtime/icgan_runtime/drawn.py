"""Images of instances that no picture shows: each was drawn from the bundle's prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import sheets
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import SINGLE, Claim, Sheet, Source
from icgan_runtime.marks.mark import Mark
from icgan_runtime.request import Request

HOW = "export the bundle with `icgan-export bundle --prior`, or name a picture to follow"


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images, each of an instance of its own, and what they were drawn from.

    The same seed and sample are the same instance and image, alone or among others.
    """

    images: NDArray[np.uint8]  # [n, R, R, 3]
    embeddings: NDArray[np.float32]  # [n, D], unit rows
    labels: NDArray[np.int64] | None  # [n], None for a model without classes, and from a server
    request: Request
    source: Source | None = None

    def __repr__(self) -> str:
        n, height, width, _ = self.images.shape
        return f"Drawn({n} images of {width} × {height}, seed {self.request.seed}, each of its own instance)"

    def sheet(self, columns: int | None = None) -> NDArray[np.uint8]:
        """The images side by side on white, as `Result.sheet`."""
        return sheets.grid(self.images, columns)

    def pil(self) -> list[Image.Image]:
        """The images as PIL images."""
        return [Image.fromarray(image) for image in self.images]

    def save(self, path: str | Path, mark: bool = True, sign_key: str | Path | None = None) -> list[Path]:
        """Write the images as `Result.save` does: one file, or a folder of a PNG file per image.

        The mark says seed and sample, from which `icgan prove` draws instance and image again.
        """
        first = self.request.first

        def marked(some: range, sheet: Sheet) -> Mark | None:
            return Mark(self.claim(first + some[0], len(some), sheet), sign_key) if mark else None

        return sheets.write_pictures(path, self.images, range(first, first + len(self.images)), marked)

    def claim(self, first: int, n: int, sheet: Sheet = SINGLE) -> Claim | None:
        """What a file with samples first .. first + n − 1 says of its origin; None if that is not known."""
        if self.source is None:
            return None
        return self.request.claim(self.source, first, n, sheet, prior=True)


def no_prior(whose: str) -> RequestError:
    """What is said where nothing is given to follow and there is nothing to draw instances from."""
    return RequestError("picture", f"none given, and {whose} has no prior to draw instances from: {HOW}")
