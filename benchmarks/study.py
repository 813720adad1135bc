"""IC-GAN against the baselines of its paper at equal budget, and what its parts are worth, on CIFAR-10.

    icgan-train fetch cifar10 --out data/cifar10
    icgan-train prepare data/cifar10 --resolution 32 --encoder efficientnet-lite0 --input-size 160 \\
        --neighbours 500 --out data/cifar10-32
    python -m benchmarks.study data/cifar10-32 --budget cpu --out runs/study

Every row of the study trains a run, draws samples and appends one line to OUT/results.jsonl. A row that has
its line is skipped and a run that was stopped goes on, so a study that is killed continues when it is started
again, and two studies of other --groups or --seeds may write to one OUT side by side. Rows come seed by
seed: after every five the comparison is complete for one more seed. At the end (or with --report alone)
OUT/results.md and OUT/results.png are made from the lines, and OUT/samples.png from the first run of every
model.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icgan_training.dataset import PreparedDataset
from icgan_training.distributed import local_device
from icgan_training.evaluate import Settings, draw, evaluate, inception_network, load_subject
from icgan_training.features import FeatureNetwork
from icgan_training.fetch import find_weights
from icgan_training.grid import tiled, write_grid
from icgan_training.heap import keep_freed_memory
from icgan_training.loop import fit
from icgan_training.presets import preset
from icgan_training.settings import choose_precision, resolve

SEEDS = 3
MODELS = {
    "IC-GAN": "cifar10",
    "class-conditional IC-GAN": "cifar10-cc",
    "class-conditional": "cifar10-class",
    "cluster-conditional": "cifar10-cluster",
    "unconditional": "cifar10-unconditional",
}


@dataclass(frozen=True)
class Budget:
    """What every row of a study may spend, the same for all of them."""

    images: int  # real pictures that the discriminator sees
    samples: int
    reference: int  # real pictures compared with
    overrides: dict[str, Any]  # of the presets' model and training settings


_SHARED: dict[str, Any] = {
    "discriminator_steps": 1,
    "beta2": 0.99,
    "shared_dim_feat": 128,
    "diffaugment": ("translation",),
}
BUDGETS = {
    "cpu": Budget(
        images=25_000,
        samples=2_000,
        reference=2_000,
        overrides=_SHARED
        | {
            "ch": 16,
            # so few pictures teach most when the networks move often and far (docs/log.md)
            "batch_size": 8,
            "generator_lr": 4e-4,
            "discriminator_lr": 4e-4,
            "ema_decay": 0.998,
            "ema_start": 300,
            "tick_images": 5_000,
        },
    ),
    "gpu": Budget(
        images=1_000_000,
        samples=10_000,
        reference=10_000,
        overrides=_SHARED
        | {
            "ch": 64,
            "batch_size": 64,
            "generator_lr": 2e-4,
            "discriminator_lr": 4e-4,
            "ema_decay": 0.999,
            "compile": True,
        },
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the study: a run, and how its samples are drawn."""

    group: str
    name: str
    seed: int
    preset: str = "cifar10"
    train: dict[str, Any] = field(default_factory=dict)
    draw: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.group}, {self.name}, seed {self.seed}"

    @property
    def run(self) -> str:
        """The folder of the run; rows that differ only in how samples are drawn share it."""
        changes = "".join(f"-{name}={value}" for name, value in self.train.items())
        return f"{self.preset}{changes}-seed{self.seed}"


def rows() -> Iterator[Row]:
    """The study in the order in which it is done."""
    for seed in range(SEEDS):
        for name, preset_name in MODELS.items():
            yield Row("models", name, seed, preset_name)
    for name in ("unconditional", "IC-GAN", "class-conditional", "cluster-conditional"):
        # the budgets' rates were chosen on IC-GAN; at these the discriminator has the upper hand
        rates = {"generator_lr": 2e-4, "discriminator_lr": 4e-4}
        yield Row("learning rates 2e-4, 4e-4", name, 0, MODELS[name], train=rates)
    for k in (1, 5, 500):
        yield Row("neighbours", f"k = {k}", 0, train={"neighbours": k})
    yield Row("flips", "without DA(d)", 0, train={"picture_flip": False})
    yield Row("flips", "without DA(i)", 0, train={"instance_flip": False})
    for count in (10, 100, 1000):
        yield Row("stored instances", f"{count} by k-means", 0, draw={"instances": count})
        random = {"instances": count, "choice": "random"}
        yield Row("stored instances", f"{count} at random", 0, draw=random)
    for truncation in (0.3, 0.5, 0.7, 1.0):
        yield Row("truncation", f"t = {truncation}", 0, draw={"truncation": truncation})


def train(row: Row, budget: Budget, data: PreparedDataset, folder: Path, device: torch.device) -> None:
    """Train the row's run, or what is missing of it."""
    precision, _ = choose_precision(device)
    # the paper's neighbourhood, of the 500 that are prepared for the row that asks for them
    changes = {"neighbours": 50, "precision": precision, "total_images": budget.images, "seed": row.seed}
    model, settings = resolve(preset(row.preset), data, budget.overrides | changes | row.train)
    if not fit(model, settings, data, folder, device=device):
        raise SystemExit(f"{folder} is stopped; the same command goes on from here")


