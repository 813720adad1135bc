"""A run directory -> a bundle: graphs, bank, pinned samples, model card, manifest. All of it or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from icgan_export.card import model_card
from icgan_export.check.bisect import worst_tensors
from icgan_export.check.samples import Samples, make_samples, query_count
from icgan_export.check.verify import Report, check_encoder, verify
from icgan_export.errors import ExportError, ParityError
from icgan_export.lower import onnx_export
from icgan_export.lower.arithmetic import cost
from icgan_export.lower.graphs import encoder_graph, generator_graph
from icgan_export.lower.index import fits_graph, lookup_graph
from icgan_export.lower.onnx_export import Step
from icgan_export.lower.precision import Lowered, activation_ranges
from icgan_export.lower.trial import embeddings, encoder_trial, generator_trial, lower
from icgan_export.rewrite.backbones import best_rewrites
from icgan_export.rewrite.choice import Target
from icgan_export.source import EVALUATION_NAME, Instances, Run, choose_instances, read_run
from icgan_runtime import files, images, sheets
from icgan_runtime.bundle.bank import FOLDER as BANK_FOLDER
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import (
    PRECISIONS,
    BankEntry,
    GraphEntry,
    KeptNode,
    Manifest,
    describe_files,
    graph_specs,
    onnx_metadata,
)
from icgan_runtime.verify import to_bytes

LARGEST_SHOWN = 20
CARD_NAME = "README.md"
GRID_NAME = "samples.png"
GRID_ROWS = 6


@dataclass(frozen=True)
class Options:
    """What `icgan-export bundle` was asked for."""

    precisions: tuple[str, ...] = ("fp32",)
    instances: int = 1000
    neighbours: int = 10
    bank: Path | None = None
    thumbnail_size: int = 64  # at most; 0: none, for pictures that must not be passed on
    target: Target = "onnxruntime"


def write_bundle(run_path: Path, out: Path, options: Options, step: Step) -> Report:
    """Export `run_path` to `out`. Raises ParityError, leaving nothing behind, when a graph misses a bound."""
    check_precisions(options.precisions)
    step(f"reading {run_path}")
    run = read_run(run_path)
    if not run.metrics and (run_path / EVALUATION_NAME).exists():
        step(f"{EVALUATION_NAME} is not of these weights: left out")
    instances = choose_instances(run, options.bank, options.instances, query_count(run.model.resolution))
    neighbours = min(options.neighbours, len(instances.ids))
    step(f"{len(instances.ids)} instances, {len(instances.queries)} pictures to test with")
    samples = make_samples(run, instances, neighbours)
    with files.atomic_directory(out) as folder:
        bank = make_bank(run, instances, options.thumbnail_size)
        (folder / BANK_FOLDER).mkdir()
        bank.write(folder / BANK_FOLDER)
        samples.write(folder)
        graphs, largest, costs = write_graphs(run, bank, samples, instances, options, folder, step)
        manifest = Manifest(
            model=run.model,
            graphs=tuple(graphs),
            bank=BankEntry(
                bank.encoder_id,
                len(bank),
                neighbours,
                bank.labels is not None,
                bank.about.thumbnail_size,
                bank.source,
                bank.licence,
            ),
            files=describe_files(folder),
            provenance=run.provenance
            | {
                "run": run_path.name if run_path.is_absolute() else str(run_path),
                "bank": {"class_names": instances.class_names and list(instances.class_names)},
            },
            metrics=run.metrics,
            bench={"costs": costs},
        )
        manifest.write(folder)
        step("comparing with torch")
        report = verify(folder)
        if not report.passed:
            raise ParityError(
                f"no bundle written, {len(report.failures)} bounds missed\n{report.table()}\n"
                f"{worst_tensors(folder, report)}".rstrip()
            )
        write_card(folder, manifest, samples, report)
        parity = report.to_json() | {"largest_activations": largest}
        replace(manifest, files=describe_files(folder), parity=parity).write(folder)
    return report


def check_precisions(precisions: Sequence[str]) -> None:
    """Refuse what cannot be exported before any work is done."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ExportError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if "fp32" not in precisions:
        raise ExportError("--precision must include fp32: the others are compared with it")


