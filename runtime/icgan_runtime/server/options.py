"""What the operator decides about a model repository: the options of `icgan serve` and `icgan-export triton`.

`icgan serve` runs a server without a GPU, so it leaves out what only a GPU heeds, and its `--precision` is
that of the graphs on the CPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace

from icgan_runtime.bundle.logs import is_address
from icgan_runtime.bundle.manifest import PRECISIONS
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import RequestError

# One decoder for each core is as fast as the cores are; each may hold a large photo and more in memory.
MOST_DECODERS = 32
CORES_PER_CONDITION, MOST_CONDITIONS = 4, 8  # processes of icgan_condition, which share the bank's pages
GENERATORS = 2  # on a CPU: one draws while the other waits for its threads, or for the next request
SEARCHES = ("faiss", "faiss-ivf", "faiss-gpu", "graph")
BUNDLE = "bundle"  # follow the changes in the bundle's own folder
CPU_BACKENDS = ("onnxruntime", "openvino", "openvino-bf16")


@dataclass(frozen=True)
class RepositoryOptions:
    """How a bundle is served. Raises RequestError for a value out of its range."""

    search: str = "faiss"  # one of SEARCHES; "graph" is lookup.onnx
    precision: str | None = None  # of what a GPU runs; None is the plans' own, or the highest of the graphs
    cpu_precision: str | None = None  # of what a CPU runs; None is the highest of the graphs
    cpu_backend: str = "onnxruntime"  # one of CPU_BACKENDS: what runs encoder and generator on a CPU
    generators: int = 1  # side by side on a CPU
    generator_threads: int = 1  # of each of several; 0: one for each core
    decoders: int = 1  # threads that decode pictures, and as many that make files of them
    condition_processes: int = 1  # that search the bank and make the noise
    engine_cache: str = ""  # folder, as the server sees it, for the engines that a GPU without plans builds
    cache_mb: int = 0  # answers of encoder and generator that the server keeps; 0: none
    max_batch: int = 32  # rows of one request, and of one batch
    queue_delay_us: int = 0  # microseconds
    max_queue: int = 48  # requests of a row under way at a model before the next is refused (gate.py)
    changes: str = ""  # of the bank that are followed: BUNDLE, a database's address, or "" for none

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise RequestError("search", f"{self.search!r}, expected one of {', '.join(SEARCHES)}")
        if self.cpu_backend not in CPU_BACKENDS:
            raise RequestError("backend", f"{self.cpu_backend!r}, expected one of {', '.join(CPU_BACKENDS)}")
        if self.changes not in ("", BUNDLE) and not is_address(self.changes):
            raise RequestError(
                "changes", f"{self.changes!r}, expected {BUNDLE} or an address like postgresql://HOST/NAME"
            )
        for name in ("precision", "cpu_precision"):
            value = getattr(self, name)
            if value not in (None, *PRECISIONS):
                raise RequestError(name, f"{value!r}, expected one of {', '.join(PRECISIONS)}")
        if self.engine_cache and not self.engine_cache.startswith("/"):
            raise RequestError(
                "engine_cache", f"{self.engine_cache!r}, expected a path from the root: /engines"
            )
        if self.cpu_precision == "bf16":
            known = ", ".join(name for name in PRECISIONS if name != "bf16")
            raise RequestError(
                "cpu_precision", f"'bf16', which ONNX Runtime does not run on a CPU: use one of {known}"
            )
        for name, least in (
            ("max_batch", 1),
            ("generators", 1),
            ("decoders", 1),
            ("condition_processes", 1),
            ("generator_threads", 0),
            ("cache_mb", 0),
            ("max_queue", 1),
            ("queue_delay_us", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise RequestError(name, f"{value}, expected at least {least}")


def add_options(parser: argparse._ActionsContainer, *, gpu: bool) -> None:
    """Declare the options; without `gpu` only those that mean something to a server on a CPU."""
    parser.add_argument(
        "--search",
        choices=SEARCHES if gpu else [name for name in SEARCHES if name != "faiss-gpu"],
        default="faiss",
        help="how neighbours are found; faiss-ivf is approximate, graph is ONNX (default: %(default)s)",
    )
    if gpu:
        parser.add_argument(
            "--precision",
            choices=PRECISIONS,
            help="of the graphs that a GPU runs (default: the plans', or the highest in the bundle)",
        )
        parser.add_argument(
            "--engine-cache",
            default="",
            metavar="FOLDER",
            help="where a GPU keeps the engines that it builds of graphs without plans, as the server sees "
            "that folder (default: none, it builds them at every start)",
        )
    parser.add_argument(
        "--cpu-precision" if gpu else "--precision",
        dest="cpu_precision",
        choices=[name for name in PRECISIONS if name != "bf16"],
        help=f"of the graphs{' that a CPU runs' if gpu else ''} (default: the highest in the bundle)",
    )
    parser.add_argument(
        "--cpu-backend" if gpu else "--backend",
        dest="cpu_backend",
        choices=CPU_BACKENDS,
        default="onnxruntime",
        help=f"what runs the graphs{' on a CPU' if gpu else ''}; openvino-bf16 computes in bfloat16, "
        "the fastest where the CPU multiplies it (default: %(default)s)",
    )
    _add_changes(parser, gpu=gpu)
    _add_processes(parser, gpu=gpu)
    _add_batches(parser, gpu=gpu)


def _add_changes(parser: argparse._ActionsContainer, *, gpu: bool) -> None:
    parser.add_argument(
        "--changes",
        default="" if gpu else BUNDLE,
        metavar="WHERE",
        help="follow what icgan bank adds and removes: bundle, in the folder of the bundle on this machine, "
        f"or postgresql://HOST/NAME (default: {'none is followed' if gpu else '%(default)s'})",
    )


def _add_processes(parser: argparse._ActionsContainer, *, gpu: bool) -> None:
    parser.add_argument(
        "--generators",
        type=int,
        default=1 if gpu else None,
        metavar="N",
        help=f"{'on a CPU, ' if gpu else ''}run N generators side by side, on one thread each: more images "
        f"per second, each later (default: {'1' if gpu else '2, or 1 of OpenVINO'}, on all cores)",
    )
    if gpu:
        parser.add_argument(
            "--cores",
            type=int,
            default=1,
            metavar="N",
            help="processor cores of the machine that will serve: as many threads decode pictures, at most "
            f"{MOST_DECODERS}, and a quarter as many processes search (default: %(default)s)",
        )
    parser.add_argument(
        "--decoders",
        type=int,
        metavar="N",
        help=f"threads that decode pictures (default: {'as --cores' if gpu else 'one per usable core'})",
    )
    parser.add_argument(
        "--condition-processes",
        type=int,
        metavar="N",
        help="processes that search the bank and make the noise (default: one for each "
        f"{CORES_PER_CONDITION} cores, at most {MOST_CONDITIONS})",
    )


def _add_batches(parser: argparse._ActionsContainer, *, gpu: bool) -> None:
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=0,
        metavar="MB",
        help="keep embeddings and images, so that what is asked for again is not computed again"
        + (" (start tritonserver with --cache-config=local,size=BYTES)" if gpu else "")
        + " (default: %(default)s, none)",
    )
    parser.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="rows per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--max-queue",
        type=int,
        default=48,
        metavar="N",
        help="requests of one row that a model may have to do before the next is refused at once; one of the "
        "most rows counts for six (default: %(default)s)",
    )
    parser.add_argument(
        "--queue-delay-us",
        type=int,
        default=0,
        metavar="US",
        help="microseconds that a lone request waits for company (default: %(default)s)",
    )


def declared(options: argparse.Namespace) -> list[str]:
    """The names of those that `add_options` declared."""
    names = {field.name for field in fields(RepositoryOptions)}
    return [name for name in vars(options) if name in names]


def for_cores(cores: int) -> RepositoryOptions:
    """What suits a machine with so many."""
    return RepositoryOptions(
        decoders=max(1, min(cores, MOST_DECODERS)),
        condition_processes=max(1, min(cores // CORES_PER_CONDITION, MOST_CONDITIONS)),
        generators=min(cores, GENERATORS),
        generator_threads=0 if cores > 1 else 1,
    )


def from_options(options: argparse.Namespace) -> RepositoryOptions:
    """The options that `add_options` declared, as read from a command line."""
    cores = getattr(options, "cores", None)  # of another machine
    given = {name: getattr(options, name) for name in declared(options)}
    suited = for_cores(usable_cpus() if cores is None else cores)
    if given["cpu_backend"] != CPU_BACKENDS[0]:  # a second one takes from the first (docs/reports/log.md)
        suited = replace(suited, generators=1, generator_threads=1)
    if given["generators"] is None:
        given["generator_threads"] = suited.generator_threads
    for name in ("decoders", "condition_processes", "generators"):
        if given.get(name) is None:
            given[name] = getattr(suited, name)
    # a server on a CPU: nothing else is copied for a GPU that will not come
    return RepositoryOptions(**{"precision": options.cpu_precision, **given})