def score(row: Row, budget: Budget, folder: Path, inception: FeatureNetwork) -> dict[str, Any]:
    """The row's line."""
    settings = replace(
        Settings(("fid", "kid", "prdc"), samples=budget.samples, instances=0, reference=budget.reference),
        **row.draw,
    )
    subject = load_subject(folder, None, settings, inception.device)
    result = evaluate(subject, subject.data, settings, inception)
    ticks = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "group": row.group,
        "name": row.name,
        "seed": row.seed,
        "scores": {name: round(value, 6) for name, value in result.scores.items() if value is not None},
        "images": budget.images,
        "train_seconds": round(ticks[-1]["seconds"], 1),
        "run": folder.name,
        "parameters": result.parameters,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {inception.device}, torch {torch.__version__}",
    }


def judge(device: torch.device) -> FeatureNetwork:
    """The FID Inception; on a CPU in bfloat16, which is twice as fast. The two must not be mixed."""
    network = inception_network(find_weights("inception"), device)
    if device.type != "cpu":
        return network

    def run(pictures: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network.run(pictures)

    return replace(network, name=f"{network.name}-bfloat16", run=run, arithmetic="bfloat16")


def read_lines(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The mean, ± half the distance between the best and the worst where there are several."""
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table: mean over seeds, ± half the spread between the best and the worst seed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["group"], line["name"]), []).append(line["scores"])
    text = [
        "| study | row | seeds | FID ↓ | KID ↓ | precision ↑ | recall ↑ | density ↑ | coverage ↑ |",
        "|---" * 9 + "|",
    ]
    for (group, name), scores in found.items():
        cells = [group, name, str(len(scores))]
        for metric, digits in (
            ("fid", 1),
            ("kid", 4),
            ("precision", 3),
            ("recall", 3),
            ("density", 3),
            ("coverage", 3),
        ):
            cells.append(mean_and_spread([score[metric] for score in scores], digits))
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def picture(lines: list[dict[str, Any]], path: Path) -> None:
    """FID of every row as a bar, its seeds as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found: dict[str, list[float]] = {}
    for line in lines:
        label = line["name"] if line["group"] == "models" else f"{line['group']}: {line['name']}"
        found.setdefault(label, []).append(line["scores"]["fid"])
    labels = list(found)[::-1]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 + 0.32 * len(labels)), layout="constrained")
    axes.barh(labels, [statistics.mean(found[label]) for label in labels], color="#88aadd")
    for y, label in enumerate(labels):
        axes.plot(found[label], [y] * len(found[label]), "k.", markersize=5)
    axes.set_xlabel("FID (lower is better)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


SHEET = (2, 16)  # rows and columns of samples that the sheet shows of each model
ENLARGED = 2
BETWEEN = 12  # white pixels under each model's samples


def sheet(out: Path) -> None:
    """Samples of the first seed of every model, in the order of the table; nothing selected."""
    strips = []
    for name in MODELS.values():
        settings = Settings(samples=SHEET[0] * SHEET[1], instances=0)
        subject = load_subject(out / f"{name}-seed0", None, settings, torch.device("cpu"))
        samples = subject.samples(draw(subject, settings))
        strip = tiled(samples.reshape(*SHEET, *samples.shape[1:])).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        strips += [strip, np.full((BETWEEN, *strip.shape[1:]), 255, np.uint8)]
    write_grid(out / "samples.png", np.concatenate(strips[:-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared CIFAR-10 with at least 500 neighbours")
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--groups", nargs="*", help="only these studies: models, neighbours, flips, …")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    parser.add_argument("--images", type=int, help="real pictures for every run, instead of the budget's")
    parser.add_argument("--report", action="store_true", help="only write the report of the lines there are")
    args = parser.parse_args()
    budget = BUDGETS[args.budget]
    if args.images is not None:
        budget = replace(budget, images=args.images)
    args.out.mkdir(parents=True, exist_ok=True)
    done = {f"{line['group']}, {line['name']}, seed {line['seed']}" for line in read_lines(args.out)}
    if not args.report:
        device = local_device()
        if device.type == "cpu":
            keep_freed_memory()
        data = PreparedDataset.open(args.data)
        inception = judge(device)
        for row in rows():
            wanted = row.group in (args.groups or [row.group]) and row.seed in (args.seeds or [row.seed])
            if row.key in done or not wanted:
                continue
            print(row.key, flush=True)
            train(row, budget, data, args.out / row.run, device)
            line = score(row, budget, args.out / row.run, inception)
            with (args.out / "results.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"  FID {line['scores']['fid']:.1f}, KID {line['scores']['kid']:.4f}", flush=True)
    lines = read_lines(args.out)
    if lines:
        (args.out / "results.md").write_text(table(lines))
        picture(lines, args.out / "results.png")
        if all((args.out / f"{name}-seed0" / "generator.safetensors").exists() for name in MODELS.values()):
            sheet(args.out)
        print(table(lines), end="")


if __name__ == "__main__":
    main()
