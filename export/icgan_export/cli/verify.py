"""icgan-export verify: a bundle's graphs against the answers that torch gave, or one graph layer by layer."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icgan_export.cli.arguments import BUNDLE, Commands, Steps, add_command, require
from icgan_export.errors import ExportError
from icgan_runtime import files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.signature import check_signature
from icgan_runtime.console import Parser, say

if TYPE_CHECKING:
    from icgan_export.lower.compare import Comparison


def add_parser(commands: Commands[Parser]) -> None:
    """The command and its options."""
    command = add_command(
        commands,
        "verify",
        "icgan-export verify bundles/cifar10 --html verify.html",
        "Compare every graph of a bundle with torch's answers.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    command.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with the pictures (default: none)"
    )
    command.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="public key: first refuse a bundle that icgan-export sign did not sign with its private key",
    )
    score = command.add_argument_group("FID of every precision (needs the extra `evaluate`)")
    score.add_argument(
        "--fid", type=Path, metavar="DATA", help="prepared data set to compare with, and of the instances"
    )
    score.add_argument(
        "--samples",
        type=int,
        default=5000,
        metavar="N",
        help="how many pictures to generate, with --fid (default: %(default)s)",
    )
    layers = command.add_argument_group("one graph, layer by layer, instead of everything")
    layers.add_argument(
        "--bisect", metavar="FILE", help="graph of the bundle, for example generator.fp16.onnx"
    )
    layers.add_argument(
        "--run",
        dest="weights",
        type=Path,
        metavar="RUN",
        help="compare with a fresh export of these weights (default: the bundle's own float32 graph)",
    )
    command.set_defaults(run=run, samples_default=command.get_default("samples"))


def run(options: argparse.Namespace) -> int:
    """Compare; the result goes to stdout. Raises ExportError where a bound is missed."""
    _refuse_mixtures(options)
    if options.key is not None:
        check_signature(options.bundle, options.key)
    if options.bisect is not None:
        return _bisect(options)
    from icgan_export.check.bisect import worst_tensors
    from icgan_export.check.verify import verify

    report = verify(options.bundle)
    if options.fid is not None:
        report = replace(report, comparisons=(*report.comparisons, *_fid(options)))
    if options.html is not None:
        from icgan_export.check.page import verification_page

        with files.atomic_file(options.html) as partial:
            partial.write_text(verification_page(report), "utf-8")
    say(json.dumps(report.to_json(), indent=1) if options.json else report.table())
    if not report.passed:
        if not options.json:
            say(f"\n{worst_tensors(options.bundle, report)}")
        worst = report.failures[0]
        raise ExportError(
            f"{options.bundle}: {len(report.failures)} bounds missed, first: {worst.stage} "
            f"{worst.precision}, {worst.what} {worst.value:.4g} (bound {worst.bound:g})"
        )
    return 0


def _refuse_mixtures(options: argparse.Namespace) -> None:
    """Raise ExportError, before any work is done, for options that do not go together or name no place."""
    if options.bisect is not None:
        for flag in ("json", "html", "fid"):
            if getattr(options, flag):
                raise ExportError(f"--{flag} is of the whole verification: leave it out beside --bisect")
        return
    if options.weights is not None:
        raise ExportError("--run is what one graph is compared with: name the graph with --bisect")
    if options.html is not None and not options.html.parent.is_dir():
        raise ExportError(f"--html {options.html}: there is no folder {options.html.parent}")
    if options.html is not None and options.html.is_dir():
        raise ExportError(f"--html {options.html} is a folder: name a file in it")
    require("--samples", options.samples, 2)
    if options.fid is None and options.samples != options.samples_default:
        raise ExportError("--samples is of the FID: name a prepared data set with --fid")


def _bisect(options: argparse.Namespace) -> int:
    from icgan_export.check.bisect import bisect

    found = bisect(options.bundle, options.bisect, options.weights)
    say(found.table())
    return 0 if found.first_bad is None else 1


def _fid(options: argparse.Namespace) -> list[Comparison]:
    from icgan_export.check.fidelity import compare_fid, fid_of_each
    from icgan_training.data.dataset import PreparedDataset

    bundle, data = Bundle.open(options.bundle), PreparedDataset.open(options.fid)
    data.verify()
    return compare_fid(fid_of_each(bundle, data, options.samples, Steps()))
