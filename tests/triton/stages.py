"""The model.py of one stage in this process, with what the server's python backend would give it.

A request is a `Request` of arrays by input name; an answer has `found`, arrays by output name, and `error`.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
import threading
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest

from tests.triton.conftest import ROOT

_SCRATCH = tempfile.mkdtemp(prefix="icgan-stages-")
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)


class Metric:
    """As pb_utils.Metric."""

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        Family.alive.add(self)
        self.observe = Family.observed.append
        self.increment = lambda by: Family.counted.append((name, labels))


class Family:
    """As pb_utils.MetricFamily."""

    HISTOGRAM, COUNTER = "histogram", "counter"
    alive: WeakSet[Family | Metric]  # of that stage
    observed: list[float]  # by any metric, since the stage was loaded
    counted: list[tuple[str, dict[str, str]]]  # likewise, with the metric's name and labels

    def __init__(self, name: str, **_: Any) -> None:
        Family.alive.add(self)
        self.Metric = lambda labels, **_: Metric(name, labels)


class Request(dict[str, Any]):
    """As pb_utils.InferenceRequest, with `wanted` outputs."""

    def __init__(self, inputs: dict[str, Any], wanted: tuple[str, ...] = (), name: str = "") -> None:
        super().__init__(inputs)
        self.wanted = wanted
        self.name = name

    def request_id(self) -> str:
        return self.name

    def requested_output_names(self) -> tuple[str, ...]:
        return self.wanted


class Tensor(tuple[str, Any]):
    """As pb_utils.Tensor: its name and array."""

    def as_numpy(self) -> Any:
        return self[1]


class Behind:
    """As pb_utils.InferenceRequest for a stage that asks another model: answered while `open` is set."""

    open = threading.Event()

    def __init__(self, **_: Any) -> None:
        pass

    def exec(self) -> None:
        Behind.open.wait(60)


class Error(Exception):
    """As pb_utils.TritonError."""

    INVALID_ARG, UNAVAILABLE = "invalid argument", "unavailable"


def load_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the stage `name`, or of a file, loaded anew; what others of before wait for is over."""
    Behind.open.set()
    Family.observed, Family.counted, Family.alive = [], [], WeakSet()
    Behind.open = threading.Event()
    Behind.open.set()
    utils = SimpleNamespace(
        MetricFamily=Family,
        get_input_tensor_by_name=lambda request, name: (
            Tensor((name, request[name])) if name in request else None
        ),
        Tensor=lambda name, array: Tensor((name, array)),
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(found=dict(tensors), error=error),
        TritonError=Error,
        InferenceRequest=Behind,
        PreferredMemory=lambda *_: None,
        TRITONSERVER_MEMORY_CPU=0,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    # what several stages of a server share lies in its folder, which is not that of other tests
    if not tempfile.gettempdir().startswith(_SCRATCH):
        monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=_SCRATCH))
    path = ROOT / "triton_models" / (name if name.endswith(".py") else f"{name}/1/model.py")
    spec = importlib.util.spec_from_file_location("stage", path)
    assert spec is not None
    assert spec.loader is not None
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    return stage
