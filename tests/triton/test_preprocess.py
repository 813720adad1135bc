"""The stage that decodes, in this process: what a stranger's picture leaves behind there."""

from __future__ import annotations

import io
import json
import struct
import warnings

import numpy as np
from PIL import Image

from tests.triton.stages import load_stage


def test_odd_exif_fills_no_log(monkeypatch):
    entries = [struct.pack("<HHII", 40000 + i, 7, 1_000_000 + i, 8) for i in range(50)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG", exif=exif)
    picture = np.array([[stream.getvalue()]], dtype=object)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = load_stage("icgan_preprocess", monkeypatch).TritonPythonModel()
        model.initialize({"model_config": json.dumps({"output": [{"name": "image", "dims": [4, 4, 3]}]})})
        (answer,) = model.execute([{"IMAGE": picture}])
    assert answer.found["image"].shape == (1, 4, 4, 3)
    assert said == []
