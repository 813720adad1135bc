"""What is asked of a pipeline and what comes back, the same in-process and over the wire."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import images, sheets
from icgan_runtime.errors import RequestError
from icgan_runtime.latents import MAX_SEED, UNTRUNCATED
from icgan_runtime.marks.claim import VERSION, Claim, Sheet, Source, check_detail, embedding_hash
from icgan_runtime.marks.mark import Mark
from icgan_runtime.rows import CONDITIONS, OWN_LABEL, Rows, check_embedding

MAX_SAMPLES = 10_000


@dataclass(frozen=True)
class Request:
    """How to generate: validated by `make_request`, every default resolved but the label's."""

    n: int
    seed: int  # 0 .. 2⁶³ − 1
    truncation: float  # exactly a float32 in (0, 1], or infinity for untruncated
    condition: str  # of rows.CONDITIONS
    label: int  # rows.OWN_LABEL, or 0 .. classes − 1
    first: int = 0  # number of the first sample: images first .. first + n − 1 of the seed

    def rows(self, samples: range, classes: int) -> Rows:
        """The rows of some of this request's samples, `samples` within range(n)."""
        count = len(samples)
        return Rows(
            seed=np.full(count, self.seed, np.int64),
            sample=self.first + np.array(samples, np.int64),
            truncation=np.full(count, self.truncation, np.float32),
            condition=np.full(count, CONDITIONS.index(self.condition), np.int32),
            label=np.full(count, self.label, np.int64) if classes else None,
        )

    def claim(
        self,
        source: Source,
        first: int,
        n: int,
        sheet: Sheet,
        embedding: NDArray[np.float32] | None = None,
        detail: str = "none",
        **more: Any,
    ) -> Claim:
        """What a file with samples first .. first + n − 1 says of its origin; `more`: Claim's last fields.

        `detail`, one of claim.EMBEDDING: how much of the embedding [D] that was followed.
        """
        followed = None if detail == "none" else embedding
        return Claim(
            version=VERSION,
            source=source,
            seed=self.seed,
            first=first,
            n=n,
            truncation=None if math.isinf(self.truncation) else self.truncation,
            condition=self.condition,
            label=None if self.label == OWN_LABEL else self.label,
            sheet=sheet,
            embedding_sha256=None if followed is None else embedding_hash(followed),
            embedding=tuple(map(float, followed)) if followed is not None and detail == "whole" else None,
            **more,
        )


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The stored instances nearest to the query, best first."""

    ids: NDArray[np.int64]  # [k]
    scores: NDArray[np.float32]  # [k], inner products of unit vectors
    labels: NDArray[np.int64] | None  # [k], where the bank has them
    names: tuple[str, ...] | None = None  # [k], the files they came from, where the bank says
    classes: tuple[str, ...] | None = None  # [k], what the labels are called; "" for one without a name
    # 99 % of the stored instances have another at least this near; None where nobody says
    outside_below: float | None = None
    bank_state: str | None = None  # of the bank in which they were found; None where nobody says

    @property
    def outside(self) -> bool:
        """Whether the query is less like any instance than 99 % of them are like another."""
        return self.outside_below is not None and bool(self.scores[0] < self.outside_below)

    def title(self, place: int) -> str:
        """What people call the instance at `place`: its file, else its class and id."""
        if self.names is not None and self.names[place]:
            return self.names[place]
        called = f"{self.classes[place]} " if self.classes is not None and self.classes[place] else ""
        return f"{called}no. {self.ids[place]}"

    def __repr__(self) -> str:
        outside = ", outside what is stored" if self.outside else ""
        return f"Neighbours({len(self.ids)}, nearest {self.title(0)} ({self.scores[0]:.3f}){outside})"


@dataclass(frozen=True, eq=False)
class Result:
    """Generated images and where they come from."""

    images: NDArray[np.uint8]  # [n, R, R, 3]
    neighbours: Neighbours
    embedding: NDArray[np.float32]  # [D], of the query
    request: Request
    source: Source | None = None

    @property
    def bank_state(self) -> str | None:
        """The state of the bank that this was drawn with; `Pipeline.load(..., state=...)` goes back to it."""
        return self.neighbours.bank_state

    @property
    def outside(self) -> bool:
        """Whether the picture is less like any stored instance than 99 % of those are like another.

        The model has not learnt such pictures, and draws what it knows instead.
        """
        return self.neighbours.outside

    def __repr__(self) -> str:
        n, height, width, _ = self.images.shape
        near = f"nearest {self.neighbours.title(0)} ({self.neighbours.scores[0]:.3f})"
        outside = ", outside what is stored" if self.outside else ""
        return f"Result({n} images of {width} × {height}, seed {self.request.seed}, {near}{outside})"

    def sheet(self, columns: int | None = None) -> NDArray[np.uint8]:
        """The images side by side on white, uint8 [H, W, 3]: as square as can be, or in rows of `columns`."""
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
        """Write the images, and return the files written; each is there whole or not at all.

        A name ending in .png, .jpg, .jpeg or .webp is one file: the image itself, or the sheet of several.
        Any other name is a folder, made if need be, of one PNG file per image, named by its number in the
        seed: 00000.png. Raises RequestError where that is not possible.

        Files say that they are generated, and by what (docs/origin.md): signed with the key and certificates
        in the PEM file `sign_key` (default: that of ICGAN_SIGN_KEY), without one as unsigned metadata. With
        `mark=False` they say nothing, and whoever must mark them has to do it otherwise. `embedding`: what
        they say of the query, "none", "hash" or "whole"; an embedding can reveal the picture it is of.
        """

        first = self.request.first

        def marked(some: range, sheet: Sheet) -> Mark | None:
            return Mark(self.claim(first + some[0], len(some), sheet, embedding), sign_key) if mark else None

        numbers = range(first, first + len(self.images))
        return sheets.write_pictures(path, self.images, numbers, marked)

    def encode(
        self,
        kind: str = "PNG",
        mark: bool = True,
        sign_key: str | Path | None = None,
        embedding: str = "none",
    ) -> bytes:
        """The image itself, or the sheet of several, as a file, which is what a service answers.

        `kind`: "PNG", "JPEG" or "WEBP"; RequestError for another. The file carries the mark that `save`
        describes.
        """
        if kind not in sheets.FORMATS.values():
            raise RequestError("kind", f"{kind!r}, expected PNG, JPEG or WEBP")
        if not mark:
            return images.encode(self.sheet(), kind)
        count = len(self.images)
        claim = self.claim(self.request.first, count, sheets.layout(count), embedding)
        return Mark(claim, sign_key).encode(self.sheet(), kind)

    def claim(self, first: int, n: int, sheet: Sheet, embedding: str = "none") -> Claim | None:
        """What a file with samples first .. first + n − 1 says of its origin; None if that is not known.

        Raises RequestError for an `embedding` that is none of "none", "hash" and "whole".
        """
        check_detail(embedding)
        if self.source is None:
            return None
        return self.request.claim(self.source, first, n, sheet, self.embedding, embedding)


def make_request(
    n: object,
    seed: object,
    truncation: object,
    condition: object,
    label: object,
    classes: int,
    first: object = 0,
) -> Request:
    """Check a caller's arguments. Raises RequestError naming the first that is out of range."""
    whole_n = whole("n", n)
    if not 1 <= whole_n <= MAX_SAMPLES:
        raise RequestError("n", f"{whole_n}, expected 1..{MAX_SAMPLES} images")
    whole_seed = whole("seed", seed)
    if not 0 <= whole_seed <= MAX_SEED:
        raise RequestError("seed", f"{whole_seed}, expected 0..2^63-1")
    if condition not in CONDITIONS:
        raise RequestError("condition", f"{condition!r}, expected one of {', '.join(CONDITIONS)}")
    whole_first = whole("first", first)
    if not 0 <= whole_first <= MAX_SEED - MAX_SAMPLES:
        raise RequestError("first", f"{whole_first}, expected 0..2^63-{MAX_SAMPLES + 1}")
    return Request(
        whole_n,
        whole_seed,
        check_truncation(truncation),
        str(condition),
        check_label(label, classes),
        whole_first,
    )


