"""icgan-export onnx: the generator of a run directory as one ONNX file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from icgan_export.cli.arguments import RUN, Commands, Steps, add_command, add_target, listed, require_run
from icgan_export.errors import ExportError
from icgan_export.rewrite.choice import Rewrites
from icgan_export.rewrite.stylegan2.choice import StyleRewrites
from icgan_runtime.bundle.manifest import PRECISIONS
from icgan_runtime.console import Parser, say


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "onnx",
        "icgan-export onnx models/demo --encoder --out app/generator.onnx",
        "The generator alone as one ONNX file, for other applications.",
    )
    command.add_argument("source", type=Path, metavar="RUN", help=RUN)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".onnx file to write; a page that says how to use it comes beside it, as .md",
    )
    command.add_argument(
        "--image-dtype",
        choices=("uint8", "float32"),
        default="uint8",
        help="uint8 [N, R, R, 3], or float32 [N, 3, R, R] in [-1, 1] (default: %(default)s)",
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the generator; below fp32 it is measured on the pictures that the run was trained on, or "
        "carries (default: %(default)s)",
    )
    command.add_argument(
        "--encoder",
        action="store_true",
        help="write the encoder beside the generator, as NAME.encoder.onnx: photos become embeddings with it",
    )
    command.add_argument("--no-rewrite", action="store_true", help="leave out the speed rewrites, to compare")
    command.add_argument(
        "--without",
        default="",
        metavar="LIST",
        help="leave out some of the speed rewrites: blocks, condition_product, early_shortcut, output_norm, "
        "attention_product, attention_parts, output_transposed; of StyleGAN2: blocks, styles_product, "
        "colours_product, enlarged_colours (default: none)",
    )
    add_target(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export and compare with torch; what was written goes to stdout."""
    if options.out.is_dir():
        raise ExportError(f"--out {options.out} is a folder: name a file in it")
    if options.out.suffix == ".md":
        raise ExportError(f"--out {options.out}: a page of this name comes beside the graph: end it in .onnx")
    without = listed(options.without)
    refuse_unknown_rewrites(without)
    require_run(options.source)
    # now that all of this is in order: it takes seconds
    from icgan_export.rewrite.backbones import AnyRewrites, best_rewrites, no_rewrites
    from icgan_export.standalone import AloneOptions, write_generator
    from icgan_training.networks.backbones import AnyConfig

    def choose(config: AnyConfig) -> AnyRewrites:
        if options.no_rewrite:
            return no_rewrites(config)
        return best_rewrites(config, options.target).without(without)

    asked = AloneOptions(options.image_dtype, options.precision, options.encoder)
    operators = write_generator(options.source, options.out, asked, choose, Steps())
    written = [options.out, options.out.with_suffix(".md")]
    if options.encoder:
        written.insert(1, options.out.with_name(f"{options.out.stem}.encoder.onnx"))
    say(f"wrote {', '.join(map(str, written))}")
    say("operators: " + ", ".join(f"{count} {name}" for name, count in operators.items()))
    return 0


def refuse_unknown_rewrites(names: tuple[str, ...]) -> None:
    """Raise ExportError for a name that neither backbone's rewrites have."""
    known = [field.name for kind in (Rewrites, StyleRewrites) for field in dataclasses.fields(kind)]
    for name in names:
        if name not in known:
            raise ExportError(f"--without {name}: choose from {', '.join(dict.fromkeys(known))}")
