"""Which backend runs a graph, and why."""

from __future__ import annotations

from dataclasses import dataclass

from icgan_runtime.backends.base import Session
from icgan_runtime.bundle import Bundle
from icgan_runtime.errors import BackendError, BindingError, MissingExtraError, RequestError
from icgan_runtime.manifest import GraphEntry, check_onnx_metadata, show_specs
from icgan_runtime.onnx_file import describe_onnx

BACKENDS = ("auto", "ort-cpu", "ort-cuda", "ort-tensorrt", "openvino")


@dataclass(frozen=True)
class Choice:
    """A backend and the sentence that explains it."""

    backend: str
    reason: str


def choose_backend(wanted: str = "auto") -> Choice:
    """Resolve "auto" to what this machine can run; any other name is taken at its word."""
    if wanted not in BACKENDS:
        raise RequestError("backend", f"{wanted!r}, expected one of {', '.join(BACKENDS)}")
    if wanted == "openvino":
        return Choice(wanted, "asked for")
    try:
        from icgan_runtime.backends.ort import available_backends
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    held = available_backends()
    if wanted == "auto":
        if "ort-cuda" in held:
            return Choice("ort-cuda", "ONNX Runtime has its CUDA provider")
        return Choice("ort-cpu", "ONNX Runtime has no CUDA provider here")
    if wanted not in held:
        raise BackendError(f"backend {wanted} is not in this onnxruntime, which has {', '.join(held)}")
    return Choice(wanted, "asked for")


def open_session(bundle: Bundle, entry: GraphEntry, backend: str, threads: int = 0) -> Session:
    """A session for one graph of a bundle, after its bytes, metadata and tensors have been checked."""
    model = bundle.read(entry.file)
    found = describe_onnx(model, entry.file)
    check_onnx_metadata(entry.file, found.metadata, bundle.manifest.model, entry.role)
    session: Session
    if backend == "openvino":
        try:
            from icgan_runtime.backends.openvino import OpenVinoSession
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        session = OpenVinoSession(model, entry.file, threads)
    else:
        from icgan_runtime.backends.ort import OrtSession

        session = OrtSession(model, entry.file, backend, threads)
    expected = bundle.manifest.specs(entry.role)
    if (session.inputs, session.outputs) != expected:
        raise BindingError(
            entry.file,
            f"computes {show_specs(session.inputs)} -> {show_specs(session.outputs)}, "
            f"the contract says {show_specs(expected[0])} -> {show_specs(expected[1])}",
        )
    return session
