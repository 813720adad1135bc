"""What a trained model draws of instances from a prior, beside those of stored instances.

    python -m benchmarks.prior models/demo data/groceries64 --out benchmarks/results/prior

Every row draws as many samples as DATA has pictures and compares them with those pictures, by Inception in
float32, with each of --seeds; it appends lines to OUT/results.jsonl and is skipped where it has them, so a
killed command goes on when it is given again. Then, without the model: how near instances of a prior come to
the pictures that it was fitted to, beside how near pictures come to them that were held out; and what each
way stores. OUT/prior.md is made of all that, OUT/samples.jpg of the first samples of stored instances and of
a prior.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import about, add_line, page, table
from benchmarks.study import SCORE_TITLES, read_lines, rounded, score_cells
from icgan_runtime.files import sha256_of_file
from icgan_runtime.prior import Prior
from icgan_runtime.sheets import grid, write_picture
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.fetch import find_weights
from icgan_training.data.prior import LEAST, fit_prior
from icgan_training.distributed import local_device
from icgan_training.heap import keep_freed_memory
from icgan_training.score.evaluate import evaluate
from icgan_training.score.feature_networks import inception_network
from icgan_training.score.subject import EvaluationSettings, Subject, draw, load_subject

SCORES = ("fid", "kid", "prdc", "copies")
STORED = {"all pictures stored": 0, "1,000 stored, k-means": 1000, "400 stored, k-means": 400}
CENTRES = (16, 64, 256)
SHOWN = 64  # the prior whose axes are varied, and whose samples are shown
AXES = (0, 512)
HELD_OUT = 10  # one picture in so many
SHEET = 16
F32 = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Way:
    """How the instances of a row come about."""

    name: str
    stored: int | None = None  # pictures, 0 for all; None: a prior
    centres: int = 0
    axes: int | None = None  # None: as many as the exporter takes

    def fit(self, embeddings: F32) -> Prior:
        """The prior of a row that has one."""
        if self.axes is None:
            return fit_prior(embeddings, self.centres)
        prior = fit_prior(embeddings, self.centres, axes=max(1, self.axes))
        return prior if self.axes else dataclasses.replace(prior, scales=np.zeros_like(prior.scales))


def ways() -> Iterator[Way]:
    """Every row; the first is what the others are compared with."""
    for name, count in STORED.items():
        yield Way(name, stored=count)
    for centres in CENTRES:
        yield Way(f"prior of {centres}", centres=centres)
    for axes in AXES:
        what = f"{axes} axes" if axes else "the centres alone"
        yield Way(f"prior of {SHOWN}, {what}", centres=SHOWN, axes=axes)


def subject_of(way: Way, model: Path, data: Path, settings: EvaluationSettings) -> Subject:
    """The model, with the instances of a row."""
    asked = dataclasses.replace(settings, instances=way.stored or 0)
    subject = load_subject(model, data, asked, local_device())
    if way.stored is not None:
        return subject
    return dataclasses.replace(subject, prior=way.fit(np.asarray(subject.data.embeddings)))


def nearest(rows: F32, stored: F32) -> F32:
    """The largest inner product [N] of each row with those stored."""
    found: F32 = (rows @ stored.T).max(axis=1)
    return found


def nearness(embeddings: F32, way: Way) -> list[str]:
    """How near a prior of nine tenths of the pictures comes to them, and how near the others do."""
    out = np.random.default_rng(0).permutation(len(embeddings))[: len(embeddings) // HELD_OUT]
    held, fitted = embeddings[out], np.delete(embeddings, out, axis=0)
    way = dataclasses.replace(way, centres=min(way.centres, len(fitted) // LEAST))
    prior = way.fit(fitted)
    drawn, _ = prior.instances(0, np.arange(10_000))
    there, others = nearest(drawn, fitted), nearest(held, fitted)
    means = prior.centres / np.linalg.norm(prior.centres, axis=1, keepdims=True)
    known, new = nearest(fitted, means), nearest(held, means)
    guess = (known[:, None] > new).mean() + (known[:, None] == new).mean() / 2
    cells = [f"{np.quantile(there, share):.3f}" for share in (0.5, 0.99, 1)]
    close = f"{(there > np.quantile(others, 0.99)).mean():.2%}"
    return [way.name, str(len(prior)), *cells, close, f"{guess:.3f}"]


def held_out(embeddings: F32) -> list[str]:
    """The first row of that table: pictures that were held out."""
    out = np.random.default_rng(0).permutation(len(embeddings))[: len(embeddings) // HELD_OUT]
    scores = nearest(embeddings[out], np.delete(embeddings, out, axis=0))
    return [
        "pictures held out",
        "",
        *(f"{np.quantile(scores, share):.3f}" for share in (0.5, 0.99, 1)),
        "1 %",
        "",
    ]


def size(way: Way, data: PreparedDataset) -> str:
    """Bytes of what a bundle stores: embeddings and thumbnails of at most 64 px, or the arrays of a prior."""
    count, side = data.meta.count, min(64, data.meta.resolution)
    if way.stored is not None:
        kept = min(way.stored or count, count)
        return f"{kept * 4 * data.meta.embedding_dim / 1e6:.2f} + {kept * 3 * side * side / 1e6:.2f}"
    prior = way.fit(np.asarray(data.embeddings))
    parts = (prior.centres, prior.axes, prior.scales, prior.counts)
    return f"{sum(part.nbytes for part in parts) / 1e6:.2f}"


def authenticity(lines: Iterable[Mapping[str, float]]) -> str:
    """The share of samples that are no copy, of the seeds for which it was asked."""
    found = [line["authenticity"] for line in lines if "authenticity" in line]
    return f"{np.mean(found):.3f}" if found else ""


def measure(way: Way, seed: int, args: argparse.Namespace, asked: dict[str, Any]) -> None:
    """One line of one row."""
    inception = inception_network(find_weights("inception"), local_device())
    settings = EvaluationSettings(SCORES, samples=asked["samples"], seed=seed)
    subject = subject_of(way, args.model, args.data, settings)
    result = evaluate(subject, subject.data, settings, inception)
    line = {"name": way.name, "seed": seed, "scores": rounded(result), **asked}
    add_line(args.out / "results.jsonl", line | {"date": time.strftime("%Y-%m-%d")})


def show(model: Path, data: Path, path: Path) -> None:
    """The first samples of stored instances (two rows above) and of a prior (two below), nothing selected."""
    settings = EvaluationSettings(SCORES, samples=SHEET)
    rows = (Way("", stored=400), Way("", centres=SHOWN))
    subjects = [subject_of(way, model, data, settings) for way in rows]
    pictures = np.concatenate([subject.samples(draw(subject, settings)) for subject in subjects])
    write_picture(path, grid(pictures, columns=SHEET // 2), "out")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a run, or a directory of shipped weights")
    parser.add_argument("data", type=Path, help="the prepared data set that it was trained on")
    parser.add_argument("--names", nargs="*", help="draw only for these rows: 'prior of 64', …")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of every row (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("bench/prior"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    data = PreparedDataset.open(args.data)
    embeddings = np.asarray(data.embeddings)
    weights = sha256_of_file(args.model / "generator.safetensors")[:12]
    asked = {"weights": weights, "samples": data.meta.count}

    def done() -> dict[str, dict[int, dict[str, float]]]:
        found: dict[str, dict[int, dict[str, float]]] = {}
        for line in read_lines(args.out):
            if asked.items() <= line.items():
                found.setdefault(line["name"], {})[line["seed"]] = line["scores"]
        return found

    for seed in range(args.seeds):
        for way in ways():
            if way.name in (args.names or [way.name]) and seed not in done().get(way.name, {}):
                print(f"{way.name}, seed {seed}", flush=True)
                measure(way, seed, args, asked)
    show(args.model, args.data, args.out / "samples.jpg")
    scores = done()
    rows = [
        [
            way.name,
            size(way, data),
            *score_cells(list(scores[way.name].values())),
            authenticity(scores[way.name].values()),
        ]
        for way in ways()
        if way.name in scores
    ]
    first = table(["instances", "MB", *SCORE_TITLES, "authenticity ↑"], rows)
    titles = ["", "centres", "median", "99 %", "nearest", "beyond 99 % of held out", "members told apart"]
    near = [held_out(embeddings), *(nearness(embeddings, way) for way in ways() if way.stored is None)]
    notes = (
        f"{data.meta.count} samples against as many pictures, untruncated, Inception in float32; ± is half "
        "the distance of two seeds, where two were measured. MB: embeddings + thumbnails of stored "
        "instances; all of a prior."
    )
    body = (
        f"{first}\nCosine to the nearest of the pictures that a prior was fitted to, nine tenths of them: of "
        "10,000 instances of the prior, and of the pictures held out. Last: how often a picture that it was "
        f"fitted to is nearer to a centre than one held out (0.5: by chance).\n\n{table(titles, near)}"
    )
    report = about("benchmarks.prior", ("torch", "numpy"))
    (args.out / "prior.md").write_text(page("Instances of a prior", report, notes, body), "utf-8")
    print(body)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
