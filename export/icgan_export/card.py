"""The README.md of a bundle: what the model is, what it may be used for, how it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icgan_export.check.verify import Report
from icgan_runtime.bundle import prose
from icgan_runtime.bundle.manifest import Manifest, Model
from icgan_runtime.prior import Prior
from icgan_training.networks.encoder import ONNX


def model_card(manifest: Manifest, report: Report, grid: str, prior: Prior | None = None) -> str:
    """Markdown."""
    model, bank = manifest.model, manifest.bank
    classes = f"{model.classes} classes" if model.classes else "No classes"
    towards_mean = model.truncation == "mean-w"
    truncation = "pulls towards the mean w (psi of StyleGAN)" if towards_mean else "bounds the noise"
    graphs = "\n".join(
        f"| {entry.role} | {entry.precision} | `{entry.file}` | {_mebibytes(manifest, entry.file)} |"
        for entry in manifest.graphs
    )
    return f"""# {model.name}

An instance-conditioned GAN (IC-GAN, Casanova et al. 2021) that draws {model.resolution} x {model.resolution}
pictures like a picture it is shown. {classes}; noise of {model.dim_z} numbers; embeddings of
{model.embedding_dim} numbers by {model.encoder.name}. Truncation {truncation}. Version {model.version}.

![pictures on the left, samples drawn from them on the right]({grid})

    icgan generate THIS_FOLDER photo.jpg -n 16 --out grid.png{_alone(prior)}
    icgan info --verify THIS_FOLDER

## Licence

Weights: {model.licence.weights}. {model.licence.notice}
Pictures in the bank ({bank.source or "unnamed source"}): {bank.licence or "unstated"}.

## Contents

| graph | precision | file | MiB |
|---|---|---|---|
{graphs}

The bank holds {bank.count} instances.{_said_of(prior)} `manifest.json` lists every file with its SHA-256 and
binds graphs, encoder and bank to each other. `samples.npz` holds pinned inputs and the answers torch gave in
float32{_embedded_by(model)}.

## Quality

{_quality(manifest.metrics)}

## Parity with torch, float32

```
{report.table()}
```
"""


def _alone(prior: Prior | None) -> str:
    return "" if prior is None else "\n    icgan generate THIS_FOLDER -n 16 --out grid.png"


def _said_of(prior: Prior | None) -> str:
    if prior is None:
        return ""
    return f""" `prior/` draws others where no picture is given: it holds the means of
{len(prior)} groups of {prior.least} or more of {prior.counts.sum()} pictures, and how far pictures lie around
them along {len(prior.axes)} axes that all groups share."""


def _quality(metrics: Mapping[str, Any]) -> str:
    rows = prose.scores(metrics)
    if not rows:
        return "\n".join(f"- {line}" for line in prose.tree(metrics, "")) or "Not measured."
    names, values = zip(*rows, strict=True)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(rows), values))
    on = prose.measured_on(metrics)
    measured = [f"Measured on {on}."] if on else []
    return "\n\n".join([table, *measured, *(f"{note}." for note in prose.remarks(metrics))])


def _embedded_by(model: Model) -> str:
    """Who else answered: torch cannot run an encoder that is an ONNX graph."""
    return ", its embeddings ONNX Runtime" if model.encoder.name.startswith(ONNX) else ""


def _mebibytes(manifest: Manifest, file: str) -> str:
    return f"{manifest.files[file].bytes / 2**20:.1f}"
