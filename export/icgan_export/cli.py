"""icgan-export: bundle | onnx | engine | verify | triton."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icgan_export.errors import ExportError
from icgan_runtime import __version__, files
from icgan_runtime.bundle.manifest import MAX_NEIGHBOURS, PRECISIONS, ROLES
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.console import Parser, say, tell
from icgan_runtime.errors import IcganError
from icgan_runtime.server.models import LOOKUPS
from icgan_training.errors import LIBRARIES, REFUSED_BY_THE_MACHINE, TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after a one-line message about a user's mistake."""
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ExportError, IcganError, TrainingError) as error:
        tell(f"icgan-export: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name not in {*LIBRARIES, "onnx", "onnxscript"}:
            raise
        print(f"icgan-export: {error.name} is not installed: pip install 'icgan[export]'", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        tell(f"icgan-export: {error}: mend that and run the same command again")
        return 1
    except KeyboardInterrupt:
        print("icgan-export: interrupted", file=sys.stderr)
        return 130
    return status


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="icgan-export",
        description="example: icgan-export bundle runs/cifar10 --precision fp32,fp16 --out bundles/cifar10"
        "\n\nMake bundles of trained weights, which icgan runs, and what servers and other programs take.",
    )
    top.add_argument(
        "--version",
        action="version",
        version=f"icgan-export {__version__}",
        help="print the version and exit",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_bundle(commands)
    _add_onnx(commands)
    _add_engine(commands)
    _add_verify(commands)
    _add_triton(commands)
    return top


Commands = argparse._SubParsersAction  # argparse has no public name for it

# What several commands say of the same argument.
_RUN = "run directory of icgan-train fit or convert"
_BUNDLE = "folder that icgan-export bundle wrote"


def _add_command(commands: Commands[Parser], name: str, example: str, summary: str) -> Parser:
    """A subcommand whose help opens with a runnable example."""
    return commands.add_parser(name, help=summary, description=f"example: {example}\n\n{summary}")


def _list(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _add_target(command: Parser) -> None:
    command.add_argument(
        "--target",
        choices=("onnxruntime", "openvino", "tensorrt"),
        default="onnxruntime",
        help="whose fastest form the generator takes; every runtime reads each (default: %(default)s)",
    )


def _add_bundle(commands: Commands[Parser]) -> None:
    command = _add_command(
        commands,
        "bundle",
        "icgan-export bundle runs/cifar10 --instances 1000 --out bundles/cifar10",
        "Weights and pictures become a bundle, compared with torch before it is written.",
    )
    command.add_argument("source", type=Path, metavar="RUN", help=_RUN)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="BUNDLE",
        help="folder to write; a bundle that is there is replaced",
    )
    command.add_argument(
        "--bank",
        type=Path,
        metavar="FOLDER",
        help="take the instances from these pictures or this prepared data set (default: from what the run "
        "was trained on, or carries)",
    )
    command.add_argument(
        "--instances",
        type=int,
        default=1000,
        metavar="M",
        help="store at most M instances (default: %(default)s)",
    )
    command.add_argument(
        "--neighbours", type=int, default=10, metavar="K", help="of a search result (default: %(default)s)"
    )
    command.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="of fp32, which must be among them, fp16, bf16, int8 (default: %(default)s)",
    )
    command.add_argument(
        "--thumbnails",
        type=int,
        default=64,
        metavar="PIXELS",
        help="largest side kept of an instance, 0 for no thumbnails (default: %(default)s)",
    )
    _add_target(command)
    command.set_defaults(run=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    from icgan_export.bundle import Options, write_bundle
    from icgan_training.heap import keep_freed_memory

    out: Path = options.out
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} exists and is no bundle: choose another place")
    _require("--instances", options.instances, 1)
    _require("--neighbours", options.neighbours, 1, MAX_NEIGHBOURS)
    _require("--thumbnails", options.thumbnails, 0)
    settings = Options(
        precisions=_list(options.precision),
        instances=options.instances,
        neighbours=options.neighbours,
        bank=options.bank,
        thumbnail_size=options.thumbnails,
        target=options.target,
    )
    keep_freed_memory()  # every trial of a precision writes the whole graph anew
    report = write_bundle(options.source, out, settings, Steps())
    say(report.table())
    say(f"wrote {out}")
    return 0


def _add_onnx(commands: Commands[Parser]) -> None:
    command = _add_command(
        commands,
        "onnx",
        "icgan-export onnx runs/cifar10 --image-dtype float32 --out generator.onnx",
        "The generator alone as one ONNX file, for other applications.",
    )
    command.add_argument("source", type=Path, metavar="RUN", help=_RUN)
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
    command.add_argument("--no-rewrite", action="store_true", help="leave out the speed rewrites, to compare")
    command.add_argument(
        "--without",
        default="",
        metavar="LIST",
        help="leave out some of the speed rewrites: blocks, condition_product, early_shortcut, output_norm, "
        "attention_product (default: none)",
    )
    _add_target(command)
    command.set_defaults(run=_onnx)


def _onnx(options: argparse.Namespace) -> int:
    from icgan_export.rewrite.choice import Rewrites
    from icgan_export.standalone import write_generator
    from icgan_training.networks.config import ModelConfig

    def choose(config: ModelConfig) -> Rewrites:
        if options.no_rewrite:
            return Rewrites.none(config)
        return Rewrites.best(config, options.target).without(_list(options.without))

    if options.out.is_dir():
        raise ExportError(f"--out {options.out} is a folder: name a file in it")
    if options.out.suffix == ".md":
        raise ExportError(f"--out {options.out}: a page of this name comes beside the graph: end it in .onnx")
    operators = write_generator(options.source, options.out, options.image_dtype, choose, Steps())
    page = options.out.with_suffix(".md")
    say(
        f"wrote {options.out} and {page}: "
        + ", ".join(f"{count} {name}" for name, count in operators.items())
    )
    return 0


def _add_engine(commands: Commands[Parser]) -> None:
    command = _add_command(
        commands,
        "engine",
        "icgan-export engine bundles/cifar10 --precision fp16 --max-batch 32",
        "TensorRT plans for the machine at hand, added to the bundle.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    command.add_argument(
        "--precision",
        default="fp16",
        metavar="P",
        help="of the bundle's graphs to build from: fp32, fp16, bf16 or int8 (default: %(default)s)",
    )
    command.add_argument(
        "--roles",
        default="encoder,generator",
        metavar="LIST",
        help="the graphs to build plans of: encoder, lookup, generator (default: %(default)s)",
    )
    command.add_argument(
        "--best-batch", type=int, default=8, metavar="N", help="batch to tune for (default: %(default)s)"
    )
    command.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="largest batch (default: %(default)s)"
    )
    command.add_argument(
        "--level", type=int, default=3, metavar="0-5", help="optimisation level (default: %(default)s)"
    )
    command.add_argument(
        "--library",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="tensorrt builds for the GPU at hand; tensorrt_rtx needs no GPU to build (default: %(default)s, "
        "the first that can)",
    )
    command.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="the GPU to build for, tensorrt_rtx only (default: that at hand, or 8.9)",
    )
    others = command.add_argument_group(
        "for programs of your own that load the plan",
        "icgan runs a plan only on the GPU and with the TensorRT that it was built on.",
    )
    for flag, text in (
        (
            "version-compatible",
            "later TensorRT versions can run the plan; it brings code: icgan and Triton are not told of it",
        ),
        ("hardware-compatible", "other GPUs of the Ampere generation or later can run it"),
        ("refit", "weights can be replaced"),
        ("strip", "no weights inside: refit it from the ONNX file; icgan and Triton are not told of it"),
    ):
        others.add_argument(f"--{flag}", action="store_true", help=text)
    command.set_defaults(run=_engine)


