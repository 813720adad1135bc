"""icgan-export edge: a bundle's graphs for the runtimes of other apps."""

from __future__ import annotations

import argparse
from pathlib import Path

from icgan_export.cli.arguments import BUNDLE, Commands, Steps, add_command, listed
from icgan_export.errors import ExportError
from icgan_runtime.console import Parser, say, tell


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "edge",
        "icgan-export edge bundles/demo --target ort,openvino --out edge/",
        "Encoder, lookup and generator in the formats of edge runtimes, each run there and compared.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    command.add_argument(
        "--target",
        required=True,
        metavar="LIST",
        help="of coreml, executorch, litert, mnn, ncnn, openvino, ort, web: each a folder of --out",
    )
    command.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="of fp32, which must be among them, fp16, int8; one that a runtime has not, or that misses its "
        "bound, is named and left out (default: %(default)s)",
    )
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    command.add_argument(
        "--run",
        type=Path,
        dest="weights",
        metavar="RUN",
        help="the run that the bundle was made of: the generator takes each runtime's fastest form "
        "(default: as in the bundle)",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the folder; 1 where a target was left out."""
    from icgan_export.edge.target import TARGETS
    from icgan_export.edge.write import MANIFEST_NAME, write_edge

    out: Path = options.out
    if out.exists() and not (out / MANIFEST_NAME).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} exists and is no folder of edge files: choose another place")
    targets = listed(options.target)
    if not targets:
        raise ExportError(f"--target names no runtime: choose from {', '.join(TARGETS)}")
    missing = write_edge(options.bundle, out, targets, options.weights, Steps(), listed(options.precision))
    say(f"wrote {out}" + (f" without {', '.join(missing)}" if missing else ""))
    for name, reason in missing.items():
        tell(f"icgan-export: {name} is left out ({reason})")
    return 1 if missing else 0
