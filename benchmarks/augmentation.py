"""Are generated variations worth anything to a small classifier that has few labelled pictures?

    python -m benchmarks.augmentation runs/cifar10 data/cifar10-32 --labelled 1000 --seeds 3

Every seed draws a class-balanced subset of the data set as its labelled pictures and trains the same small
network several times: with flips and shifts only, and with a share of every batch replaced by variations.
Those are samples of RUN for the embeddings of the labelled pictures; each carries the label of its picture.
Pictures seen, optimiser, schedule and first weights are the same; only the batches differ. Nothing is chosen
by its test accuracy: the weights after the last step count.

One line for each training is appended to OUT/results.jsonl. A training that has its line is skipped, so a
killed command goes on when it is given again. OUT/results.md is made from the lines (--report: only that).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import add_line
from benchmarks.report import table as markdown_table
from benchmarks.study import mean_and_spread, read_lines
from icgan_runtime.files import sha256_of_file
from icgan_training.data.dataset import chunks
from icgan_training.data.sources import open_source
from icgan_training.distributed import local_device
from icgan_training.heap import keep_freed_memory
from icgan_training.score.subject import Draws, EvaluationSettings, Subject, load_subject, repeat

WIDTHS = (16, 32, 64, 128)
SHIFT = 4
"""Pixels by which a picture is moved at most, each way; its edge is repeated."""


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained; the same for every share, so only the batches differ."""

    labelled: int = 1000
    variations: int = 10  # of every labelled picture
    truncation: float | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 0.05  # the highest, of a cosine after a warm-up of a tenth of the steps
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("labelled", "variations", "steps", "batch"):
            if getattr(self, name) < 1:
                raise SystemExit(f"--{name} is {getattr(self, name)}, it must be at least 1")