def _engine(options: argparse.Namespace) -> int:
    from icgan_export.engine import Settings, add_engines

    settings = Settings(
        best_batch=options.best_batch,
        max_batch=options.max_batch,
        level=options.level,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        refit=options.refit,
        strip=options.strip,
        compute_capability=options.compute_capability,
    )
    roles = _list(options.roles)
    for role in roles:
        if role not in ROLES:
            raise ExportError(f"--roles {role}: choose from {', '.join(ROLES)}")
    if options.precision not in PRECISIONS:
        raise ExportError(f"--precision {options.precision}: choose from {', '.join(PRECISIONS)}")
    for line in add_engines(options.bundle, options.precision, roles, options.library, settings, Steps()):
        say(line)
    return 0


def _add_verify(commands: Commands[Parser]) -> None:
    command = _add_command(
        commands,
        "verify",
        "icgan-export verify bundles/cifar10 --html verify.html",
        "Compare every graph of a bundle with torch's answers.",
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    command.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with the pictures (default: none)"
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
    command.set_defaults(run=_verify, samples_default=command.get_default("samples"))


def _verify(options: argparse.Namespace) -> int:
    if options.bisect is not None:
        for flag in ("json", "html", "fid"):
            if getattr(options, flag):
                raise ExportError(f"--{flag} is of the whole verification: leave it out beside --bisect")
        return _bisect(options)
    if options.weights is not None:
        raise ExportError("--run is what one graph is compared with: name the graph with --bisect")
    from icgan_export.check.bisect import worst_tensors
    from icgan_export.check.verify import verify

    if options.html is not None and not options.html.parent.is_dir():
        raise ExportError(f"--html {options.html}: there is no folder {options.html.parent}")
    if options.html is not None and options.html.is_dir():
        raise ExportError(f"--html {options.html} is a folder: name a file in it")
    _require("--samples", options.samples, 2)
    if options.fid is None and options.samples != options.samples_default:
        raise ExportError("--samples is of the FID: name a prepared data set with --fid")
    report = verify(options.bundle)
    if options.fid is not None:
        from icgan_export.check.fidelity import check_fid, fid_of_each
        from icgan_training.data.dataset import PreparedDataset

        bundle, data = Bundle.open(options.bundle), PreparedDataset.open(options.fid)
        data.verify()
        checks = check_fid(fid_of_each(bundle, data, options.samples, Steps()))
        report = replace(report, checks=(*report.checks, *checks))
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


def _bisect(options: argparse.Namespace) -> int:
    from icgan_export.check.bisect import bisect

    found = bisect(options.bundle, options.bisect, options.weights)
    say(found.table())
    return 0 if found.first_bad is None else 1


def _add_triton(commands: Commands[Parser]) -> None:
    command = _add_command(
        commands,
        "triton",
        "icgan-export triton bundles/cifar10 --out model_repository",
        "A bundle becomes a model repository for Triton, or another release in one.",
    )
    command.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help=f"{_BUNDLE}; leave it out with --release"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="REPOSITORY",
        help="folder to write; a repository of ours that is there is replaced, or changed as said below",
    )
    release = command.add_argument_group(
        "releases: swap bank or weights of a running server (docs/serving.md)"
    )
    release.add_argument(
        "--add", action="store_true", help="add the bundle to REPOSITORY as its next release"
    )
    release.add_argument("--release", type=int, metavar="N", help="go back, or forward, to release N")
    choices = command.add_argument_group("choices, for a new repository")
    choices.add_argument(
        "--lookup",
        choices=LOOKUPS,
        default="faiss",
        help="how neighbours are found; faiss-ivf is approximate, graph is ONNX (default: %(default)s)",
    )
    choices.add_argument(
        "--precision",
        metavar="P",
        help="of the graphs that a GPU runs (default: the plans', or the highest in the bundle)",
    )
    choices.add_argument(
        "--cpu-precision",
        metavar="P",
        help="of the graphs that a CPU runs (default: the highest in the bundle)",
    )
    choices.add_argument(
        "--cpu-generators",
        type=int,
        default=1,
        metavar="N",
        help="on a CPU, run N generators side by side, on one thread each: more pictures per second, each "
        "later (default: 1, on all cores)",
    )
    choices.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="rows per batch (default: %(default)s)"
    )
    choices.add_argument(
        "--queue-delay-us",
        type=int,
        default=0,
        metavar="US",
        help="microseconds that a lone request waits for company (default: %(default)s)",
    )
    made_with = ("lookup", "precision", "cpu_precision", "cpu_generators", "max_batch", "queue_delay_us")
    command.set_defaults(run=_triton, made_with={name: command.get_default(name) for name in made_with})


