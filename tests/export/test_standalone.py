from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_export.lower import onnx_export


def test_the_generator_alone_as_float_and_as_bytes_without_rewrites(tiny_run: Path, tmp_path: Path) -> None:
    feeds = {
        "noise": np.random.default_rng(0).standard_normal((3, 120)).astype(np.float32),
        "embedding": np.eye(3, 1280, dtype=np.float32),
    }
    as_float, as_bytes = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    assert main(["onnx", str(tiny_run), "--image-dtype", "float32", "--out", str(as_float)]) == 0
    assert main(["onnx", str(tiny_run), "--no-rewrite", "--out", str(as_bytes)]) == 0
    image = ort.InferenceSession(as_float).run(None, feeds)[0]
    levels = ort.InferenceSession(as_bytes).run(None, feeds)[0]
    assert image.shape == (3, 3, 32, 32)
    assert image.dtype == np.float32
    assert levels.shape == (3, 32, 32, 3)
    assert levels.dtype == np.uint8
    assert np.abs(levels - (image.transpose(0, 2, 3, 1) + 1) * 127.5).max() <= 0.51


def test_the_generator_is_one_file_that_describes_itself(tiny_run: Path, tmp_path: Path) -> None:
    assert main(["onnx", str(tiny_run), "--out", str(tmp_path / "generator.onnx")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generator.md", "generator.onnx"]
    model = onnx.load(tmp_path / "generator.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert (
        found.items()
        >= {
            "icgan.role": "generator",
            "icgan.precision": "fp32",
            "icgan.resolution": "32",
            "icgan.dim_z": "120",
            "icgan.licence": "CC0-1.0",
        }.items()
    )
    assert found["icgan.name"]
    assert found["icgan.version"]


def test_a_graph_too_large_for_one_file_is_refused_with_both_sizes(monkeypatch) -> None:
    monkeypatch.setattr(onnx_export, "MAX_PROTOBUF_BYTES", 10)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    with pytest.raises(ExportError, match=r"the graph has \d+ bytes; one ONNX file holds 10"):
        onnx_export.finish(model, {"icgan.name": "large"})
