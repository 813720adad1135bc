"""IC-GAN against the baselines of its paper at equal budget, and what its parts are worth, on CIFAR-10.

    icgan-train fetch cifar10 --out data/cifar10
    icgan-train prepare data/cifar10 --resolution 32 --encoder efficientnet-lite0 --input-size 160 \\
        --neighbours 500 --out data/cifar10-32
    python -m benchmarks.study data/cifar10-32 --budget cpu --out runs/study

Every row of the study trains a run, draws samples and appends one line to OUT/results.jsonl, once at every
number of pictures that the budget names. A row that has its line is skipped and a run that was stopped goes
on, so a study that is killed continues when it is started again, and two studies of other --groups, --names
or --seeds may write to one OUT side by side. Rows come seed by seed: after every five the comparison is
complete for one more seed. At the end (or with --report alone) OUT/results.md and OUT/results.png are
made from the lines, and OUT/samples.png from the first run of every model that has one.

DATA prepared with another encoder or input size adds the rows of that encoder, IC-GAN alone, to the same OUT.

A CPU that multiplies bfloat16 trains and judges in it, any other in float32. Features of the two do not
compare, so an OUT that was begun in one is refused in the other.
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

from benchmarks.report import add_line
from benchmarks.report import table as markdown_table
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.fetch import find_weights
from icgan_training.data.grid import write_grid
from icgan_training.distributed import local_device
from icgan_training.fit.loop import fit
from icgan_training.fit.settings import choose_precision, resolve
from icgan_training.heap import keep_freed_memory
from icgan_training.networks.presets import preset
from icgan_training.score.evaluate import Evaluation, evaluate
from icgan_training.score.feature_networks import inception_network
from icgan_training.score.features import FeatureNetwork, in_bfloat16
from icgan_training.score.sheets import plain_grid
from icgan_training.score.subject import EvaluationSettings, load_subject

SEEDS = 3
ENCODER = "efficientnet-lite0 at 160 px"
SCORES = ("fid", "kid", "prdc")
SCORE_TITLES = ("FID ↓", "KID ↓", "precision ↑", "recall ↑", "density ↑", "coverage ↑")
_DIGITS = {"fid": 1, "kid": 4, "precision": 3, "recall": 3, "density": 3, "coverage": 3}
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

    images: tuple[int, ...]  # real pictures that the discriminator has seen when a run is scored, rising
    samples: int
    reference: int  # real pictures compared with
    overrides: dict[str, Any]  # of the presets' model and training settings


_SHARED: dict[str, Any] = {
    "discriminator_steps": 1,
    "generator_lr": 2e-4,
    "discriminator_lr": 4e-4,
    "beta2": 0.99,
    "shared_dim_feat": 128,
    "diffaugment": ("translation",),
}
BUDGETS = {
    "cpu": Budget(
        images=(25_000, 50_000),
        samples=2_000,
        reference=2_000,
        overrides=_SHARED
        | {
            "ch": 16,
            # so few pictures teach most when the networks move often (docs/reports/log.md)
            "batch_size": 8,
            "ema_decay": 0.998,
            "ema_start": 300,
            "tick_images": 5_000,
        },
    ),
    "gpu": Budget(
        images=(250_000, 1_000_000),
        samples=10_000,
        reference=10_000,
        overrides=_SHARED
        | {
            "ch": 64,
            "batch_size": 64,
            "ema_decay": 0.999,
            "compile": True,
        },
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the study: a run."""

    group: str
    name: str
    seed: int
    preset: str = "cifar10"
    train: dict[str, Any] = field(default_factory=dict)
    at: int | None = -1  # which of the budget's numbers of pictures it is scored at; None: all of them

    def key(self, images: int) -> str:
        """What no other line of the study is called."""
        return f"{self.group}, {self.name}, seed {self.seed}, {images} pictures"

    @property
    def run(self) -> str:
        """The folder of the run."""
        encoder = f"-{self.name.replace(' ', '-')}" if self.group == "encoder" else ""
        changes = "".join(f"-{name}={value}" for name, value in self.train.items())
        return f"{self.preset}{encoder}{changes}-seed{self.seed}"


def rows(encoder: str = ENCODER) -> Iterator[Row]:
    """The runs of the study with data of that encoder."""
    if encoder != ENCODER:
        for seed in range(SEEDS):
            yield Row("encoder", encoder, seed)
        return
    for seed in range(SEEDS):
        for name, preset_name in MODELS.items():
            yield Row("models", name, seed, preset_name, at=None)
    for seed in range(SEEDS):
        # a narrow projection of 1,280 columns keeps a quarter of what a row of a table of labels is long
        yield Row("instance gain", "4, centred", seed, train={"instance_gain": 4.0})
    for k in (1, 5, 500):
        yield Row("neighbours", f"k = {k}", 0, train={"neighbours": k})
    yield Row("flips", "without DA(d)", 0, train={"picture_flip": False})
    yield Row("flips", "without DA(i)", 0, train={"instance_flip": False})
    for seed in range(SEEDS - 1):
        # the rates that short trials of IC-GAN chose; the baselines' discriminators give up at them
        for name, preset_name in MODELS.items():
            yield Row("G at 4e-4", name, seed, preset_name, train={"generator_lr": 4e-4}, at=0)