def labelled_rows(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` rows, ascending, equally many of every class."""
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    each, rest = divmod(count, len(classes))
    if rest or each == 0:
        raise SystemExit(f"--labelled is {count}, it must be a multiple of the {len(classes)} classes")
    by_class = [np.flatnonzero(labels == label) for label in classes]
    fewest = min(map(len, by_class))
    if fewest < each:
        raise SystemExit(f"--labelled is {count}: a class has only {fewest} pictures, not {each}")
    return np.sort(np.concatenate([rng.choice(rows, each, replace=False) for rows in by_class]))


def variations(subject: Subject, rows: NDArray[np.int64], recipe: Recipe, seed: int) -> NDArray[np.uint8]:
    """`recipe.variations` samples of every row in turn [n, R, R, 3]: of its embedding, its label, or both."""
    config = subject.generator.config
    if not config.takes_embedding and not config.takes_label:
        raise SystemExit("the run is unconditional: none of its samples belongs to a picture or its label")
    told = None if subject.labels is None else subject.labels[rows]
    once = Draws(rows, rows, told, np.empty((len(rows), config.dim_z), np.float32))
    drawn = repeat(
        subject, once, recipe.variations, EvaluationSettings(truncation=recipe.truncation, seed=seed)
    )
    return subject.samples(drawn)


def classifier(classes: int) -> nn.Sequential:
    """Four 3x3 convolutions that halve the picture, an average over what is left, one linear layer."""
    layers: list[nn.Module] = []
    for stage, (before, after) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
        layers += [nn.Conv2d(before, after, 3, stride=2 if stage else 1, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))


def as_input(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [N, R, R, 3] -> float32 [N, 3, R, R] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def flip_and_shift(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Every picture mirrored or not and moved by up to `SHIFT` pixels each way, at random."""
    count, size = pictures.shape[:2]
    padded = np.pad(pictures, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    across = rng.integers(2 * SHIFT + 1, size=(count, 1)) + np.arange(size)
    down = rng.integers(2 * SHIFT + 1, size=(count, 1)) + np.arange(size)
    flipped = rng.random(count) < 0.5
    across[flipped] = across[flipped, ::-1]
    return np.asarray(padded[np.arange(count)[:, None, None], down[:, :, None], across[:, None, :]])


@dataclass(frozen=True)
class Pool:
    """Pictures that batches are drawn from."""

    pictures: NDArray[np.uint8]  # [N, R, R, 3]
    labels: NDArray[np.int64]  # [N], from 0


class Turns:
    """Rows of a pool in a random order, every one once before any comes again."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count, self.rng, self.left = count, rng, np.empty(0, np.int64)

    def take(self, n: int) -> NDArray[np.int64]:
        while len(self.left) < n:
            self.left = np.concatenate([self.left, self.rng.permutation(self.count)])
        taken, self.left = self.left[:n], self.left[n:]
        return taken


def train_classifier(
    real: Pool, generated: Pool, share: float, classes: int, recipe: Recipe, seed: int, device: torch.device
) -> nn.Sequential:
    """The trained network, in eval mode. share: of every batch, how much is generated; in [0, 1]."""
    torch.manual_seed(seed)
    network = classifier(classes).to(device)
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=recipe.steps, pct_start=0.1, cycle_momentum=False
    )
    rng = np.random.default_rng(seed)
    turns = [Turns(len(pool.labels), rng) for pool in (real, generated)]
    of_generated = round(share * recipe.batch)
    for _ in range(recipe.steps):
        rows = [turns[0].take(recipe.batch - of_generated), turns[1].take(of_generated)]
        pictures = np.concatenate([real.pictures[rows[0]], generated.pictures[rows[1]]])
        labels = np.concatenate([real.labels[rows[0]], generated.labels[rows[1]]])
        logits = network(as_input(flip_and_shift(pictures, rng), device))
        loss = F.cross_entropy(logits, torch.from_numpy(labels).to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, test: Pool, device: torch.device) -> float:
    """Share of the pictures whose highest logit is that of their label."""
    right = 0
    for rows in chunks(len(test.labels), 500):
        found = network(as_input(test.pictures[rows], device)).argmax(1).cpu().numpy()
        right += int((found == test.labels[rows]).sum())
    return right / len(test.labels)


def open_test(folder: Path, count: int, class_names: list[str] | None) -> Pool:
    """The first `count` pictures (0: all) of a folder of arrays, whose classes must be those of the data."""
    source = open_source(folder)
    if source.array is None or source.labels is None:
        raise SystemExit(f"--test {folder} holds no images.npy with labels.npy")
    if source.class_names != class_names:
        raise SystemExit(f"--test {folder} has other classes than the data set")
    return Pool(np.array(source.array[: count or None]), source.labels[: count or None])


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; ± is half the spread between the best and the worst seed, gains are seed by seed."""
    settings = ("labelled", "variations", "truncation", "steps")
    found: dict[tuple[object, ...], dict[float, dict[int, float]]] = {}
    alone: dict[tuple[object, ...], dict[int, float]] = {}  # without a model, hence for every run
    for line in lines:
        recipe = tuple(line["recipe"][name] for name in settings)
        seed, accuracy = line["seed"], line["accuracy"]
        found.setdefault((line["run"], *recipe), {}).setdefault(line["share"], {})[seed] = accuracy
        if not line["share"]:
            alone.setdefault(recipe, {})[seed] = accuracy
    heads = ("run", *settings, "generated", "seeds", "accuracy ↑", "gain, seed by seed")
    rows = []
    for told, shares in found.items():
        for share, by_seed in sorted(shares.items()):
            without = alone.get(told[1:], {})
            gains = [by_seed[seed] - without[seed] for seed in sorted(by_seed) if share and seed in without]
            cells = ["–" if value is None else str(value) for value in told]
            cells += [f"{share:.0%}", str(len(by_seed)), mean_and_spread([*by_seed.values()], 3)]
            cells += [", ".join(f"{gain:+.3f}" for gain in gains) or "–"]
            rows.append(cells)
    return markdown_table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory of icgan-train fit, conditioned on instances")
    parser.add_argument("data", type=Path, help="the prepared data set it was trained on, with labels")
    parser.add_argument(
        "--test", type=Path, default=Path("data/cifar10/test"), help="folder with images.npy and labels.npy"
    )
    parser.add_argument("--test-pictures", type=int, default=0, help="the first so many; 0: all")
    parser.add_argument("--labelled", type=int, default=Recipe.labelled)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--shares",
        type=float,
        nargs="*",
        default=[0.25, 0.5],
        help="of every batch, how much is generated, in (0, 1]; 0 is always done, alone where none is given",
    )
    parser.add_argument("--variations", type=int, default=Recipe.variations, help="of every labelled picture")
    parser.add_argument("--truncation", type=float, help="noise within ±2t, t in (0, 1] (default: none)")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--out", type=Path, default=Path("bench/augmentation"))
    parser.add_argument("--report", action="store_true", help="only write the table of the lines there are")
    args = parser.parse_args()
    odd = [share for share in args.shares if not 0 < share <= 1]
    if odd:
        raise SystemExit(f"--shares {odd[0]} is outside (0, 1]")
    recipe = Recipe(args.labelled, args.variations, args.truncation, args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        compare(args.run, args.data, args, recipe)
    lines = read_lines(args.out)
    (args.out / "results.md").write_text(table(lines))
    print(table(lines), end="")


def compare(run: Path, data: Path, args: argparse.Namespace, recipe: Recipe) -> None:
    """Train what has no line yet, seed by seed, and append the lines."""
    device = local_device()
    if device.type == "cpu":
        keep_freed_memory()
    subject = load_subject(run, data, EvaluationSettings(instances=0, truncation=recipe.truncation), device)
    labels, names = subject.data.labels, subject.data.meta.class_names
    if labels is None or names is None:
        raise SystemExit(f"{data} has no labels: a classifier needs them")
    test = open_test(args.test, args.test_pictures, names)
    weights = sha256_of_file(run / "generator.safetensors")[:12]  # a run that has learnt more is another one
    same = {"run": run.name, "weights": weights, "recipe": asdict(recipe), "test_pictures": len(test.labels)}
    done = {
        json.dumps({name: line.get(name) for name in (*same, "seed", "share")})
        for line in read_lines(args.out)
    }
    for seed in range(args.seeds):
        wanted = [{**same, "seed": seed, "share": share} for share in (0.0, *args.shares)]
        wanted = [key for key in wanted if json.dumps(key) not in done]
        if not wanted:
            continue
        rows = labelled_rows(np.asarray(labels), recipe.labelled, seed)
        real = Pool(np.asarray(subject.data.images[rows]), np.asarray(labels[rows]))
        generated = None
        if args.shares:
            started = time.perf_counter()
            generated = Pool(variations(subject, rows, recipe, seed), real.labels.repeat(recipe.variations))
            spent = time.perf_counter() - started
            print(f"seed {seed}: {len(generated.labels)} variations in {spent:.0f} s", flush=True)
        for key in wanted:
            started = time.perf_counter()
            # without variations the share is 0, and nothing is taken from the second pool
            network = train_classifier(
                real, generated or real, key["share"], len(names), recipe, seed, device
            )
            line = {
                **key,
                "accuracy": round(accuracy(network, test, device), 4),
                # how many variations this network takes for what their label says
                "variations_recognised": generated and round(accuracy(network, generated, device), 4),
                "seconds": round(time.perf_counter() - started, 1),
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, {device}, torch {torch.__version__}",
            }
            add_line(args.out / "results.jsonl", line)
            print(f"  {key['share']:.0%} generated: accuracy {line['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
