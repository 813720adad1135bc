"""What stored instances and truncated noise do to the samples of one trained model.

    python -m benchmarks.draws models/cifar10 data/cifar10-32 --out bench/draws

Two ablations of the paper that need no training: a model that stores few of its data set's pictures, chosen
by k-means or at random, and noise kept within ±2t. Every row draws the same number of samples from the same
MODEL and compares them with the same pictures of DATA; it appends a line to OUT/results.jsonl and is skipped
when it has one, so a killed command goes on when it is given again. OUT/results.md is made from the lines.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.report import add_line, table
from benchmarks.study import (
    SCORE_TITLES,
    SCORES,
    judge,
    machine,
    read_lines,
    rounded,
    score_cells,
)
from icgan_runtime.files import sha256_of_file
from icgan_training.data.dataset import PreparedDataset
from icgan_training.distributed import local_device
from icgan_training.heap import keep_freed_memory
from icgan_training.score.evaluate import evaluate
from icgan_training.score.subject import Choice, EvaluationSettings, load_subject

STORED = (10, 100, 1000)
CHOICES: dict[Choice, str] = {"kmeans": "by k-means", "random": "at random"}
TRUNCATIONS = (0.3, 0.5, 0.7, 1.0)


def rows(base: EvaluationSettings) -> Iterator[tuple[str, EvaluationSettings]]:
    """Every row with how its samples are drawn; the first one is what the others are compared with."""
    yield "all instances, untruncated", base
    for count in STORED:
        for choice, words in CHOICES.items():
            yield f"{count} instances {words}", replace(base, instances=count, choice=choice)
    for truncation in TRUNCATIONS:
        yield f"truncation {truncation}", replace(base, truncation=truncation)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a run, or a directory of shipped weights")
    parser.add_argument("data", type=Path, help="the prepared data set that it was trained on")
    parser.add_argument("--samples", type=int, default=2_000, help="samples of every row")
    parser.add_argument("--reference", type=int, default=2_000, help="real pictures to compare with")
    parser.add_argument("--names", nargs="*", help="only these rows: 'truncation 0.5', …")
    parser.add_argument("--out", type=Path, default=Path("bench/draws"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = local_device()
    if device.type == "cpu":
        keep_freed_memory()
    base = EvaluationSettings(SCORES, samples=args.samples, instances=0, reference=args.reference)
    data = PreparedDataset.open(args.data)
    inception = judge(device, read_lines(args.out))

    # a run that has learnt more is another model
    asked = {
        "weights": sha256_of_file(args.model / "generator.safetensors")[:12],
        "samples": args.samples,
        "pictures": args.reference,
    }

    def done() -> dict[str, dict[str, float]]:
        """The scores of the rows that have their line, of this model and as many pictures."""
        lines = read_lines(args.out)
        return {line["name"]: line["scores"] for line in lines if asked.items() <= line.items()}

    for name, settings in rows(base):
        if name not in (args.names or [name]) or name in done():
            continue
        print(name, flush=True)
        result = evaluate(load_subject(args.model, args.data, settings, device), data, settings, inception)
        line = {
            "name": name,
            "scores": rounded(result),
            "model": str(args.model),
            **asked,
            "parameters": result.parameters,
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(inception),
        }
        add_line(args.out / "results.jsonl", line)
    scores = done()
    text = table(
        ["samples", *SCORE_TITLES],
        [[name, *score_cells([scores[name]])] for name, _ in rows(base) if name in scores],
    )
    (args.out / "results.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
