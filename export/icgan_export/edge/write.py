"""A folder for each edge runtime: its files, their hashes, what was compared, and how to start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_export.edge.parts import Part, parts_of
from icgan_export.edge.target import EdgeTarget, find_target, in_rows
from icgan_export.errors import ExportError
from icgan_export.lower.onnx_export import Step
from icgan_runtime import files
from icgan_runtime.bundle.manifest import describe_files
from icgan_runtime.bundle.opened import Bundle

MANIFEST_NAME = "edge.json"
# What each output may differ by from torch in float32: numbers, or grey levels where pictures are bytes.
MAX_ERROR = 1e-4
MAX_LEVELS = 1.0
LEAST_FOUND = 1.0  # share of the queries whose nearest instance is the same


@dataclass(frozen=True)
class Outcome:
    """One graph on one runtime: its files, and the measure that was compared with its bound."""

    role: str
    files: tuple[str, ...]
    measure: str
    value: float
    bound: float
    passed: bool


def write_edge(
    bundle_path: Path, out: Path, targets: Sequence[str], run: Path | None, step: Step
) -> dict[str, str]:
    """Convert, run and compare for every target, and write `out`; returns target -> why it is missing.

    A target whose converter fails or whose pictures differ is left out; the others are written.
    """
    bundle = Bundle.open(bundle_path)
    found = [
        find_target(name) for name in targets
    ]  # libraries that are not installed are named before any work
    missing: dict[str, str] = {}
    with files.atomic_directory(out) as folder:
        written: dict[str, dict[str, Any]] = {}
        for target in found:
            place = folder / target.name
            place.mkdir()
            try:
                outcomes = convert(bundle, target, run, place, step)
            except ExportError as error:
                missing[target.name] = str(error)
                step(f"{target.name} is left out: {error}")
                for path in place.iterdir():
                    path.unlink()
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


def convert(bundle: Bundle, target: EdgeTarget, run: Path | None, place: Path, step: Step) -> list[Outcome]:
    """Every graph in the format of `target`, compared there. Raises ExportError for a missed bound."""
    outcomes = []
    for part in parts_of(bundle, target, run, step):
        step(f"{target.name}: converting the {part.role}")
        made = target.convert(part.graph, place / part.role)
        answers = in_rows(target.open(made), part.feeds, target.batch)[part.output]
        outcome = compare(part, answers, tuple(path.name for path in made))
        step(f"{target.name}: {part.role}, {outcome.measure} {outcome.value:.3g}")
        if not outcome.passed:
            found = f"{outcome.measure} is {outcome.value:.3g}, allowed {outcome.bound:g}"
            raise ExportError(f"{target.name}: {part.role}, {found}")
        outcomes.append(outcome)
    return outcomes


def compare(part: Part, answers: NDArray[Any], names: tuple[str, ...]) -> Outcome:
    """Answers of a runtime beside torch's."""
    if part.role == "lookup":
        same = float(np.mean(answers[:, 0] == part.expected[:, 0]))
        return Outcome(part.role, names, "nearest instance alike", same, LEAST_FOUND, same >= LEAST_FOUND)
    apart = float(np.abs(answers.astype(np.float64) - part.expected.astype(np.float64)).max())
    if part.expected.dtype == np.uint8:
        return Outcome(part.role, names, "grey levels apart", apart, MAX_LEVELS, apart <= MAX_LEVELS)
    return Outcome(part.role, names, "max error", apart, MAX_ERROR, apart <= MAX_ERROR)


def page(bundle: Bundle, target: EdgeTarget, outcomes: Sequence[Outcome]) -> str:
    """Markdown beside the files of one target: what was compared, and a program that runs as it stands."""
    model = bundle.manifest.model
    lines = [
        f"# {model.name} for {target.name}",
        "",
        f"Converted and run with {target.version}. Differences are from torch on the pinned samples.",
        "",
        "| graph | files | measure | value | bound |",
        "|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        held = ", ".join(f"`{name}`" for name in outcome.files)
        values = f"{outcome.value:.3g} | {outcome.bound:g}"
        lines.append(f"| {outcome.role} | {held} | {outcome.measure} | {values} |")
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
