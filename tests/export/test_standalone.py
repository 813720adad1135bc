import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_export.lower import onnx_export
from icgan_runtime.files import sha256_of_file
from icgan_training.networks.encoder import load_encoder


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


def test_the_encoder_comes_beside_the_generator_and_both_name_its_weights(
    tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "no folder yet" / "app.onnx"
    assert main(["onnx", str(tiny_run), "--encoder", "--precision", "int8", "--out", str(out)]) == 0
    names = ["app.encoder.onnx", "app.md", "app.onnx"]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    models = {name: onnx.load(out.parent / name) for name in ("app.onnx", "app.encoder.onnx")}
    said = {name: {e.key: e.value for e in model.metadata_props} for name, model in models.items()}
    assert said["app.onnx"]["icgan.precision"] == "int8"
    assert "DequantizeLinear" in {node.op_type for node in models["app.onnx"].graph.node}
    weights = sha256_of_file(tiny_run / "encoder.safetensors")
    assert {each["icgan.encoder_sha256"] for each in said.values()} == {weights}
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = load_encoder(tiny_run / "encoder.safetensors")(torch.from_numpy(pictures)).numpy()
    found = ort.InferenceSession(out.parent / "app.encoder.onnx").run(None, {"image": pictures})[0]
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "nowhere is no run directory"),
        (["RUN", "--without", "magic"], "--without magic: choose from blocks, condition_product"),
        (["RUN", "--out", "page.md"], "a page of this name comes beside the graph"),
        (["RUN", "--out", "."], "is a folder"),
    ],
)
def test_a_mistake_is_named_before_torch_is_loaded(tiny_run: Path, tmp_path: Path, arguments, complaint):
    given = [str(tiny_run) if part == "RUN" else part for part in arguments]
    out = [] if "--out" in given else ["--out", "generator.onnx"]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from icgan_export.cli import main; "
    )
    command = [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))", "onnx", *given, *out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def environment() -> dict[str, str]:
    """As of these tests, wherever their packages come from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