def _triton(options: argparse.Namespace) -> int:
    from icgan_runtime.server import repository as triton_repo
    from icgan_runtime.server.models import Choices

    out: Path = options.out
    if options.add or options.release is not None:
        for name, default in options.made_with.items():
            if getattr(options, name) != default:
                flag = name.replace("_", "-")
                raise ExportError(f"--{flag} is for a new repository: {out} keeps what it was made with")
    if options.release is not None:
        if options.bundle is not None or options.add:
            raise ExportError(
                f"--release {options.release} goes to one that {out} holds: leave BUNDLE and --add out"
            )
        _say_loads(triton_repo.set_release(out, options.release))
        return 0
    if options.bundle is None:
        raise ExportError("which bundle? icgan-export triton BUNDLE --out REPOSITORY")
    if options.add:
        _say_loads(triton_repo.add_release(options.bundle, out, Steps()))
        return 0
    if out.exists() and not (out / triton_repo.RELEASES_NAME).exists():
        raise ExportError(f"--out {out} exists and is no repository of ours: choose another place")
    _require("--max-batch", options.max_batch, 1)
    _require("--cpu-generators", options.cpu_generators, 1)
    _require("--queue-delay-us", options.queue_delay_us, 0)
    choices = Choices(
        lookup=options.lookup,
        precision=options.precision,
        cpu_precision=options.cpu_precision,
        cpu_generators=options.cpu_generators,
        max_batch=options.max_batch,
        queue_delay_us=options.queue_delay_us,
    )
    triton_repo.write_repository(options.bundle, out, choices, Steps())
    say(f"wrote {out}")
    return 0


def _require(flag: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ExportError, before any work is done, unless `value` lies in least..most."""
    if value < least or (most is not None and value > most):
        end = "" if most is None else f" and at most {most}"
        raise ExportError(f"{flag} is {value}, it must be at least {least}{end}")


def _say_loads(models: Sequence[str]) -> None:
    """What a running server has to be told, in the order that keeps it answering."""
    for model in models:
        say(f"POST v2/repository/models/{model}/load")


class Steps:
    """One line per step with the seconds since the start, on stderr."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        tell(f"[{time.monotonic() - self.started:6.1f} s] {text}")
