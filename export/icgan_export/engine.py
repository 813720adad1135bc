"""ONNX -> TensorRT plans, beside the graphs of a bundle; the only file that imports tensorrt or tensorrt_rtx.

Both libraries share the builder: `tensorrt` builds for this machine's GPU, `tensorrt_rtx` for any of its
targets and without a GPU, which is how the graphs, profiles and precisions are tested where there is none.
Networks are strongly typed: precision is what the ONNX file says (TensorRT 10.12 and later, the only way in
11).

A plan runs on one compute capability and with one TensorRT version; the timing cache beside it makes the next
build of the same graph quick.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from icgan_export.errors import ExportError
from icgan_export.lower.onnx_export import Step
from icgan_runtime import files
from icgan_runtime.backends.select import read_graph
from icgan_runtime.backends.trt_logger import quiet_logger
from icgan_runtime.bundle.manifest import EngineEntry, GraphEntry, Manifest, describe_file
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import MissingExtraError

LIBRARIES = ("tensorrt", "tensorrt_rtx")
DEFAULT_CAPABILITY = "8.9"  # what tensorrt_rtx builds for where there is no GPU to ask
FOLDER = "engines"
CACHE_NAME = "timing.cache"
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class PlanOptions:
    """How to build. Raises ExportError on construction for impossible values."""

    best_batch: int = 8
    max_batch: int = 32
    level: int = 3
    compute_capability: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.best_batch <= self.max_batch:
            raise ExportError(f"--best-batch {self.best_batch} is not within 1..--max-batch {self.max_batch}")
        if not 0 <= self.level <= 5:
            raise ExportError(f"--level is {self.level}, expected 0..5")

    @property
    def profiles(self) -> tuple[tuple[int, int, int], ...]:
        """(smallest, tuned, largest) batch of each optimisation profile: latency first, then throughput."""
        latency = (1, 1, 1)
        return (latency,) if self.max_batch == 1 else (latency, (1, self.best_batch, self.max_batch))


@dataclass(frozen=True, eq=False)
class Plan:
    """A serialised engine, and the timing cache it leaves."""

    data: bytes
    timing_cache: bytes
    products: dict[str, int]  # type -> convolutions and matrix products that give it (`product_types`)
    layers: str | None  # the inspector's JSON, where a GPU could load the plan
    seconds: float


def add_engines(
    path: Path, precision: str, roles: tuple[str, ...], library: str, options: PlanOptions, step: Step
) -> list[str]:
    """Build plans for the graphs of a bundle and list them in its manifest. Returns one line per plan.

    Plans that are replaced leave the manifest before their files change, so that a bundle whose build was
    killed is one without them. What else the manifest lists keeps its hash.
    """
    trt = load_library(library)
    bundle = Bundle.open(path)
    entries = [bundle.manifest.graph(role, precision) for role in roles]
    sm = f"sm{target_capability(trt, options).replace('.', '')}"
    place = f"{FOLDER}/{sm}-{_short(trt)}{trt.__version__}"
    (path / place).mkdir(parents=True, exist_ok=True)
    names = {entry: f"{place}/{Path(entry.file).stem}.plan" for entry in entries}
    written = {f"{place}/{CACHE_NAME}"}.union(*({name, _layers_name(name)} for name in names.values()))
    manifest = _without(bundle.manifest, written)
    if manifest != bundle.manifest:
        manifest.write(path)
    cache_file = path / place / CACHE_NAME
    cache = cache_file.read_bytes() if cache_file.exists() else b""
    engines, lines = [], []
    for entry, name in names.items():
        step(f"building {entry.file} for {sm} with {trt.__name__} {trt.__version__}")
        plan = build(trt, read_graph(bundle, entry), entry, options, cache, step)
        cache = plan.timing_cache
        _write_plan(plan, path / name)
        engines.append(
            EngineEntry(
                entry.role, entry.precision, name, sm, trt.__version__, options.max_batch, entry.encoder_id
            )
        )
        types = ", ".join(f"{count} {kind}" for kind, count in plan.products.items())
        lines.append(f"{name}: {len(plan.data) / 2**20:.1f} MiB in {plan.seconds:.1f} s; products: {types}")
    if cache:
        with files.atomic_file(cache_file) as partial:
            partial.write_bytes(cache)
    described = {name: describe_file(path / name) for name in sorted(written) if (path / name).exists()}
    listed = dict(sorted({**manifest.files, **described}.items()))
    replace(manifest, files=listed, engines=(*manifest.engines, *engines)).write(path)
    return lines


def _without(manifest: Manifest, names: set[str]) -> Manifest:
    """The manifest of the same bundle before files of these names were written."""
    return replace(
        manifest,
        files={name: entry for name, entry in manifest.files.items() if name not in names},
        engines=tuple(entry for entry in manifest.engines if entry.file not in names),
    )


def _write_plan(plan: Plan, path: Path) -> None:
    """The plan, and the inspector's JSON beside it where there is one."""
    with files.atomic_file(path) as partial:
        partial.write_bytes(plan.data)
    if plan.layers is not None:
        with files.atomic_file(Path(_layers_name(str(path)))) as partial:
            partial.write_text(plan.layers)


