"""`icgan-train prepare`: pictures into the arrays that training reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icgan_runtime.console import say
from icgan_runtime.errors import MissingExtraError
from icgan_training.cli.common import Subparsers, add_command, count, location
from icgan_training.errors import DataError

if TYPE_CHECKING:
    from icgan_runtime.cluster import Place
    from icgan_training.data.selection import Selection
    from icgan_training.distributed import Processes


def add_parser(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "prepare",
        run,
        "icgan-train prepare data/groceries --resolution 64 --encoder efficientnet-lite0 "
        "--neighbours 10 --out data/groceries64",
        "Turn pictures into the arrays that training reads: decoded, embedded, with neighbourhoods.\n"
        "A killed run continues where it stopped when started again. Also under torchrun.",
    )
    parser.add_argument(
        "source",
        type=location,
        metavar="SOURCE",
        help="folder of pictures, folder with one sub-folder per class, fetched data set, or a .csv or "
        ".parquet list with the columns path and, if there are labels, label; also .hdf5 of the published "
        "system, WebDataset .tar (or a folder of them), Parquet with pictures, and what datasets saved; or "
        "the URL of a folder of pictures or of .tar in an object storage, as s3://bucket/photos",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder to write")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="side of the prepared pictures")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="take --resolution, --neighbours and --squeeze from a preset of fit, where they are not given",
    )
    parser.add_argument(
        "--squeeze",
        action="store_true",
        help="make pictures square by squeezing them, as COCO-Stuff was published (default: their middle)",
    )
    parser.add_argument(
        "--encoder",
        help="efficientnet-lite0 or resnet50, fetched once; a weights file (ours, or a torch ResNet-50); "
        "timm:NAME, any model of timm that takes square RGB pictures, with --weights; or FILE.onnx",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights of --encoder timm:NAME: safetensors or a torch state dict, as timm or the publisher "
        "names them (default: none)",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        metavar="PIXELS",
        help="side that pictures are enlarged to before the encoder (default: what its file, or timm, says)",
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        metavar="K",
        help="of each picture (default: 50, or as many as the set of --add-to has)",
    )
    parser.add_argument(
        "--add-to",
        type=Path,
        metavar="DATA",
        help="a prepared set that comes first in --out as it is: only the pictures of SOURCE are embedded, "
        "at its resolution by its encoder, and neighbours are found among all (default: none)",
    )
    parser.add_argument(
        "--exact-up-to",
        type=count,
        default=200_000,
        metavar="N",
        help="above this many pictures neighbours are approximate (default: 200k)",
    )
    parser.set_defaults(parser=parser)
    add_onnx(parser)
    add_selection(parser)
    parser.add_argument("--no-labels", action="store_true", help="ignore sub-folder names and label columns")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="decode and embed on the Ray cluster there, or on this machine's cores: local (default: here)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="tasks at once with --ray, 0 for as many as fit (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="processors of each task with --ray (default: %(default)s)",
    )


def add_onnx(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "--encoder FILE.onnx", "What is not given is taken from preprocessor_config.json beside the file."
    )
    group.add_argument(
        "--encoder-output", metavar="NAME", help="whose rows are the embeddings (default: the only output)"
    )
    group.add_argument(
        "--encoder-tokens",
        choices=["first", "mean"],
        help="of an output of many vectors: the first, a class token, or the mean (default: it has one)",
    )
    for name, what in (("mean", "subtracted from"), ("std", "that divides")):
        group.add_argument(
            f"--encoder-{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{what} red, green and blue (default: none where --encoder-scale is given)",
        )
    group.add_argument(
        "--encoder-scale",
        type=float,
        choices=[1, 255],
        help="what white is before mean and deviation (default: 1)",
    )
    group.add_argument(
        "--encoder-resize",
        choices=["bicubic", "bilinear"],
        help="how pictures are enlarged (default: bicubic)",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures by COCO's annotations")
    group.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="annotations of the pictures; those with --objects objects are taken (default: all pictures)",
    )
    group.add_argument("--objects", default="3-8", metavar="LEAST-MOST", help="(default: %(default)s)")
    group.add_argument(
        "--object-share",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="of the picture, that an object's box must exceed to count (default: %(default)s)",
    )
    group.add_argument(
        "--uncounted",
        default="other",
        metavar="CATEGORY",
        help="whose objects do not count (default: %(default)s)",
    )
    group.add_argument(
        "--part", metavar="first:N", help="the first N pictures taken, or rest:N, those after (default: all)"
    )
    group.add_argument(
        "--class-sets",
        choices=["seen", "unseen"],
        help="only pictures whose set of categories a picture of --trained-on shows, or none (default: all)",
    )
    group.add_argument(
        "--trained-on", type=Path, nargs="+", metavar="JSON", help="annotations of the training pictures"
    )


def run(args: argparse.Namespace) -> None:
    from icgan_runtime.identity import CENTRE, SQUEEZE
    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.data.prepare import prepare
    from icgan_training.distributed import join, leave, local_device
    from icgan_training.networks.pixels import OnnxOptions
    from icgan_training.networks.presets import preset as find_preset

    selection = selected(args)
    usual, squeeze = 50, args.squeeze
    if args.preset is not None:
        if args.add_to is not None:
            args.parser.error("--add-to takes its set's settings: leave --preset out")
        preset = find_preset(args.preset)
        args.resolution = args.resolution or preset.model.resolution
        usual, squeeze = preset.neighbours or usual, squeeze or preset.squeeze
    base = None if args.add_to is None else PreparedDataset.open(args.add_to)
    if base is not None and (args.resolution, args.encoder, args.input_size) != (None, None, None):
        args.parser.error(
            "--add-to takes --resolution, --encoder and --input-size from its set: leave them out"
        )
    if base is not None and (squeeze or selection is not None):
        args.parser.error(
            "--add-to takes how pictures become square from its set, and all of SOURCE: leave"
            " --squeeze and --annotations out"
        )
    if base is None and (args.resolution is None or args.encoder is None):
        args.parser.error("--resolution (or --preset) and --encoder are needed, or --add-to")
    processes = join(local_device())
    place = None if args.ray is None else ray_place(args, processes)
    if base is not None and processes.first:
        base.verify()
    prepare(
        args.source,
        args.out,
        resolution=args.resolution if base is None else base.meta.resolution,
        encoder=args.encoder if base is None else str(base.encoder_path),
        weights=args.weights,
        onnx=OnnxOptions(
            args.encoder_output,
            args.encoder_tokens,
            args.encoder_mean,
            args.encoder_std,
            args.encoder_scale,
            args.encoder_resize,
        ),
        input_size=args.input_size,
        neighbours=args.neighbours or (usual if base is None else base.meta.neighbours),
        exact_up_to=args.exact_up_to,
        use_labels=not args.no_labels,
        crop=(SQUEEZE if squeeze else CENTRE) if base is None else base.meta.crop,
        selection=selection,
        processes=processes,
        base=base,
        place=place,
    )
    leave()
    if processes.first:
        say(f"{args.out} is ready")


def selected(args: argparse.Namespace) -> Selection | None:
    """What the options on annotations ask for; None without any. DataError for what cannot be."""
    from icgan_training.data.selection import Selection

    if args.annotations is None:
        given = [name for name in ("part", "class_sets", "trained_on") if getattr(args, name) is not None]
        if given:
            args.parser.error(f"--{given[0].replace('_', '-')} goes with --annotations")
        return None
    least, dash, most = args.objects.partition("-")
    if not (dash and least.isdigit() and most.isdigit()):
        raise DataError(f"--objects is {args.objects}, it must be LEAST-MOST, as 3-8")
    part = None
    if args.part is not None:
        which, _, length = args.part.partition(":")
        if not length.isdigit():
            raise DataError(f"--part is {args.part}, it must be first:N or rest:N, as first:1024")
        part = which, int(length)
    return Selection(
        tuple(args.annotations),
        (int(least), int(most)),
        args.object_share,
        args.uncounted,
        part,
        args.class_sets,
        tuple(args.trained_on or ()),
    )


def ray_place(args: argparse.Namespace, processes: Processes) -> Place:
    """Where the tasks run, and on what. MissingExtraError where Ray is not installed."""
    import torch

    for name, value, least in (("--workers", args.workers, 0), ("--threads", args.threads, 1)):
        if value < least:
            raise DataError(f"{name} is {value}, it must be at least {least}")
    if processes.world > 1:
        args.parser.error("--ray and torchrun both share the work out: take one of them")
    try:
        from icgan_runtime.cluster import Place
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    return Place(args.ray, args.workers, args.threads, gpus=int(torch.cuda.is_available()))
