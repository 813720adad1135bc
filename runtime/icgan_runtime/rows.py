"""The rows of a request: what is asked of each generated image besides the instance it follows.

A server's stages and the in-process chain check and use rows through these functions, so both answer alike
and complain alike. Rows are independent: rows of different requests can share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import latents
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.errors import RequestError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# What the generator sees: the picture's own embedding, its nearest instance's, or that of one drawn from the
# k nearest. The position in this tuple is the number on the wire.
CONDITIONS = ("query", "nearest", "sample")
# "The label of the instance itself" (for "query": of the nearest). Far from every label and every slip: a
# client that sends -1 gets an error.
OWN_LABEL = -(1 << 63)

# Of an ensemble's parameters: there an empty IMAGE shows what the row before it does.
REPEATS = "empty_image_repeats"

# And there a row whose EMBEDDING is all zeros follows an instance that seed and sample draw from the prior.
PRIOR = "zero_embedding_draws_instance"
FOLLOWED = "FOLLOWED"  # the output that says which

# A row on its way from the stage that knows its picture to the one that conditions.
_RECORD = np.dtype(
    [
        ("place", "<i8"),  # in the answer
        ("seed", "<i8"),
        ("sample", "<i8"),
        ("label", "<i8"),  # OWN_LABEL for a model without labels
        ("truncation", "<f4"),
        ("condition", "<i4"),
    ]
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays of shape [N], one entry per generated image."""

    seed: I64
    sample: I64  # j of the noise contract
    truncation: F32  # in (0, 1], or infinity: untruncated
    condition: NDArray[np.int32]  # position in CONDITIONS
    label: I64 | None  # OWN_LABEL or 0 .. classes − 1; None for a model without labels

    @property
    def need_neighbours(self) -> bool:
        """Whether what is stored decides anything: an instance to follow, or a label to take."""
        own = self.label is not None and bool((self.label == OWN_LABEL).any())
        return own or bool(self.condition.any())

    def part(self, some: slice) -> Rows:
        """Some of the rows."""
        label = None if self.label is None else self.label[some]
        return Rows(self.seed[some], self.sample[some], self.truncation[some], self.condition[some], label)

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several requests in one, in their order."""
        if len(parts) == 1:
            return parts[0]
        label = None if parts[0].label is None else np.concatenate([part.label for part in parts])
        return cls(
            np.concatenate([part.seed for part in parts]),
            np.concatenate([part.sample for part in parts]),
            np.concatenate([part.truncation for part in parts]),
            np.concatenate([part.condition for part in parts]),
            label,
        )

    def pack(self, picture: I64, pictures: int) -> list[bytes]:
        """For each of `pictures` the records of the rows that show it, given which one each row shows [N]."""
        records = np.empty(len(self.seed), _RECORD)
        records["place"] = np.arange(len(records))
        for name in ("seed", "sample", "truncation", "condition"):
            records[name] = getattr(self, name)
        records["label"] = OWN_LABEL if self.label is None else self.label
        if pictures == 1:
            return [records.tobytes()]
        order = np.argsort(picture, kind="stable")
        ends = np.cumsum(np.bincount(picture, minlength=pictures))[:-1]
        return [part.tobytes() for part in np.split(records[order], ends)]

    @classmethod
    def unpack(cls, packed: Sequence[bytes], labelled: bool) -> tuple[Rows, I64]:
        """What `pack` was given: the rows, and which picture each shows. Raises RequestError."""
        try:
            parts = [np.frombuffer(part, _RECORD) for part in packed]
        except (ValueError, TypeError):
            raise RequestError("rows", f"not records of {_RECORD.itemsize} bytes") from None
        if len(parts) == 1:
            records, picture = parts[0], np.zeros(len(parts[0]), np.int64)
        else:
            records = np.concatenate(parts)
            picture = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        places = list(range(len(records)))
        if records["place"].tolist() != places:
            order = np.argsort(records["place"], kind="stable")
            records, picture = records[order], picture[order]
            if records["place"].tolist() != places:
                raise RequestError("rows", "not each place of the answer once")
        fields = {name: np.ascontiguousarray(records[name]) for name in ("seed", "sample", "truncation")}
        condition, label = (np.ascontiguousarray(records[name]) for name in ("condition", "label"))
        return cls(**fields, condition=condition, label=label if labelled else None), picture

    def check(self, classes: int) -> None:
        """Raise RequestError naming the first field with a value out of its range."""
        _check("seed", self.seed, lambda seed: seed >= 0, "0..2^63-1")
        _check("sample", self.sample, lambda sample: sample >= 0, "0..2^63-1")
        _check(
            "truncation",
            self.truncation,
            lambda bound: 0 < bound <= 1 or bound == math.inf,
            "more than 0 and at most 1, or infinity for none",
        )
        names = ", ".join(f"{number} ({name})" for number, name in enumerate(CONDITIONS))
        _check("condition", self.condition, lambda number: 0 <= number < len(CONDITIONS), names)
        if self.label is not None:
            expected = f"0..{classes - 1}, or {OWN_LABEL} for the instance's own"
            _check("label", self.label, lambda label: 0 <= label < classes or label == OWN_LABEL, expected)

    def noise(self, model: Model) -> F32:
        """The generator's noise [N, dim_z], bounded where that is what truncation means to the model."""
        bound = self.truncation if model.truncation == "noise" else latents.UNTRUNCATED
        return latents.noise(self.seed, self.sample, bound, model.dim_z)

    def conditioning(self, embedding: F32, ids: I64, bank: Bank) -> F32:
        """The embedding [N, D] each row is generated from, given its own and its neighbours' ids [N, k]."""
        stored = self.condition != CONDITIONS.index("query")
        if not stored.any():
            return embedding
        result = embedding.copy()
        result[stored] = bank.embeddings[bank.rows(self._instances(ids)[stored])]
        return result

    def labels(self, ids: I64, bank: Bank) -> I64:
        """The label [N] of each row, OWN_LABEL resolved. Only for models with labels."""
        assert self.label is not None
        self.check_labels(bank)
        own = self.label == OWN_LABEL
        if not own.any():
            return self.label
        assert bank.labels is not None
        result = self.label.copy()
        result[own] = bank.labels[bank.rows(self._instances(ids)[own])]
        return result

    def check_labels(self, bank: Bank) -> None:
        """Raise RequestError where a row wants a label of the bank that stores none."""
        if self.label is not None and bank.labels is None and bool((self.label == OWN_LABEL).any()):
            raise RequestError("label", "must be given: this bank stores none to take it from")

    def _instances(self, ids: I64) -> I64:
        """The id [N] of the instance behind each row: drawn for "sample", the nearest otherwise."""
        instances: I64 = ids[np.arange(len(ids)), self.ranks(ids.shape[1])]
        return instances

    def ranks(self, k: int) -> I64:
        """Which of the k nearest [N] is behind each row, 0 the nearest."""
        ranks = np.zeros(len(self.seed), np.int64)
        drawn = self.condition == CONDITIONS.index("sample")
        if drawn.any():
            ranks[drawn] = latents.draw_ranks(self.seed[drawn], self.sample[drawn], k)
        return ranks


