"""An encoder's network that is an ONNX graph. The one file of training that imports onnxruntime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from icgan_training.errors import WeightsError
from icgan_training.networks.onnx_graph import FEATURE, PIXELS, check_stored

QUIET = 4  # what is wrong with a graph is said once, by the exception
_STATE = ("_lock", "_held")  # what neither copies nor pickles take along


class OnnxBackbone(nn.Module):
    """Normalised pictures float32 [N, 3, S, S] -> features float32 [N, D], as the graph `onnx` says.

    Its bytes are its one tensor, so that an encoder file holds it as it holds weights. It runs on the
    processor, on as many threads as torch has when it is called, wherever its input lies.
    """

    onnx: Tensor  # uint8 [B]: the graph, weights inside, as `onnx_graph.canonical` makes it

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.register_buffer("onnx", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._lock = threading.Lock()
        self._held: tuple[int, ort.InferenceSession] | None = None

    @property
    def content(self) -> bytes:
        """The graph."""
        return self.onnx.cpu().numpy().tobytes()

    def forward(self, x: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(x.detach().cpu().numpy())
        found = self._session(torch.get_num_threads()).run([FEATURE], {PIXELS: pixels})[0]
        return torch.from_numpy(found).to(x.device)

    def _session(self, threads: int) -> ort.InferenceSession:
        """The session of so many threads: made when it is first needed, one at a time is kept."""
        with self._lock:
            if self._held is None or self._held[0] != threads:
                self._held = threads, open_session(self.content, threads)
            return self._held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _STATE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock, self._held = threading.Lock(), None


def open_session(model: bytes | str, threads: int) -> ort.InferenceSession:
    """A session on the processor; a path may have its weights in files beside it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = QUIET
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # by default it prints what went wrong, and tries the same again
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=False)


def stored_backbone(state: Mapping[str, Tensor], side: int, width: int, path: Path) -> OnnxBackbone:
    """The network of an encoder file. Raises WeightsError unless it is one that `canonical` makes."""
    content = state.get("onnx")
    if set(state) != {"onnx"} or content is None or content.dtype != torch.uint8:
        raise WeightsError(f"{path} does not hold one ONNX graph: it was not written by icgan-train")
    data = content.numpy().tobytes()
    check_stored(data, side, width, path)
    return OnnxBackbone(data)


def run_original(path: Path, pixels: str, output: str, x: NDArray[np.float32], batch: int | None) -> Any:
    """What the user's file itself makes of normalised pictures: the array of `output` for all rows of `x`.

    batch: the rows that the file takes, where they are fixed. Other inputs, on which the output does not
    depend, get ones. Raises WeightsError with ONNX Runtime's reason.
    """
    try:
        session = open_session(str(path), torch.get_num_threads())
        rows = batch or len(x)
        found = []
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            padded = np.concatenate([part, np.repeat(part[:1], rows - len(part), axis=0)])
            feeds = {pixels: padded}
            for value in session.get_inputs():
                if value.name != pixels:
                    feeds[value.name] = _ones(value, rows)
            found.append(session.run([output], feeds)[0][: len(part)])
    except Exception as error:  # its exceptions share no base class of their own
        raise WeightsError(
            f"{path} does not run in ONNX Runtime on {len(x)} pictures: {reason(error)}"
        ) from error
    return np.concatenate(found)


def evaluate(model: bytes) -> dict[str, NDArray[Any]]:
    """The outputs of a graph without inputs, by name."""
    session = open_session(model, torch.get_num_threads())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {}), strict=True))


def _ones(value: Any, rows: int) -> NDArray[Any]:
    dtypes = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
    shape = [
        size if isinstance(size, int) else (rows if axis == 0 else 1) for axis, size in enumerate(value.shape)
    ]
    return np.ones(shape, dtypes.get(value.type, np.float32))


def reason(error: Exception) -> str:
    """The first line of what went wrong."""
    text = str(error).rpartition("Status Message: ")[2]
    return (text.strip().splitlines() or [repr(error)])[0][:300]
