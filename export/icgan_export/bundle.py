"""A run directory -> a bundle: graphs, bank, pinned samples, model card, manifest. All of it or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from icgan_export.card import model_card
from icgan_export.check.bisect import worst_tensors
from icgan_export.check.samples import Samples, make_samples, query_count
from icgan_export.check.verify import Report, verify
from icgan_export.errors import ExportError, ParityError
from icgan_export.graphs import GraphFiles, write_graphs
from icgan_export.lower.graphs import encoder_graph
from icgan_export.lower.onnx_export import Step
from icgan_export.lower.trial import embeddings
from icgan_export.rewrite.choice import Target
from icgan_export.source.instances import Instances, choose_instances
from icgan_export.source.prior import make_prior, without_pictures
from icgan_export.source.runs import EVALUATION_NAME, Run, read_run
from icgan_runtime import files, sheets
from icgan_runtime.bundle.bank import FOLDER as BANK_FOLDER
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.coded import check_coding, decode, encode
from icgan_runtime.bundle.manifest import PRECISIONS, BankEntry, Manifest, describe_files
from icgan_runtime.bundle.prior_files import write_prior
from icgan_runtime.prior import Prior
from icgan_runtime.search.novelty import outside_below
from icgan_runtime.verify import to_bytes

CARD_NAME = "README.md"
GRID_NAME = "samples.png"
GRID_ROWS = 6


@dataclass(frozen=True)
class BundleOptions:
    """What `icgan-export bundle` was asked for."""

    precisions: tuple[str, ...] = ("fp32",)
    instances: int = 1000
    neighbours: int = 10
    bank: Path | None = None
    thumbnail_size: int = 64  # at most; 0: none, for pictures that must not be passed on
    target: Target = "onnxruntime"
    embeddings: str = "float32"  # how the bank stores them
    names: bool = True  # of the instances' files; False where they must not be passed on
    prior: int = 0  # centres of the prior that draws instances; 0: none
    stored: bool = True  # False: group means stand in for instances, and nothing is stored of a picture


@dataclass(frozen=True, eq=False)
class Written:
    """What the graphs of a written bundle were compared with, and the precisions that are not in it."""

    report: Report
    left_out: Mapping[str, str]  # precision that was asked for -> the bound that it misses


def write_bundle(run_path: Path, out: Path, options: BundleOptions, step: Step) -> Written:
    """Export `run_path` to `out`, at the precisions that meet their bounds.

    Raises ParityError, leaving nothing behind, when float32 misses one.
    """
    check_precisions(options.precisions)
    step(f"reading {run_path}")
    run = read_run(run_path)
    if not run.metrics and (run_path / EVALUATION_NAME).exists():
        step(f"{EVALUATION_NAME} is not of these weights: left out")

    @cache
    def encoder() -> onnx.ModelProto:  # when it is needed first: what is wrong with the bank is said before
        step("tracing the encoder")
        return encoder_graph(run.encoder, run.model.preprocessing.size, {}, step=step)

    def embed(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:  # as `icgan bank` does, sooner than torch
        return embeddings(encoder(), pictures)

    queries = query_count(run.model.resolution)
    instances = choose_instances(run, options.bank, options.instances, queries, embed)
    prior = make_prior(run, instances, options.prior) if options.prior else None
    if prior is not None:
        step(f"{prior}: {sum(prior.counts)} pictures")
        if not options.stored:
            instances = without_pictures(run, instances, prior, queries)
    rows = decode(encode(instances.embeddings, check_coding(options.embeddings)))  # what readers will see
    instances = replace(instances, embeddings=rows)
    neighbours = min(options.neighbours, len(instances.ids))
    step(f"{len(instances.ids)} instances, {len(instances.queries)} pictures to test with")
    samples = make_samples(run, instances, neighbours)
    with files.atomic_directory(out) as folder:
        bank = make_bank(run, instances, options.thumbnail_size, options.names).coded(options.embeddings)
        (folder / BANK_FOLDER).mkdir()
        bank.write(folder / BANK_FOLDER)
        samples.write(folder)
        if prior is not None:
            write_prior(prior, run.model, folder)
        precisions, target = options.precisions, options.target
        graphs = write_graphs(run, encoder(), instances, bank, samples, precisions, target, folder, step)
        manifest = make_manifest(run, instances, bank, graphs)
        manifest.write(folder)
        step("comparing with torch")
        report = verify(folder)
        if any(failure.precision == "fp32" for failure in report.failures):
            raise ParityError(
                f"no bundle written, {len(report.failures)} bounds missed\n{report.table()}\n"
                f"{worst_tensors(folder, report)}".rstrip()
            )
        if report.failures:
            step(f"bounds are missed\n{report.table()}\n{worst_tensors(folder, report)}".rstrip())
            for failure in report.failures:
                if failure.precision not in graphs.left_out:
                    graphs.leave_out(failure.precision, str(failure))
            report = report.without(graphs.left_out)
            manifest = make_manifest(run, instances, bank, graphs)
        write_card(folder, manifest, samples, report, prior)
        parity = report.to_json() | {"largest_activations": graphs.largest}
        replace(manifest, files=describe_files(folder), parity=parity).write(folder)
    return Written(report, graphs.left_out)


def check_precisions(precisions: Sequence[str]) -> None:
    """Refuse what cannot be exported before any work is done."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ExportError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if "fp32" not in precisions:
        raise ExportError("--precision must include fp32: the others are compared with it")


