"""A folder for each edge runtime: its files, their hashes, what was compared, and how to start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_export.edge.parts import Part, parts_of
from icgan_export.edge.target import PRECISIONS, EdgeTarget, find_target, in_rows
from icgan_export.errors import ExportError
from icgan_export.lower.bounds import COSINE, MAX_ERROR, PSNR, RECALL, find_bound
from icgan_export.lower.compare import cosine, recall
from icgan_export.lower.index import nearest
from icgan_export.lower.onnx_export import Step
from icgan_runtime import files
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.verify import psnr, to_bytes

MANIFEST_NAME = "edge.json"
# What each output may differ by from torch in float32: numbers, or grey levels where pictures are bytes.
MAX_LEVELS = 1.0
NOT_RUN = "not run here"
LEAST_FOUND = 1.0  # share of the queries whose nearest instance is the same


@dataclass(frozen=True)
class Outcome:
    """One graph on one runtime: its files, and a measure that was compared with its bound."""

    role: str
    precision: str
    files: tuple[str, ...]
    measure: str
    value: float | None  # None: converted and inspected, not run
    bound: float | None
    passed: bool
    operators: Mapping[str, int] | None = None


def write_edge(
    bundle_path: Path,
    out: Path,
    targets: Sequence[str],
    run: Path | None,
    step: Step,
    precisions: Sequence[str] = ("fp32",),
) -> dict[str, str]:
    """Convert, run and compare for every target, and write `out`; returns what is missing -> why.

    What is not converted or differs too much is left out; the others are written. A target without float32 is
    left out whole.
    """
    bundle = Bundle.open(bundle_path)
    check_precisions(precisions)
    # libraries that are not installed are named before any work
    found = [find_target(name) for name in targets]
    missing: dict[str, str] = {}
    with files.atomic_directory(out) as folder:
        written: dict[str, dict[str, Any]] = {}
        for target in found:
            place = folder / target.name
            place.mkdir()
            outcomes: list[Outcome] = []
            for precision in sorted(precisions, key=PRECISIONS.index):
                try:
                    outcomes += convert(bundle, target, precision, run, place, step)
                except ExportError as error:
                    name = target.name if precision == "fp32" else f"{target.name}:{precision}"
                    missing[name] = str(error)
                    step(f"{name} is left out: {error}")
                    if precision == "fp32":
                        break
            kept = {name for outcome in outcomes for name in outcome.files}
            for path in place.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not outcomes:
                place.rmdir()
                continue
            (place / "README.md").write_text(page(bundle, target, outcomes), "utf-8")
            written[target.name] = {
                "runtime": target.version,
                "form": target.form,
                "left_behind": dict(target.left_behind or {}),
                "graphs": [asdict(outcome) for outcome in outcomes],
            }
        if not written:
            raise ExportError("; ".join(missing.values()))
        about = {
            "format": "icgan-edge",
            "schema_version": 1,
            "bundle": bundle.manifest.model.identity,
            "targets": written,
            "files": {name: asdict(entry) for name, entry in describe_files(folder).items()},
        }
        (folder / MANIFEST_NAME).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
    return missing


def check_precisions(precisions: Sequence[str]) -> None:
    """Refuse what no target has before any work is done."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ExportError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if "fp32" not in precisions:
        raise ExportError("--precision must include fp32: the lookup is float32")


def convert(
    bundle: Bundle, target: EdgeTarget, precision: str, run: Path | None, place: Path, step: Step
) -> list[Outcome]:
    """Every graph in the format of `target`, compared there. Raises ExportError for a missed bound."""
    if precision in (target.no_precision or {}):
        raise ExportError(f"{target.name}: {precision}, {(target.no_precision or {})[precision]}")
    outcomes = []
    for part in parts_of(bundle, target, precision, run, step):
        step(f"{target.name}: converting the {part.role}, {precision}")
        stem = place / (part.role if precision == "fp32" else f"{part.role}.{precision}")
        made = target.convert(part.graph, stem, precision)
        names = tuple(path.name for path in made)
        if target.open is None:
            assert target.inspect is not None
            counts = dict(target.inspect(made, part.graph))
            outcomes.append(Outcome(part.role, precision, names, NOT_RUN, None, None, True, counts))
            step(f"{target.name}: {part.role} at {precision}, {sum(counts.values())} operators, not run")
            continue
        answers = in_rows(target.open(made, 1), part.feeds, target.batch)[part.output]
        for outcome in compare(bundle, part, answers, names):
            said = f"{part.role} at {precision}, {outcome.measure} {outcome.value:.4g}"
            step(f"{target.name}: {said}")
            if not outcome.passed:
                raise ExportError(f"{target.name}: {said}, allowed {outcome.bound:g}")
            outcomes.append(outcome)
    return outcomes


