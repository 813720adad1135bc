"""The stage that decodes, in this process: what a stranger's picture leaves behind there."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tests.triton.conftest import ROOT


class Family:
    """As pb_utils.MetricFamily."""

    COUNTER = "counter"

    def __init__(self, **_: Any) -> None:
        self.Metric = lambda labels: SimpleNamespace(increment=lambda by: None)


def test_odd_exif_fills_no_log(monkeypatch):
    entries = [struct.pack("<HHII", 40000 + i, 7, 1_000_000 + i, 8) for i in range(50)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG", exif=exif)
    utils = SimpleNamespace(
        MetricFamily=Family,
        get_input_tensor_by_name=lambda request, name: request.get(name),
        Tensor=lambda name, array: (name, array),
        InferenceResponse=dict,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    path = ROOT / "triton_models" / "icgan_preprocess" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("icgan_preprocess", path)
    assert spec is not None
    assert spec.loader is not None
    stage = importlib.util.module_from_spec(spec)
    picture = np.array([[stream.getvalue()]], dtype=object)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        spec.loader.exec_module(stage)
        model = stage.TritonPythonModel()
        model.initialize({"model_config": json.dumps({"output": [{"name": "image", "dims": [4, 4, 3]}]})})
        (answer,) = model.execute([{"IMAGE": SimpleNamespace(as_numpy=lambda: picture)}])
    assert answer["image"].shape == (1, 4, 4, 3)
    assert said == []