def write_graphs(
    run: Run, bank: Bank, samples: Samples, instances: Instances, options: Options, folder: Path, step: Step
) -> tuple[list[GraphEntry], dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Every graph at every precision, the largest activations measured on the way, and each file's costs."""
    model, neighbours = run.model, samples.ids.shape[1]
    entries: list[GraphEntry] = []
    costs: dict[str, dict[str, int]] = {}

    def add(role: str, precision: str, graph: onnx.ModelProto, kept: tuple[KeptNode, ...] = ()) -> None:
        onnx_export.set_metadata(graph, onnx_metadata(model, role, precision))
        file = f"{role}.onnx" if precision == "fp32" else f"{role}.{precision}.onnx"
        onnx_export.save(graph, folder / file)
        inputs, outputs = graph_specs(model, role, neighbours)
        opset = graph.opset_import[0].version
        entries.append(GraphEntry(role, precision, file, opset, inputs, outputs, model.encoder_id, kept))
        costs[file] = cost(graph).summary()
        operators = onnx_export.count_operators(graph)
        held = f", {len(kept)} in float32" if precision != "fp32" else ""
        step(f"{file}: {sum(operators.values())} operators, {graph.ByteSize() / 2**20:.1f} MiB{held}")

    if fits_graph(bank.embeddings):
        add("lookup", "fp32", lookup_graph(bank.embeddings, bank.ids, neighbours, {}))
    else:
        step(f"no lookup.onnx: {len(bank)} instances are more than one ONNX file holds; faiss finds them")
    step("tracing the encoder")
    encoder = encoder_graph(run.encoder, model.preprocessing.size, {}, step=step)
    add("encoder", "fp32", encoder)
    step("tracing the generator")
    rewrites = best_rewrites(run.generator.config, options.target)
    generator = generator_graph(run.generator, rewrites, {}, step=step)
    add("generator", "fp32", generator)
    largest: dict[str, dict[str, float]] = {}
    if len(options.precisions) > 1:
        for role, graph, trial in (
            ("encoder", encoder, encoder_trial(instances, encoder)),
            ("generator", generator, generator_trial(run, instances, generator)),
        ):
            step(f"measuring the {role}'s activations")
            ranges = activation_ranges(graph, trial.feeds)
            largest[role] = dict(sorted(ranges.items(), key=lambda item: -item[1])[:LARGEST_SHOWN])
            for precision in options.precisions:
                if precision != "fp32":
                    step(f"lowering the {role} to {precision}")
                    lowered = lower(graph, precision, ranges, trial)
                    if role == "encoder" and not keeps_neighbours(lowered, samples, bank, precision):
                        step(f"near ties in the bank: lowering the encoder to {precision} with more care")
                        lowered = lower(
                            graph, precision, ranges, encoder_trial(instances, graph, recall=True)
                        )
                    add(role, precision, lowered.model, lowered.kept)
    return entries, largest, costs


def keeps_neighbours(lowered: Lowered, samples: Samples, bank: Bank, precision: str) -> bool:
    """Whether an encoder that leaves float32 meets its bounds on the bundle's bank."""
    found = embeddings(lowered.model, samples.picture)
    return all(check.passed for check in check_encoder(found, samples, bank, precision))


def make_bank(run: Run, instances: Instances, thumbnail_size: int) -> Bank:
    """The runtime's bank of the chosen instances."""
    return Bank(
        encoder_id=run.model.encoder_id,
        embeddings=instances.embeddings,
        ids=instances.ids,
        labels=instances.labels,
        thumbnails=make_thumbnails(instances.pictures, thumbnail_size) if thumbnail_size else None,
        source=instances.source,
        licence=instances.licence,
    )


def make_thumbnails(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures [M, S, S, 3] reduced to `size`, or as they are when they are no larger."""
    if pictures.shape[1] <= size:
        return pictures
    resized = [
        Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS) for picture in pictures
    ]
    return np.stack([np.asarray(picture) for picture in resized])


def write_card(folder: Path, manifest: Manifest, samples: Samples, report: Report) -> None:
    """README.md and the picture in it: instances on the left, what torch drew from each on the right."""
    rows = min(GRID_ROWS, len(samples.noise))
    drawn = to_bytes(samples.image[:rows])
    pairs = np.stack([samples.picture[:rows], drawn], axis=1).reshape(-1, *drawn.shape[1:])
    (folder / GRID_NAME).write_bytes(images.encode(sheets.grid(pairs, columns=2)))
    (folder / CARD_NAME).write_text(model_card(manifest, report, GRID_NAME), "utf-8")