def encoder_of(data: PreparedDataset) -> str:
    """What the rows of a data set say of its encoder."""
    return f"{data.meta.encoder.name} at {data.meta.encoder.input_size} px"


def stages(budget: Budget, encoder: str = ENCODER) -> Iterator[tuple[Row, int]]:
    """Every row with the number of pictures at which it is scored, in the order in which it is done."""
    for images in budget.images:
        for row in rows(encoder):
            if row.at is None or images == budget.images[row.at]:
                yield row, images


def train(
    row: Row, images: int, budget: Budget, data: PreparedDataset, folder: Path, device: torch.device
) -> None:
    """Train the row's run until it has seen so many pictures, from where it is."""
    precision, _ = choose_precision(device)
    # the paper's neighbourhood, of the 500 that are prepared for the row that asks for them
    changes = {"neighbours": 50, "precision": precision, "total_images": images, "seed": row.seed}
    model, settings = resolve(preset(row.preset), data, budget.overrides | changes | row.train)
    torch.compiler.reset()  # it gives up on code that it has compiled for eight networks
    if not fit(model, settings, data, folder, device=device):
        raise SystemExit(f"{folder} is stopped; the same command goes on from here")


def score(row: Row, images: int, budget: Budget, folder: Path, inception: FeatureNetwork) -> dict[str, Any]:
    """The row's line."""
    settings = EvaluationSettings(SCORES, samples=budget.samples, instances=0, reference=budget.reference)
    subject = load_subject(folder, None, settings, inception.device)
    result = evaluate(subject, subject.data, settings, inception)
    return {
        "group": row.group,
        "name": row.name,
        "seed": row.seed,
        "scores": rounded(result),
        "images": images,
        "train_seconds": round(last_record(folder)["seconds"], 1),
        "run": folder.name,
        "parameters": result.parameters,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(inception),
    }


def rounded(result: Evaluation) -> dict[str, float]:
    """The scores there are, as a line holds them."""
    return {name: round(value, 6) for name, value in result.scores.items() if value is not None}


def machine(inception: FeatureNetwork) -> str:
    return f"{platform.machine()}, {inception.device}, torch {torch.__version__}"


def judge(device: torch.device, lines: list[dict[str, Any]]) -> FeatureNetwork:
    """The FID Inception, in bfloat16 on a CPU that multiplies it; refused where `lines` are of the other."""
    network = inception_network(find_weights("inception"), device)
    if device.type == "cpu" and choose_precision(device)[0] == "bfloat16":
        network = in_bfloat16(network)
    for begun in {line["parameters"]["arithmetic"] for line in lines} - {network.arithmetic}:
        raise SystemExit(
            f"the lines there are were scored in {begun}, here it is {network.arithmetic}: give another --out"
        )
    return network


def last_record(folder: Path) -> dict[str, Any]:
    """What a run has logged last; that it has seen nothing before it did."""
    log = folder / "log.jsonl"
    ticks = log.read_text().splitlines() if log.exists() else []
    return json.loads(ticks[-1]) if ticks else {"images": 0, "seconds": 0.0}


def key_of(line: dict[str, Any]) -> str:
    return Row(line["group"], line["name"], line["seed"]).key(line["images"])