def _layers_name(plan: str) -> str:
    return plan.removesuffix(".plan") + ".layers.json"


def load_library(wanted: str) -> Any:
    """`tensorrt` or `tensorrt_rtx`: the one asked for, or the first that is installed and can build here."""
    names = LIBRARIES if wanted == "auto" else (wanted,)
    for name in names:
        if name == "tensorrt" and not torch.cuda.is_available() and wanted == "auto":
            continue
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    if wanted == "auto":
        raise ExportError(
            "TensorRT plans are built on the GPU that will run them: there, `pip install 'icgan[tensorrt]'` "
            "and run this command again. To try graphs here without a GPU: `pip install tensorrt-rtx`"
        )
    raise MissingExtraError(wanted, "tensorrt")


def target_capability(trt: ModuleType, options: PlanOptions) -> str:
    """Compute capability "X.Y" the plan is for. Raises ExportError where TensorRT has no GPU to build for."""
    rtx = trt.__name__ == "tensorrt_rtx"
    if options.compute_capability is not None:
        if not rtx:
            raise ExportError("--compute-capability: tensorrt builds for this machine's GPU only")
        name = f"SM{options.compute_capability.replace('.', '')}"
        if not hasattr(trt.ComputeCapability, name):
            known = [item for item in dir(trt.ComputeCapability) if item.startswith("SM")]
            wanted = options.compute_capability
            raise ExportError(f"--compute-capability {wanted}: choose from {', '.join(known)}")
        return options.compute_capability
    if torch.cuda.is_available():
        return ".".join(map(str, torch.cuda.get_device_capability()))
    if rtx:
        return DEFAULT_CAPABILITY
    raise ExportError("no GPU here: tensorrt builds plans on the machine that will run them")


def build(
    trt: Any, graph: bytes, entry: GraphEntry, options: PlanOptions, timing_cache: bytes, step: Step
) -> Plan:
    """Parse, set profiles and options, build. Raises ExportError with TensorRT's own words."""
    started = time.monotonic()
    logger = quiet_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ExportError(f"{entry.file}: TensorRT cannot read it: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    for smallest, tuned, largest in options.profiles:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, (smallest, *rest), (tuned, *rest), (largest, *rest))
        config.add_optimization_profile(profile)
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _progress(trt, entry.file, step)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, it would shorten what the file says is float32
    rtx = trt.__name__ == "tensorrt_rtx"
    if rtx:
        # Without it memory may be allocated while a CUDA graph is captured, which CUDA refuses.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        name = f"SM{target_capability(trt, options).replace('.', '')}"
        config.num_compute_capabilities = 1
        known = trt.ComputeCapability  # not every GPU it runs on has a name of its own
        config.set_compute_capability(getattr(known, name, known.CURRENT), 0)
    if not rtx:  # it tunes on first use, and has no cache to keep
        config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=True)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise ExportError(f"{entry.file}: TensorRT could not build a plan: {logger.last_error}")
    plan = bytes(data)
    return Plan(
        plan,
        b"" if rtx else bytes(config.get_timing_cache().serialize()),
        product_types(trt, network),
        inspect(trt, plan, logger) if torch.cuda.is_available() else None,
        time.monotonic() - started,
    )


def product_types(trt: Any, network: Any) -> dict[str, int]:
    """How many convolutions and matrix products give each type; "INT8" where their input was quantised.

    Strongly typed, the plan keeps to it; on a GPU the inspector's dump beside the plan shows the same.
    """
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    restored = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.type in kinds:
            quantised = layer.get_input(0).name in restored
            found["INT8" if quantised else layer.get_output(0).dtype.name] += 1
    return dict(found.most_common())


def inspect(trt: Any, plan: bytes, logger: Any) -> str | None:
    """The engine inspector's JSON: every layer with its precision and tactic. None for another GPU's plan."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return text


def _strongly_typed(trt: Any) -> int:
    # TensorRT 11 knows no other kind, and has no flag for it
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _short(trt: ModuleType) -> str:
    return "trtrtx" if trt.__name__ == "tensorrt_rtx" else "trt"


def _progress(trt: Any, file: str, step: Step) -> Any:
    class Progress(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        """A line every few seconds while a long build runs."""

        def __init__(self) -> None:
            super().__init__()
            self.last = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps = steps

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, done: int) -> bool:
            if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
                self.last = time.monotonic()
                step(f"{file}: {phase} {done}")
            return True

    return Progress()