def pages(n: object, batch: object) -> Iterator[range]:
    """The samples 0 .. n − 1 in runs of `batch`, for answers that are too many to hold at once."""
    whole_n, whole_batch = whole("n", n), whole("batch", batch)
    if whole_n < 1:
        raise RequestError("n", f"{whole_n}, expected at least 1 image")
    if not 1 <= whole_batch <= MAX_SAMPLES:
        raise RequestError("batch", f"{whole_batch}, expected 1..{MAX_SAMPLES} images")
    return (range(start, min(start + whole_batch, whole_n)) for start in range(0, whole_n, whole_batch))


def check_truncation(truncation: object) -> float:
    """`truncation` rounded to float32, as the noise contract wants it; None is infinity."""
    if truncation is None:
        return UNTRUNCATED
    try:
        with np.errstate(over="ignore"):  # what is too large for a float32 is refused below
            value = float(np.float32(truncation))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 < value <= 1:
        raise RequestError("truncation", f"{truncation!r}, expected a number in (0, 1]")
    return value


def check_label(label: object, classes: int) -> int:
    """`label` as an integer; None asks for the label of the instance itself."""
    if label is None:
        return OWN_LABEL
    if classes == 0:
        raise RequestError("label", f"{label!r}, but this model has no labels; leave it out")
    number = whole("label", label)
    if not 0 <= number < classes:
        raise RequestError("label", f"{number}, expected 0..{classes - 1}")
    return number


def embedding_rows(embedding: Any, width: int) -> NDArray[np.float32]:
    """`embedding` [D] or [N, D] as unit float32 rows [N, D]. Raises RequestError."""
    array = np.asarray(embedding)
    if array.dtype.kind != "f" or array.ndim not in (1, 2) or array.shape[-1] != width or array.size == 0:
        raise RequestError(
            "embedding", f"{array.dtype}{list(array.shape)}, expected float32[{width}] or float32[N, {width}]"
        )
    rows = np.ascontiguousarray(array, np.float32).reshape(-1, width)
    check_embedding(rows)
    return rows


def whole(field: str, value: object) -> int:
    """`value` as an integer; RequestError for what is none."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise RequestError(field, f"{value!r}, expected a whole number") from None