def read_lines(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The mean, ± half the distance between the best and the worst where there are several."""
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def by_row(lines: list[dict[str, Any]]) -> dict[tuple[str, str, int], list[dict[str, float]]]:
    """The scores of all seeds of each row at each number of pictures, in the order of `rows`."""
    encoders = [("encoder", line["name"]) for line in lines if line["group"] == "encoder"]
    listed = dict.fromkeys([*((row.group, row.name) for row in rows()), *encoders])
    order = {key: place for place, key in enumerate(listed)}
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    known = [line for line in lines if (line["group"], line["name"]) in order]  # not rows of an older study
    for line in sorted(known, key=lambda line: (order[line["group"], line["name"]], line["images"])):
        found.setdefault((line["group"], line["name"], line["images"]), []).append(line["scores"])
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table: mean over seeds, ± half the spread between the best and the worst seed."""
    rows = [
        [group, name, f"{images:,}", str(len(scores)), *score_cells(scores)]
        for (group, name, images), scores in by_row(lines).items()
    ]
    return markdown_table(["study", "row", "seen", "seeds", *SCORE_TITLES], rows)


def score_cells(scores: Sequence[dict[str, float]]) -> list[str]:
    """What stands under `SCORE_TITLES` for the scores of one or several seeds."""
    return [mean_and_spread([each[name] for each in scores], digits) for name, digits in _DIGITS.items()]


def picture(lines: list[dict[str, Any]], path: Path) -> None:
    """Left FID of every model as it learns, right that of every other row; seeds as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = {row: [score["fid"] for score in found] for row, found in by_row(lines).items()}
    others = {
        f"{group}: {name}": fids for (group, name, _), fids in reversed(scores.items()) if group != "models"
    }
    height = max(4.0, 0.5 + 0.3 * len(others))
    figure, axes = pyplot.subplots(
        1, 2 if others else 1, figsize=(12 if others else 6, height), layout="constrained", squeeze=False
    )
    for colour, model in zip(matplotlib.color_sequences["tab10"], MODELS, strict=False):
        learnt = sorted(
            (n, fids) for (group, name, n), fids in scores.items() if (group, name) == ("models", model)
        )
        if not learnt:
            continue
        axes[0, 0].plot(
            [n for n, _ in learnt], [statistics.mean(fids) for _, fids in learnt], color=colour, label=model
        )
        for n, fids in learnt:
            axes[0, 0].plot([n] * len(fids), fids, ".", color=colour)
    axes[0, 0].set_xlabel("real pictures seen")
    axes[0, 0].set_ylabel("FID (lower is better)")
    axes[0, 0].legend()
    if others:
        axes[0, 1].barh(list(others), [statistics.mean(fids) for fids in others.values()], color="#88aadd")
        for y, fids in enumerate(others.values()):
            axes[0, 1].plot(fids, [y] * len(fids), "k.", markersize=5)
        axes[0, 1].set_xlabel("FID (lower is better)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


SHEET = (2, 16)  # rows and columns of samples that the sheet shows of each model
ENLARGED = 2
BETWEEN = 12  # white pixels under each model's samples


def report(out: Path) -> None:
    """Tables and pictures of the lines there are."""
    lines = read_lines(out)
    if not lines:
        return
    (out / "results.md").write_text(table(lines))
    picture(lines, out / "results.png")
    sheet(out)
    print(table(lines), end="")


def sheet(out: Path) -> None:
    """Samples of the first seed of every model there is, in the order of the table; nothing selected."""
    strips = []
    for folder in [out / f"{name}-seed0" for name in MODELS.values()]:
        if not (folder / "generator.safetensors").exists():
            continue
        settings = EvaluationSettings(samples=SHEET[0] * SHEET[1], instances=0)
        subject = load_subject(folder, None, settings, torch.device("cpu"))
        strip = plain_grid(subject, settings, SHEET[1]).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        strips += [strip, np.full((BETWEEN, *strip.shape[1:]), 255, np.uint8)]
    if strips:
        write_grid(out / "samples.png", np.concatenate(strips[:-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared CIFAR-10 with at least 500 neighbours")
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--groups", nargs="*", help="only these studies: models, neighbours, flips, …")
    parser.add_argument("--names", nargs="*", help="only these rows: IC-GAN, unconditional, 'k = 5', …")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    parser.add_argument("--images", type=int, nargs="*", help="numbers of pictures, instead of the budget's")
    parser.add_argument(
        "--samples", type=int, help="samples and real pictures to compare, instead of the budget's"
    )
    parser.add_argument("--report", action="store_true", help="only write the report of the lines there are")
    args = parser.parse_args()
    budget = BUDGETS[args.budget]
    if args.images:
        budget = replace(budget, images=tuple(sorted(args.images)))
    if args.samples is not None:
        budget = replace(budget, samples=args.samples, reference=args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        device = local_device()
        if device.type == "cpu":
            keep_freed_memory()
        data = PreparedDataset.open(args.data)
        inception = judge(device, read_lines(args.out))
        for row, images in stages(budget, encoder_of(data)):
            wanted = (
                row.group in (args.groups or [row.group])
                and row.name in (args.names or [row.name])
                and row.seed in (args.seeds or [row.seed])
            )
            if not wanted or row.key(images) in {key_of(line) for line in read_lines(args.out)}:
                continue
            folder = args.out / row.run
            if (seen := last_record(folder)["images"]) > images:
                print(f"{row.key(images)}: its run is at {seen} pictures already", flush=True)
                continue
            print(row.key(images), flush=True)
            train(row, images, budget, data, folder, device)
            line = score(row, images, budget, folder, inception)
            add_line(args.out / "results.jsonl", line)
            print(f"  FID {line['scores']['fid']:.1f}, KID {line['scores']['kid']:.4f}", flush=True)
    report(args.out)


if __name__ == "__main__":
    main()
