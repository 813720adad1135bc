"""Which backend runs a graph, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icgan_runtime.backends.base import Session
from icgan_runtime.bundle.manifest import EngineEntry, GraphEntry, Manifest, check_onnx_metadata, show_specs
from icgan_runtime.bundle.onnx_file import describe_onnx
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BackendError, BindingError, MissingExtraError, RequestError

BACKENDS = ("auto", "ort-cpu", "ort-cuda", "ort-tensorrt", "openvino", "openvino-bf16", "tensorrt")


@dataclass(frozen=True)
class Choice:
    """A backend and the sentence that explains it."""

    backend: str
    reason: str


def choose_backend(
    wanted: str = "auto", engines: Sequence[EngineEntry] = (), precision: str | None = None
) -> Choice:
    """Resolve "auto" to the best that this machine can run; any other name is taken at its word.

    `engines` are the bundle's TensorRT plans: where those of encoder and generator, at `precision` if it is
    given, fit this machine's GPU, "auto" takes them. Raises RequestError for an unknown name, BackendError
    for a backend that is not here.
    """
    if wanted not in BACKENDS:
        raise RequestError("backend", f"{wanted!r}, expected one of {', '.join(BACKENDS)}")
    unfit = ""
    if wanted == "auto" and engines:
        try:
            fitting_plan(engines, "encoder", precision)
            plan = fitting_plan(engines, "generator", precision)
            return Choice("tensorrt", f"{plan.file} was built for this GPU")
        except BackendError as error:
            # no GPU, no TensorRT, plans of another machine or precision, or of one graph only
            unfit = f"; no TensorRT plan: {error}"
    if wanted in ("openvino", "openvino-bf16", "tensorrt"):
        return Choice(wanted, "asked for")
    try:
        from icgan_runtime.backends.ort import available_backends
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    held = available_backends()
    if wanted == "auto":
        if "ort-cuda" in held:
            return Choice("ort-cuda", f"ONNX Runtime has its CUDA provider{unfit}")
        return Choice("ort-cpu", f"ONNX Runtime has no CUDA provider here{unfit}")
    if wanted not in held:
        raise BackendError(f"backend {wanted} is not in this onnxruntime, which has {', '.join(held)}")
    return Choice(wanted, "asked for")


def choose_graph(manifest: Manifest, role: str, precision: str | None, backend: str) -> GraphEntry:
    """The graph of a role: at `precision`, or at that of the plan that fits this GPU, or the highest.

    Raises BundleError where the bundle has no such graph, BackendError where no plan fits.
    """
    if backend == "tensorrt":
        precision = fitting_plan(manifest.engines, role, precision).precision
    return manifest.graph(role, precision)


def fitting_plan(engines: Sequence[EngineEntry], role: str, precision: str | None = None) -> EngineEntry:
    """The plan of a role that this machine's GPU and TensorRT can run. Raises BackendError if none can."""
    try:
        from icgan_runtime.backends import trt
    except ImportError:
        raise MissingExtraError("cuda-python", "tensorrt") from None
    here = trt.machine()
    for entry in engines:
        if (
            entry.role == role
            and precision in (None, entry.precision)
            and entry.compute_capability == here.capability
            and entry.tensorrt_version in here.libraries.values()
        ):
            return entry
    held = ", ".join(f"{name} {version}" for name, version in here.libraries.items()) or "no TensorRT"
    wanted = f"{role} {precision}" if precision else role
    raise BackendError(
        f"no plan of the {wanted} for {here.capability} and {held}: run `icgan-export engine` on this machine"
    )


def open_session(
    bundle: Bundle, entry: GraphEntry, backend: str, threads: int = 0, fall_back: bool = False
) -> Session:
    """A session for one graph of a bundle, after its bytes, metadata and tensors have been checked.

    Raises BundleError for a graph that cannot be trusted or loaded, BackendError for a missing backend, and
    where ONNX Runtime cannot load what `backend` needs, unless it may `fall_back`.
    """
    session = (
        _open_plan(bundle, entry)
        if backend == "tensorrt"
        else _open_graph(bundle, entry, backend, threads, fall_back)
    )
    expected = bundle.manifest.specs(entry.role)
    if (session.inputs, session.outputs) != expected:
        raise BindingError(
            entry.file,
            f"computes {show_specs(session.inputs)} -> {show_specs(session.outputs)}, "
            f"the format says {show_specs(expected[0])} -> {show_specs(expected[1])}",
        )
    return session


def read_graph(bundle: Bundle, entry: GraphEntry) -> bytes:
    """The ONNX file of a graph, for whatever runs it: made for this bundle, and with nothing left outside.

    Raises BundleError.
    """
    model = bundle.read(entry.file)
    found = describe_onnx(model, entry.file)
    check_onnx_metadata(entry.file, found.metadata, bundle.manifest.model, entry.role)
    return model


def _open_graph(bundle: Bundle, entry: GraphEntry, backend: str, threads: int, fall_back: bool) -> Session:
    model = read_graph(bundle, entry)
    if backend in ("openvino", "openvino-bf16"):
        try:
            from icgan_runtime.backends.openvino import OpenVinoSession
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        exact = "openvino" if entry.role == "lookup" else backend  # neighbours are found in float32
        return OpenVinoSession(model, entry.file, exact, threads, one_row=entry.role == "generator")
    try:
        from icgan_runtime.backends.ort import OrtSession
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    session = OrtSession(model, entry.file, backend, threads)
    if not fall_back:
        session.require(backend)
    return session


def _open_plan(bundle: Bundle, entry: GraphEntry) -> Session:
    plan = fitting_plan(bundle.manifest.engines, entry.role, entry.precision)
    from icgan_runtime.backends import trt

    library = next(
        name for name, version in trt.machine().libraries.items() if version == plan.tensorrt_version
    )
    return trt.TrtSession(bundle.read(plan.file), plan.file, library)
