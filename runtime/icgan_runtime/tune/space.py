"""What can be chosen: settings of a server on this machine, and why some are left out.

A setting stays out where it is not here (a library, instructions of the CPU, a graph), where it draws other
pictures than the bundle's bounds allow, or where it would answer with other neighbours.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgan_runtime.bundle.manifest import PRECISIONS
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.server.options import CPU_BACKENDS, RepositoryOptions
from icgan_runtime.verify import check_graphs

# Instructions that multiply bfloat16; elsewhere openvino-bf16 computes in float32.
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
QUEUE_DELAYS_US = (1_000, 4_000)
BATCHES = (8, 16, 32, 64)
VERIFIED_AS = {"onnxruntime": "ort-cpu"}  # the other libraries have one name everywhere

Setting = Mapping[str, Any]  # fields of RepositoryOptions


@dataclass(frozen=True)
class Space:
    """Settings to try, an axis after the other, and a line for each that is left out."""

    axes: Mapping[str, tuple[Setting, ...]]
    left_out: tuple[str, ...]


def space_of(bundle: Bundle, samples: int, *, exact: bool = False) -> Space:
    """What a server of `bundle` can be tried with on this machine, for requests of `samples` images.

    With `exact` only settings that draw the pictures of the float32 graphs, but for one grey level.
    """
    left_out: list[str] = []
    lookups = [{"search": "graph"}] if any(entry.role == "lookup" for entry in bundle.manifest.graphs) else []
    return Space(
        {
            "library and precision": tuple(_graphs(bundle, exact, left_out.append)),
            "generators": tuple(
                {"generators": count, "generator_threads": 1} for count in _counts(usable_cpus())
            ),
            "queue delay": tuple({"queue_delay_us": delay} for delay in QUEUE_DELAYS_US),
            "batch": tuple({"max_batch": size} for size in BATCHES if size >= samples),
            "search": tuple(lookups),
        },
        tuple(left_out),
    )


def apply(options: RepositoryOptions, setting: Setting) -> RepositoryOptions:
    """The options with this setting in them."""
    return dataclasses.replace(options, **setting)


def show(options: RepositoryOptions, defaults: RepositoryOptions) -> str:
    """What differs from the defaults, as flags of `icgan serve`."""
    names = {"cpu_backend": "backend", "cpu_precision": "precision"}
    # what has no flag of its own comes with that of another
    implied = {"precision": "cpu_precision", "generator_threads": "generators"}
    said = [field.name for field in dataclasses.fields(options)]
    differing = [
        implied.get(name, name) for name in said if getattr(options, name) != getattr(defaults, name)
    ]
    changed = [
        f"--{names.get(name, name).replace('_', '-')} {getattr(options, name)}"
        for name in said
        if name in differing
    ]
    return " ".join(changed) or "defaults"


def _graphs(bundle: Bundle, exact: bool, leave_out: Callable[[str], None]) -> Iterator[Setting]:
    held = [(entry.role, entry.precision) for entry in bundle.manifest.graphs]
    both = [name for name in PRECISIONS if {("encoder", name), ("generator", name)} <= set(held)]
    precisions = [name for name in both if name != "bf16"]  # which only a GPU runs
    for library in CPU_BACKENDS:
        if reason := _missing(library):
            leave_out(f"{library}: {reason}")
            continue
        for precision in precisions:
            if exact and (precision != "fp32" or library == "openvino-bf16"):
                leave_out(f"{library} {precision}: draws other pictures than float32")
                continue
            if missed := _missed(bundle, VERIFIED_AS.get(library, library), precision):
                leave_out(f"{library} {precision}: {missed[0]}")
                continue
            asked = None if precision == both[0] else precision  # as the defaults say it
            found = {"cpu_backend": library, "cpu_precision": asked, "precision": asked}
            # two of ONNX Runtime help each other, two of OpenVINO do not (docs/reports/log.md)
            yield found if library == CPU_BACKENDS[0] else {**found, "generators": 1, "generator_threads": 1}


def _missed(bundle: Bundle, backend: str, precision: str) -> list[str]:
    """What the bundle's samples say against this way to compute."""
    return [
        f"{check.name}: {check.detail}"
        for check in check_graphs(bundle, backend, precision, ("encoder", "generator"))
        if not check.passed
    ]


def _missing(library: str) -> str:
    """Why this machine cannot run a library; empty where it can."""
    if library == "onnxruntime":
        return ""
    if importlib.util.find_spec("openvino") is None:
        return "not installed: pip install 'icgan[openvino]'"
    if library == "openvino-bf16" and not _cpu_flags() & BF16_FLAGS:
        return "this CPU does not multiply bfloat16"
    return ""


def _cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _counts(cores: int) -> list[int]:
    """Numbers of generators worth a try: few, half of the cores, all."""
    return sorted({1, 2, cores // 2, cores} - {0})