def make_manifest(run: Run, instances: Instances, bank: Bank, graphs: GraphFiles) -> Manifest:
    """What the bundle in the folder of `graphs` holds so far, before its graphs are compared with torch."""
    names = instances.class_names
    return Manifest(
        model=run.model,
        graphs=tuple(graphs.entries),
        bank=BankEntry(
            bank.encoder_id,
            len(bank),
            graphs.neighbours,
            bank.labels is not None,
            bank.about.thumbnail_size,
            bank.source,
            bank.licence,
        ),
        files=describe_files(graphs.folder),
        provenance=run.provenance
        | {
            "run": run.path.name if run.path.is_absolute() else str(run.path),
            "bank": {
                "class_names": names and list(names),
                "outside_below": outside_below(bank) if instances.limit is None else instances.limit,
            },
        },
        metrics=run.metrics,
        bench={"costs": graphs.costs},
    )


def make_bank(run: Run, instances: Instances, thumbnail_size: int, names: bool = True) -> Bank:
    """The runtime's bank of the chosen instances."""
    return Bank(
        encoder_id=run.model.encoder_id,
        embeddings=instances.embeddings,
        ids=instances.ids,
        labels=instances.labels,
        thumbnails=make_thumbnails(instances.pictures, thumbnail_size)
        if thumbnail_size and not instances.drawn
        else None,
        source=instances.source,
        licence=instances.licence,
        names=instances.names if names else None,
    )


def make_thumbnails(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures [M, S, S, 3] reduced to `size`, or as they are when they are no larger."""
    if pictures.shape[1] <= size:
        return pictures
    resized = [
        Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS) for picture in pictures
    ]
    return np.stack([np.asarray(picture) for picture in resized])


def write_card(
    folder: Path, manifest: Manifest, samples: Samples, report: Report, prior: Prior | None = None
) -> None:
    """README.md and the picture in it: instances on the left, what torch drew from each on the right."""
    rows = min(GRID_ROWS, len(samples.noise))
    drawn = to_bytes(samples.image[:rows])
    pairs = np.stack([samples.picture[:rows], drawn], axis=1).reshape(-1, *drawn.shape[1:])
    sheets.write_picture(folder / GRID_NAME, sheets.grid(pairs, columns=2), "out")
    (folder / CARD_NAME).write_text(model_card(manifest, report, GRID_NAME, prior), "utf-8")
