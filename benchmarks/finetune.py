"""What fine-tuning is worth on small sets: from the demo's weights or from scratch, at equal processor time.

    python -m benchmarks.finetune --seconds 150 --out bench/finetune

Three sets of other kinds than the demo's fruit are fetched and prepared: `smileys` (narrow: 167 emoji of
faces), `wallpapers` (mixed: 153 paintings, vessels and photos of space) and `drawings` (285 emoji of animals,
plants and food). Each trains on one thread, `fit DATA --preset demo64`, the same with the preset `small-set`,
and `fit DATA --from models/demo`, until the process has spent so many seconds of processor time in training
(start-up and scores left out).
FID and KID are of 300 samples from all instances against all pictures of the set, Inception in bfloat16 where
the processor has it.

Every score is one line of OUT/results.jsonl; OUT/results.md and OUT/sheet.png are made from what there is. A
larger --seconds goes on with the same runs, and what has its line is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import add_line, machine, progress, table
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.fetch import fetch, find_weights
from icgan_training.data.grid import sample_grid, write_grid
from icgan_training.fit.loop import fit
from icgan_training.fit.origin import Origin
from icgan_training.fit.settings import choose_precision, resolve
from icgan_training.heap import keep_freed_memory
from icgan_training.networks.presets import preset
from icgan_training.score.evaluate import evaluate
from icgan_training.score.feature_networks import inception_network
from icgan_training.score.features import in_bfloat16
from icgan_training.score.subject import EvaluationSettings, draw, load_subject, repeat

CPU = torch.device("cpu")
SCORED = EvaluationSettings(metrics=("fid", "kid"), samples=300, instances=0)
NEIGHBOURS = 5
ENDLESS = 100_000_000  # pictures: the processor's time ends a run, not they
SHEET_SETTINGS = EvaluationSettings(metrics=("fid",), samples=4, instances=0)
SHEET_COLUMNS = 4
SHOWN = ("from scratch", "from models/demo")


@dataclass(frozen=True)
class Set:
    """Pictures of a kind: folders of something that can be fetched, or all of it."""

    kind: str
    item: str
    folders: tuple[str, ...] = ()


SETS = {
    "smileys": Set("narrow", "fluent-emoji", ("smileys-and-emotion",)),
    "wallpapers": Set("mixed", "wallpapers"),
    "drawings": Set("drawings", "fluent-emoji", ("animals-and-nature", "food-and-drink")),
}
ARMS: dict[str, tuple[str, Path | None]] = {
    "from scratch": ("demo64", None),
    "from scratch, small-set": ("small-set", None),  # what of it is the preset's
    "from models/demo": ("small-set", Path("models/demo")),
}


def prepared(name: str, out: Path) -> PreparedDataset:
    """The set as training reads it, made where it is not there yet."""
    folder, wanted = out / "data" / name, SETS[name]
    if not folder.exists():
        fetched, pictures = out / "fetched" / wanted.item, out / "pictures" / name
        if not fetched.exists():
            fetch(wanted.item, fetched)
        for source in [fetched / part for part in wanted.folders] or [fetched]:
            shutil.copytree(source, pictures, dirs_exist_ok=True)
        shutil.copy(fetched / "source.json", pictures)
        options = f"--no-labels --resolution 64 --encoder efficientnet-lite0 --neighbours {NEIGHBOURS} --out"
        command = [sys.executable, "-m", "icgan_training", "prepare", str(pictures), *options.split()]
        subprocess.run([*command, str(folder)], check=True)
    return PreparedDataset.open(folder)


def train(arm: str, data: PreparedDataset, run: Path, seconds: float) -> float:
    """Train the arm until it has spent so much processor time over all its parts; how much that was."""
    note = run / "spent.json"
    before = json.loads(note.read_text())["seconds"] if note.exists() else 0.0
    if before < seconds:
        name, folder = ARMS[arm]
        origin = None if folder is None else Origin.open(folder)
        changes = {"total_images": ENDLESS, "precision": choose_precision(CPU)[0], "checkpoint_ticks": 1000}
        model, settings = resolve(preset(name), data, changes, origin)
        with stopped_after(seconds - before) as spent:
            fit(model, settings, data, run, device=CPU, origin=origin)
        before += spent[0]
        note.write_text(json.dumps({"seconds": before}))
        if before < seconds - 1:
            raise SystemExit(f"{run} is stopped; the same command goes on from here")
    return float(before)


@contextmanager
def stopped_after(seconds: float) -> Iterator[list[float]]:
    """Ask this process to stop when it has spent so much processor time inside; yields what it spent."""
    start, spent, over = time.process_time(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if time.process_time() - start >= seconds:
                os.kill(os.getpid(), signal.SIGINT)  # which fit takes as the wish for a checkpoint
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield spent
    finally:
        spent[0] = time.process_time() - start
        over.set()
        watcher.join()


def line_of(arm: str, name: str, data: PreparedDataset, run: Path, spent: float) -> dict[str, Any]:
    """The scores of a run, with what they depend on."""
    subject = load_subject(run, data.path, SCORED, CPU)
    inception = inception_network(find_weights("inception"), CPU)
    if choose_precision(CPU)[0] == "bfloat16":
        inception = in_bfloat16(inception)
    result = evaluate(subject, data, SCORED, inception)
    config = json.loads((run / "config.json").read_text())
    last = sorted((run / "checkpoints").glob("step-*.safetensors"))[-1]
    step = int(last.stem.removeprefix("step-"))
    return {
        "set": name,
        "kind": SETS[name].kind,
        "pictures": data.meta.count,
        "arm": arm,
        "processor_seconds": round(spent, 1),
        "seen": step * config["train"]["batch_size"],
        "scores": {score: round(value, 5) for score, value in result.scores.items() if value is not None},
        "parameters": result.parameters,
        "origin": config.get("origin"),
        "train": config["train"],
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{machine()}, one thread, torch {torch.__version__}",
    }


def strips(name: str, out: Path) -> NDArray[np.uint8] | None:
    """Instances of a set, and right of them what each arm draws of them; nothing selected."""
    runs = [out / "runs" / run_name(name, arm) for arm in SHOWN]
    if not all((run / "generator.safetensors").exists() for run in runs):
        return None
    data, shown = PreparedDataset.open(out / "data" / name), []
    for run in runs:
        subject = load_subject(run, data.path, SHEET_SETTINGS, CPU)
        draws = draw(subject, SHEET_SETTINGS)
        samples = subject.samples(repeat(subject, draws, SHEET_COLUMNS, SHEET_SETTINGS))
        shown.append(samples.reshape(len(draws.instances), SHEET_COLUMNS, *samples.shape[1:]))
    return sample_grid(np.asarray(data.images[draws.instances]), np.concatenate(shown, axis=1))


def run_name(name: str, arm: str) -> str:
    """The folder of a run."""
    return "-".join([name, *arm.replace("/", " ").replace(",", " ").split()])


def read_lines(out: Path) -> list[dict[str, Any]]:
    """Every score there is."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(out: Path) -> str:
    """A Markdown table of every line there is."""
    lines = read_lines(out)
    order = [(name, arm) for name in SETS for arm in ARMS]
    lines.sort(key=lambda line: (line["processor_seconds"] // 10, order.index((line["set"], line["arm"]))))
    rows = [
        (
            f"{line['set']} ({line['kind']})",
            line["pictures"],
            line["arm"],
            f"{line['processor_seconds']:.0f} s",
            f"{line['seen']:,}",
            f"{line['scores']['fid']:.1f}",
            f"{line['scores']['kid']:.4f} ± {line['scores']['kid_deviation']:.4f}",
        )
        for line in lines
    ]
    return table(["set", "pictures", "start", "processor time", "seen", "FID ↓", "KID ↓"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150, help="of processor time for each run")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("bench/finetune"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        data = prepared(name, args.out)
        for arm in args.arms:
            done = [line for line in read_lines(args.out) if (line["set"], line["arm"]) == (name, arm)]
            if max((line["processor_seconds"] for line in done), default=0.0) >= args.seconds:
                continue
            progress(f"{name} {arm}")
            run = args.out / "runs" / run_name(name, arm)
            spent = train(arm, data, run, args.seconds)
            add_line(args.out / "results.jsonl", line_of(arm, name, data, run, spent))
    made = [strip for name in SETS if (strip := strips(name, args.out)) is not None]
    if made:
        write_grid(args.out / "sheet.png", np.concatenate(made, axis=0))
    text = report(args.out)
    (args.out / "results.md").write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
