"""Which class each variant gets: by a rule, or out of a file with one label for each instance."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files, latents
from icgan_runtime.bundle import arrays
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.rows import OWN_LABEL

I64 = NDArray[np.int64]

# own: the label of the instance in the bank that is followed; source: the label that the data set gives;
# random: any class, drawn by seed and sample; cycle: sample j gets class j modulo their number.
RULES = ("own", "source", "random", "cycle")
NO_LABEL = -1  # where nothing is known of an instance
_DRAW_COUNTER = 1 << 193  # the most significant counter word is 2: blocks that noise and ranks never reach
_MAX_FILE_BYTES = 8 << 30


@dataclass(frozen=True, eq=False)
class Labels:
    """A rule for labels, in a model with so many classes (0: labels are handed on, not drawn with)."""

    rule: str  # one of RULES, a number, or "file"
    classes: int
    by_row: I64 | None = None  # [instances], of a file
    by_id: dict[str, int] | None = None
    name: str = ""  # as a recipe names it

    def asked(self, rows: I64, ids: list[str], known: I64 | None, seeds: I64, samples: I64) -> I64 | None:
        """What the generator is asked for [N], OWN_LABEL included; None for a model without classes."""
        if not self.classes:
            return None
        count = len(rows)
        if self.rule == "own":
            return np.full(count, OWN_LABEL, np.int64)
        if self.rule == "random":
            words = latents.philox_words(seeds, samples, 1, _DRAW_COUNTER)[:, 0]
            # integers throughout: 32 bits times fewer than 2³² classes fits in 64
            return (((words >> np.uint64(32)) * np.uint64(self.classes)) >> np.uint64(32)).astype(np.int64)
        if self.rule == "cycle":
            return samples % self.classes
        if self.rule.isdigit():
            return np.full(count, int(self.rule), np.int64)
        found = self.known(rows, ids, known)
        if found is None:
            raise RequestError("label", f"{self.rule}: this source has no labels; take another rule")
        bad = (found < 0) | (found >= self.classes)
        if bad.any():
            at = int(bad.argmax())
            raise RequestError("label", f"{found[at]} of {ids[at]!r}, expected 0..{self.classes - 1}")
        return found

    def known(self, rows: I64, ids: list[str], source: I64 | None) -> I64 | None:
        """What file or source say of the instances [N], NO_LABEL where they say nothing."""
        if self.by_row is not None:
            return np.array(self.by_row[rows])
        if self.by_id is not None:
            return np.array([self.by_id.get(one, NO_LABEL) for one in ids], np.int64)
        return source


def open_labels(wanted: str, classes: int, instances: int) -> Labels:
    """The rule or file that --label names. Raises RequestError."""
    path = Path(wanted)
    if path.suffix in (".npy", ".csv"):
        return _of_file(path, classes, instances)
    if wanted.isdecimal():
        if int(wanted) >= classes:
            given = f"0..{classes - 1}" if classes else "none: this model has no labels"
            raise RequestError("label", f"{wanted}, expected {given}")
        return Labels(str(int(wanted)), classes, name=str(int(wanted)))
    if wanted not in RULES:
        raise RequestError(
            "label", f"{wanted!r}, expected {', '.join(RULES)}, a class, or a .npy or .csv file"
        )
    if not classes and wanted in ("random", "cycle"):
        raise RequestError("label", f"{wanted}: this model has no labels to draw with")
    return Labels(wanted, classes, name=wanted)


def _of_file(path: Path, classes: int, instances: int) -> Labels:
    try:
        data = files.read_bounded(path, _MAX_FILE_BYTES, str(path))
        name = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if path.suffix == ".npy":
            held = arrays.require(
                arrays.read_npy(data, str(path)), str(path), "int64", (instances,), "the source"
            )
            return Labels("file", classes, by_row=held, name=name)
        lines = csv.reader(data.decode("utf-8-sig").splitlines())
        by_id = {line[0]: int(line[1]) for line in lines if line}
    except BundleError as error:
        raise RequestError("label", str(error)) from None
    except (ValueError, IndexError, csv.Error) as error:
        raise RequestError("label", f"{path}: expected lines of the form id,label ({error})") from None
    return Labels("file", classes, by_id=by_id, name=name)