def compare(bundle: Bundle, part: Part, answers: NDArray[Any], names: tuple[str, ...]) -> list[Outcome]:
    """Answers of a runtime beside torch's, each measure with its bound of `lower/bounds.py`."""

    def judged(measure: str, value: float, limit: float, at_least: bool) -> Outcome:
        passed = bool(value >= limit if at_least else value <= limit)  # False for NaN
        return Outcome(part.role, part.precision, names, measure, value, limit, passed)

    def bounded(measure: str, value: float) -> Outcome:
        bound = find_bound(part.role, part.precision, measure)
        assert bound is not None
        return judged(measure, value, bound.limit, bound.at_least)

    if part.role == "lookup":
        same = float(np.mean(answers[:, 0] == part.expected[:, 0]))
        return [judged("nearest instance alike", same, LEAST_FOUND, True)]
    if part.precision != "fp32" and part.role == "encoder":
        bank = Bank.of_bundle(bundle)
        (found, _), (right, _) = (
            nearest(bank.embeddings, bank.ids, rows.astype(np.float32), 1)
            for rows in (answers, part.expected)
        )
        return [
            bounded(COSINE, cosine(answers, part.expected)),
            bounded(RECALL, recall(found, right, 1)),
        ]
    if part.precision != "fp32":
        drawn, wanted = (
            picture if picture.dtype == np.uint8 else to_bytes(picture)
            for picture in (answers, part.expected)
        )
        return [bounded(PSNR, psnr(drawn, wanted))]
    apart = float(np.abs(answers.astype(np.float64) - part.expected.astype(np.float64)).max())
    if part.expected.dtype == np.uint8:
        return [judged("grey levels apart", apart, MAX_LEVELS, False)]
    return [bounded(MAX_ERROR, apart)]


def page(bundle: Bundle, target: EdgeTarget, outcomes: Sequence[Outcome]) -> str:
    """Markdown beside the files of one target: what was compared, and a program that runs as it stands."""
    model = bundle.manifest.model
    lines = [
        f"# {model.name} for {target.name}",
        "",
        f"Converted and run with {target.version}. Differences are from torch on the pinned samples."
        if target.open
        else f"Converted with {target.version}, its specification checked. Nobody has run it: compare its "
        "pictures with `samples.npz` of the bundle before you rely on it.",
        "",
        "| graph | precision | files | measure | value | bound |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        held = ", ".join(f"`{name}`" for name in outcome.files)
        values = " | " if outcome.value is None else f"{outcome.value:.4g} | {outcome.bound:g}"
        lines.append(f"| {outcome.role} | {outcome.precision} | {held} | {outcome.measure} | {values} |")
    for outcome in outcomes:
        if outcome.operators:
            counted = ", ".join(f"{count} {name}" for name, count in sorted(outcome.operators.items()))
            lines.append(f"\nOperators of the {outcome.role}, {outcome.precision}: {counted}.")
    lines += [f"\n{role} is left out: {reason}." for role, reason in (target.left_behind or {}).items()]
    shapes = [[1, model.dim_z], [1, model.embedding_dim]]
    generator = next(outcome for outcome in outcomes if outcome.role == "generator")
    program = target.snippet.format(
        generator=generator.files[0], inputs=["noise", "embedding"], shapes=shapes
    )
    if not model.classes:
        lines += ["", "A start in Python, in this folder:", "", "```python", program.rstrip(), "```"]
    lines += [
        "",
        "Noise that is the same in every language for one seed: the project's `docs/noise.md`.",
        f"Weights: {model.licence.weights}.",
        "",
    ]
    return "\n".join(lines)
