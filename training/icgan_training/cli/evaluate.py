"""`icgan-train evaluate`: scores of a run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from icgan_runtime.console import say
from icgan_training.cli.common import Subparsers, add_command, count, truncation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.score.evaluate import Evaluation
    from icgan_training.score.subject import EvaluationSettings, Subject


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "icgan-train evaluate runs/cifar10 --metrics fid,kid,prdc --samples 10k",
        "Score the generator of a run directory against real pictures; every setting is printed with it.\n"
        "Writes evaluation.json, evaluation.html and the sample sheet samples.png into the run directory;\n"
        "labels.png too, the same instances with other labels, where the model takes both.",
    )
    _add_what(parser)
    _add_how(parser)
    _add_networks(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report (default: RUN)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")


def _add_what(parser: argparse.ArgumentParser) -> None:
    """What is scored, and against what."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory of fit or convert")
    parser.add_argument(
        "--data", type=Path, help="prepared data set of the instances (default: the one it was trained on)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="DATA",
        help="prepared data set to compare with (default: that of the instances)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Which scores, of how many samples of which instances."""
    parser.add_argument(
        "--metrics",
        default="fid,kid,prdc,lpips",
        metavar="LIST",
        help="of fid, kid, prdc, is, lpips, strata (FID by class size), copies (whether samples are copies "
        "of real pictures), instance and labels (how samples follow them) (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=count,
        default=50_000,
        metavar="N",
        help="how many pictures to generate (default: 50k, as published)",
    )
    parser.add_argument(
        "--reference-pictures",
        type=count,
        default=0,
        metavar="N",
        help="compare with N pictures of the reference, drawn at random (default: 0, all)",
    )
    parser.add_argument(
        "--instances",
        type=instances,
        default=(1000, 0),
        metavar="M",
        help="how many pictures serve as instances, 0 for all; or prior:K, instances drawn from a prior of K "
        "centres (default: 1000)",
    )
    parser.add_argument(
        "--choice",
        choices=("kmeans", "random"),
        default="kmeans",
        help="how the instances are chosen (default: kmeans)",
    )
    parser.add_argument(
        "--truncation",
        type=truncation,
        metavar="T",
        help="noise within ±2T (StyleGAN2: psi towards the mean w), T in (0, 1] (default: none)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same samples (default: 0)"
    )


def instances(text: str) -> tuple[int, int]:
    """How many pictures, and how many centres of a prior: 1000 or prior:64, the type of --instances."""
    kind, colon, centres = text.partition(":")
    if not colon:
        return count(text), 0
    if kind != "prior" or not (centres.isdecimal() and int(centres)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pictures nor prior:K, as prior:64")
    return 0, int(centres)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    """The networks whose features are compared."""
    parser.add_argument(
        "--inception",
        default="inception",
        metavar="FILE",
        help="weights of the FID Inception (default: fetched once)",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="features of Inception in bfloat16, twice as fast on a CPU; compare with such figures only "
        "(default: float32)",
    )
    parser.add_argument(
        "--second",
        metavar="ENCODER",
        help="KID and precision/recall by another encoder's features too: resnet50, efficientnet-lite0, or "
        "a file of ours (default: none)",
    )
    parser.add_argument(
        "--logits",
        type=Path,
        metavar="FILE",
        help="full FID Inception of yours (torch file), which the metric `is` needs (default: none)",
    )


def run(args: argparse.Namespace) -> None:
    from icgan_runtime.files import sha256_of_file
    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.data.fetch import find_weights
    from icgan_training.distributed import local_device
    from icgan_training.networks.inception import load_inception_with_logits
    from icgan_training.networks.lpips import load_lpips
    from icgan_training.score.evaluate import OF_FEATURES, evaluate
    from icgan_training.score.feature_networks import conditioning_network, encoder_network, inception_network
    from icgan_training.score.features import in_bfloat16
    from icgan_training.score.report import write_report
    from icgan_training.score.subject import EvaluationSettings, load_subject

    settings = EvaluationSettings(
        metrics=tuple(part.strip() for part in args.metrics.split(",") if part.strip()),
        samples=args.samples,
        instances=args.instances[0],
        prior=args.instances[1],
        choice=args.choice,
        reference=args.reference_pictures,
        truncation=args.truncation,
        seed=args.seed,
    )
    device = local_device()
    subject = load_subject(args.run_dir, args.data, settings, device)
    reference = subject.data
    if args.reference is not None:
        reference = PreparedDataset.open(args.reference)
        reference.verify()
    follows = {"instance", "labels"} & set(settings.metrics)
    second = None
    if args.second is not None:
        second = encoder_network(find_weights(args.second), device, subject.data.meta.encoder)
    inception = None
    if OF_FEATURES & set(settings.metrics):  # what no metric asks for is not fetched
        inception = inception_network(find_weights(args.inception), device)
        inception = in_bfloat16(inception) if args.bfloat16 else inception
    result = evaluate(
        subject,
        reference,
        settings,
        inception,
        second=second,
        logits=None if args.logits is None else load_inception_with_logits(args.logits).to(device),
        lpips=load_lpips(find_weights("lpips-alexnet")).to(device) if "lpips" in settings.metrics else None,
        encoder=conditioning_network(subject.data, device) if follows else None,
    )
    # by which `icgan-export bundle` knows the scores of the weights it exports
    weights = {"generator": sha256_of_file(args.run_dir / "generator.safetensors")[:12]}
    result = dataclasses.replace(result, parameters=result.parameters | weights)
    folder = args.out or args.run_dir
    write_report(result, str(args.run_dir), _sheets(subject, reference, settings, result), folder)
    if args.json:
        say(result.to_json().rstrip())
    else:
        _say_evaluation(result)
        say(f"report: {folder / 'evaluation.html'}")


def _sheets(
    subject: Subject, reference: PreparedDataset, settings: EvaluationSettings, result: Evaluation
) -> dict[str, NDArray[np.uint8]]:
    """The grids of the report by name: samples, and what else the model and the metrics give."""
    from icgan_training.score.sheets import copies_grid, example_grid, label_grid

    sheets = {"samples": example_grid(subject, settings)}
    labels = label_grid(subject, settings)
    if labels is not None:
        sheets["labels"] = labels
    if result.closest:
        sheets["copies"] = copies_grid(subject, reference, settings, result.closest)
    return sheets


def _say_evaluation(result: Evaluation) -> None:
    """Scores, what they depend on, and notes, for people."""
    from icgan_training.score.report import score_lines, setting_lines

    for name, value in score_lines(result):
        say(f"{name:<44} {value}")
    for name, value in setting_lines(result):
        say(f"  {name}: {value}")
    for note in result.notes:
        say(f"note: {note}")
