"""What the stages' model.py share: reading a request's tensors, and refusing it.

The server's python backend gives its module to the processes of stages only, hence as an argument here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from icgan_runtime.errors import IcganError, RequestError
from icgan_runtime.refusals import no_room, to_wire
from icgan_runtime.rows import Rows

SCALARS = ("SEED", "SAMPLE", "TRUNCATION", "CONDITION")
RELEASES_NAME = "icgan.json"  # of a repository: which versions of the models belong together


class Requests:
    """Requests of one stage. `utils` is the module triton_python_backend_utils."""

    def __init__(self, utils: Any) -> None:
        self._utils = utils
        # kept: a metric dies with the family object it came from
        self._family = utils.MetricFamily(
            name="icgan_refused_total",
            description="Requests refused with INVALID_ARGUMENT, by the input at fault",
            kind=utils.MetricFamily.COUNTER,
        )
        self._refused: dict[str, Any] = {}
        self._full = utils.MetricFamily(
            name="icgan_shed_total",
            description="Requests refused with UNAVAILABLE, by the model that had too much to do",
            kind=utils.MetricFamily.COUNTER,
        )
        self._shed: dict[str, Any] = {}
        self._unreported: dict[str, int] = {}
        self._lock = threading.Lock()

    def tensor(self, request: Any, name: str) -> NDArray[Any] | None:
        """An input, or None where the request has none of that name."""
        found = self._utils.get_input_tensor_by_name(request, name)
        return None if found is None else found.as_numpy()

    def given(self, request: Any, name: str) -> NDArray[Any]:
        """An input that the server gives with every request."""
        found = self.tensor(request, name)
        assert found is not None
        return found

    def rows(self, request: Any, classes: int) -> Rows:
        """What is asked of each row, checked. Raises RequestError."""
        columns = [self.tensor(request, name) for name in (*SCALARS, *(("LABEL",) if classes else ()))]
        for name, column in zip((*SCALARS, "LABEL"), columns, strict=False):
            # the server takes away the row axis of a request that says 0 rows
            if column is None or column.ndim != 2:
                raise RequestError(name, "missing, expected rows" if column is None else "expected rows")
        seed, sample, truncation, condition, *label = (
            column[:, 0] for column in columns if column is not None
        )
        rows = Rows(seed, sample, truncation, condition, label[0] if label else None)
        rows.check(classes)
        return rows

    def answer(self, outputs: dict[str, NDArray[Any]]) -> Any:
        """The response that holds `outputs`."""
        tensors = [self._utils.Tensor(name, array) for name, array in outputs.items()]
        return self._utils.InferenceResponse(tensors)

    def refusal(self, error: RequestError, tensor: str | None = None) -> Any:
        """The response that refuses a request; `tensor` is the input at fault where the error is silent."""
        field = (tensor or error.field).lower()
        if field not in self._refused:
            self._refused[field] = self._family.Metric(labels={"field": field})
        self._refused[field].increment(1)
        failure = self._utils.TritonError(to_wire(error, tensor), self._utils.TritonError.INVALID_ARG)
        return self._utils.InferenceResponse(error=failure)

    def failures(self, error: IcganError, count: int) -> list[Any]:
        """Responses that send `count` requests away for something that may be mended meanwhile."""
        failure = self._utils.TritonError(str(error), self._utils.TritonError.UNAVAILABLE)
        return [self._utils.InferenceResponse(error=failure) for _ in range(count)]

    def shed(self, model: str) -> Any:
        """The response that sends a request away because `model` has too much to do; `report` counts it."""
        with self._lock:
            self._unreported[model] = self._unreported.get(model, 0) + 1
        failure = self._utils.TritonError(no_room(model), self._utils.TritonError.UNAVAILABLE)
        return self._utils.InferenceResponse(error=failure)

    def report(self) -> None:
        """Count who was sent away, together: a report to the server takes longer than a refusal."""
        with self._lock:
            counts, self._unreported = self._unreported, {}
        for model, count in counts.items():
            if model not in self._shed:
                self._shed[model] = self._full.Metric(labels={"model": model})
            self._shed[model].increment(count)

    def probe(
        self,
        folder: str,
        model: str,
        output: str,
        inputs: Callable[[], Mapping[str, NDArray[Any]]],
        request_id: str = "",
    ) -> Callable[[], None]:
        """A function that asks `model` for `output`, and returns when that was answered (gate.py).

        `folder` is that of the asking model, as the server names it; `request_id` is for the asked one.
        """
        memory = self._utils.PreferredMemory(self._utils.TRITONSERVER_MEMORY_CPU, 0)

        def ask() -> None:
            with contextlib.suppress(Exception):  # not loaded, or about to go: nothing waits there
                self._utils.InferenceRequest(
                    model_name=model,
                    model_version=_current_version(Path(folder).parent, model),
                    request_id=request_id,
                    requested_output_names=[output],
                    inputs=[self._utils.Tensor(name, array) for name, array in inputs().items()],
                    preferred_memory=memory,
                ).exec()

        return ask


def keep_to_the_end(stage: object) -> None:
    """Let nothing that a stage holds be freed before its process has gone: its metrics (Triton 2.51).

    A metric that is freed while the server listens is taken from the server, also where another version or
    process of the stage goes on counting with it, and the server goes down; freed when the server has gone,
    it takes the stage down.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(vars(stage)))


def _current_version(repository: Path, model: str) -> int:
    """The one that the ensembles ask; -1, the newest, where the server keeps the repository elsewhere."""
    try:
        book = json.loads((repository / RELEASES_NAME).read_text())
        release = next(each for each in book["releases"] if each["release"] == book["current"])
        return int(release["versions"][model])
    except (OSError, ValueError, LookupError, StopIteration):
        return -1