@dataclass(frozen=True, eq=False)
class Latents:
    """What the generator itself takes, an entry per image: for images whose noise no seed gives."""

    noise: F32  # [N, dim_z]
    embedding: F32  # [N, D], unit rows
    label: I64 | None  # [N], 0 .. classes − 1; None for a model without labels
    truncation: F32  # [N], which models read whose noise is not bounded by it

    def part(self, some: slice) -> Latents:
        """Some of the rows."""
        label = None if self.label is None else self.label[some]
        return Latents(self.noise[some], self.embedding[some], label, self.truncation[some])

    def feeds(self, model: Model) -> dict[str, NDArray[Any]]:
        """The inputs of the generator's graph."""
        feeds: dict[str, NDArray[Any]] = {"noise": self.noise, "embedding": self.embedding}
        if self.label is not None:
            feeds["label"] = self.label
        if model.truncation == "mean-w":
            feeds["truncation"] = self.truncation
        return feeds


def check_embedding(embedding: F32) -> None:
    """Raise RequestError unless [N, D] holds unit rows (so no NaN, no infinity)."""
    with np.errstate(over="ignore"):  # infinity is refused too
        norms = np.linalg.norm(embedding, axis=1)
    good = np.abs(norms - 1) <= 1e-2
    if not good.all():
        raise RequestError("embedding", f"{norms[~good][0]}, expected rows of length 1")


def _check(field: str, values: NDArray[Any], is_good: Callable[[Any], bool], expected: str) -> None:
    """By Python's numbers, one after the other: of a few rows arrays take far longer."""
    for row, value in enumerate(values.tolist()):
        if not is_good(value):
            raise RequestError(field, f"{values[row]}, expected {expected}")
