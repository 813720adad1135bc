"""`icgan-train fit`: train on a prepared data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icgan_runtime.console import say, tell
from icgan_training.cli.common import Subparsers, add_command, count
from icgan_training.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.fit.loop import Evaluate
    from icgan_training.fit.origin import Origin
    from icgan_training.networks.backbones import AnyConfig
    from icgan_training.networks.config import TrainConfig
    from icgan_training.networks.presets import Preset


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "fit",
        run,
        "icgan-train fit data/cifar10-32 --preset cifar10 --out runs/cifar10",
        "Train on a prepared data set. Stopped or killed, the same command goes on where it was.",
    )
    parser.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help="folder that icgan-train prepare wrote"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="the model and its settings; --list shows all (default with --from: small-set of its backbone)",
    )
    parser.add_argument(
        "--from",
        dest="origin",
        type=Path,
        metavar="RUN",
        help="start from the weights of this run directory, such as models/demo; the preset says how it "
        "goes on",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="run directory, made or continued (default with --from: runs/ and the name of DATA)",
    )
    parser.add_argument(
        "--images",
        type=count,
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
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with the run in --out, its data and settings, but for what --set, --images and "
        "--precision change; without it a run goes on only with the settings that it was started with",
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
        type=count,
        metavar="N",
        help="at every checkpoint take the FID of N samples against up to N pictures, and export the best "
        "(default: export the last)",
    )
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings as JSON and exit")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> None:
    from icgan_training.networks.presets import PRESETS, preset

    if args.list:
        for row in PRESETS.values():
            say(f"{row.name:28} {row.summary}" + (f" ({row.score})" if row.score else ""))
        return
    _check(args)

    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.distributed import join, leave, local_device
    from icgan_training.fit.loop import fit
    from icgan_training.fit.origin import Origin
    from icgan_training.fit.run import read_config
    from icgan_training.fit.settings import of_run, resolve
    from icgan_training.heap import keep_freed_memory

    device = local_device()
    out = _out(args)
    overrides, reason = _overrides(args, out, device)
    there = read_config(out) if args.go_on else {}
    data = PreparedDataset.open(args.data or _recorded_data(out, there))
    begun = there.get("origin", {}).get("path")
    source = args.origin or (Path(begun) if begun else None)
    origin = None if source is None else Origin.open(source)
    if args.go_on:
        chosen, (model, train) = None, of_run(out, there, overrides)
    else:
        chosen = preset(origin.preset if origin and args.preset is None else args.preset)
        model, train = resolve(chosen, data, overrides, origin)
    if args.dry_run:
        say(json.dumps({"model": model.to_dict(), "train": train.to_dict()}, indent=2))
        return
    if device.type == "cpu":
        keep_freed_memory()
    processes = join(device)
    if processes.first:
        data.verify()
        why = f" ({reason})" if reason else ""
        print(f"{train.precision} on {device}{why}, processes: {processes.world}", file=sys.stderr)
        _announce(out, chosen, model, train, data, origin)
    score = None
    if args.fid_samples is not None:
        score = _scorer(data.nearest(train.neighbours), args.fid_samples, device)
    complete = fit(
        model,
        train,
        data,
        out,
        device=device,
        processes=processes,
        evaluate=score,
        origin=origin,
        change=args.go_on,
    )
    if processes.first:
        end = "is complete" if complete else "is stopped; the same command goes on from here"
        print(f"{out} {end}", file=sys.stderr)
    leave()


def _announce(
    out: Path,
    chosen: Preset | None,
    model: AnyConfig,
    train: TrainConfig,
    data: PreparedDataset,
    origin: Origin | None,
) -> None:
    """What the person who waits should know before the first step."""
    from icgan_training.data.advice import likeness, warnings
    from icgan_training.fit.resume import list_checkpoints
    from icgan_training.fit.settings import neighbourhood_note

    if checkpoints := list_checkpoints(out / "checkpoints"):
        step = int(checkpoints[-1].stem.removeprefix("step-"))
        print(f"{out} goes on after step {step}", file=sys.stderr)
        return  # the rest was said when it began
    if origin is not None:
        print(f"{out} starts from {origin.words(model)}", file=sys.stderr)
    if chosen is not None and (note := neighbourhood_note(chosen, model, train, data)):
        print(note, file=sys.stderr)
    used = data.nearest(train.neighbours)
    for warning in warnings(used, likeness(used), fine_tuned=origin is not None):
        tell(f"warning: {warning}")


def _check(args: argparse.Namespace) -> None:
    """Refuse, before torch is imported, what no data set makes right."""
    from icgan_training.networks.presets import preset

    alone = args.origin is None
    if args.go_on and args.out is None:
        args.parser.error("--continue goes on with a run: say which, --out RUN")
    if args.go_on and args.preset is not None:
        args.parser.error("--continue takes the settings of the run in --out: leave --preset out")
    incomplete = args.data is None or (alone and (args.preset is None or not (args.out or args.dry_run)))
    if incomplete and not args.go_on:
        args.parser.error("DATA, --preset and --out are needed, or DATA and --from")
    if args.preset is not None:
        preset(args.preset)
    if args.images == 0:
        raise ConfigError("--images is 0, it must be at least 1")
    if args.fid_samples is not None and args.fid_samples < 2:
        raise ConfigError(f"--fid-samples is {args.fid_samples}, it must be at least 2")


def _out(args: argparse.Namespace) -> Path:
    """The run directory: what was asked for, or one by the name of the data set."""
    out: Path = args.out or Path("runs") / args.data.resolve().name  # --continue has an --out
    if args.origin is not None and out.resolve() == args.origin.resolve():
        raise ConfigError(f"--out {out} is the run of --from: choose another --out")
    return out


def _recorded_data(out: Path, config: dict[str, Any]) -> Path:
    """The data set that a run was started with."""
    from icgan_training.fit.run import find_data

    found = find_data(out, config)
    if found is None:
        raise ConfigError(f"{out} names no data set: say which, icgan-train fit DATA --continue --out {out}")
    return found


def _overrides(args: argparse.Namespace, out: Path, device: torch.device) -> tuple[dict[str, Any], str]:
    """What options say of the settings, and why the precision is what it is where the program chose it."""
    from icgan_training.fit.run import CONFIG, read_config
    from icgan_training.fit.settings import choose_precision, parse_overrides

    overrides = parse_overrides(args.set)
    for flag, name, given in (
        ("--precision", "precision", args.precision != "auto"),
        ("--images", "total_images", args.images is not None),
    ):
        if given and name in overrides:
            raise ConfigError(f"--set {name} says again what {flag} says: leave one of them out")
    if args.images is not None:
        overrides["total_images"] = args.images
    if args.precision != "auto":
        return overrides | {"precision": args.precision}, ""
    if "precision" in overrides or args.go_on:
        return overrides, ""
    if (out / CONFIG).exists():  # a run goes on with the precision that it has
        begun = read_config(out).get("train", {}).get("precision")
        if begun is not None:
            return overrides | {"precision": begun}, "the run's"
    automatic, reason = choose_precision(device)
    return overrides | {"precision": automatic}, reason


def _scorer(data: PreparedDataset, samples: int, device: torch.device) -> Evaluate:
    """FID of that many samples against as many pictures of the data."""
    from icgan_training.data.fetch import find_weights
    from icgan_training.score.evaluate import fid_scorer
    from icgan_training.score.feature_networks import inception_network

    return fid_scorer(data, samples, inception_network(find_weights("inception"), device))
