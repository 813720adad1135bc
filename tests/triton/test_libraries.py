"""Encoder and generator by another library than ONNX Runtime, in the real server."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.server.environment import Environment
from tests.triton.conftest import ROOT
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import Wire, rows


@pytest.fixture
def openvino(environment) -> Environment:
    """The server's environment, with OpenVINO in it."""
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('openvino') is None)"
    if subprocess.run([environment.python, "-c", probe]).returncode:
        pytest.skip("no OpenVINO in the server's environment: pip install 'icgan[openvino]' there")
    return environment


@pytest.mark.parametrize(("library", "generators", "apart"), [("openvino", 1, 1), ("openvino-bf16", 2, 8)])
def test_openvino_serves_the_pictures_of_onnx_runtime(
    openvino, start, tiny_bundle, library, generators, apart
):
    server = start(tiny_bundle, cpu_backend=library, generators=generators)
    with Pipeline.load(tiny_bundle) as local, Wire(server, "grpc") as wire:
        expected = local.generate(PHOTO, n=5, truncation=0.7)
        answer = wire.ask("icgan", {"IMAGE": [PHOTO] * 5, **rows(5)})
    assert np.abs(answer["GENERATED"].astype(int) - expected.images).max() <= apart
    assert float(answer["EMBEDDING"][0] @ expected.embedding) > 0.99
    assert sorted(server.stages().values()).count("icgan_generator") == generators


def test_a_server_without_openvino_says_what_to_install(monkeypatch, tiny_bundle):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "icgan_runtime.backends.openvino", raising=False)
    path = ROOT / "triton_models" / "backends" / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("stage_of_graphs", path)
    assert spec is not None
    assert spec.loader is not None
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    config = {
        "name": "icgan_generator",
        "input": [],
        "output": [],
        "max_batch_size": 8,
        "parameters": {"library": {"string_value": "openvino"}},
    }
    arguments = {"model_config": json.dumps(config), "model_repository": str(Path("x")), "model_version": "1"}
    with pytest.raises(MissingExtraError, match=r"pip install 'icgan\[openvino\]'"):
        stage.TritonPythonModel().initialize(arguments)
