"""Edge files are compared in the runtime they are for, and a folder says how to start with them."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from icgan_export.cli import main
from icgan_export.edge import openvino_target, web_target
from icgan_export.edge.parts import float_input
from icgan_export.edge.target import in_rows
from icgan_export.errors import ExportError
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.bundle.opened import Bundle
from tests.models import bundles

tiny_bundle = bundles.tiny_bundle
TARGETS = "openvino,ort,web"


@pytest.fixture(scope="module")
def written(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edge") / "files"
    assert main(["edge", str(tiny_bundle), "--target", TARGETS, "--out", str(out)]) == 0
    return out


def test_every_graph_is_compared_where_it_runs_and_every_file_has_its_hash(written: Path, tiny_bundle: Path):
    about = json.loads((written / "edge.json").read_text())
    assert about["bundle"] == Bundle.open(tiny_bundle).manifest.model.identity
    assert set(about["targets"]) == set(TARGETS.split(","))
    for target in about["targets"].values():
        assert {graph["role"] for graph in target["graphs"]} == {"encoder", "lookup", "generator"}
        assert all(graph["passed"] for graph in target["graphs"])
    here = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert set(about["files"]) == here - {"edge.json"}


@pytest.mark.parametrize("target", TARGETS.split(","))
def test_the_program_on_the_page_runs_as_it_stands(written: Path, target: str):
    page = (written / target / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=written / target, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("uint8 (1, ")


def test_a_target_whose_pictures_differ_is_named_and_the_others_are_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def open_wrongly(files):
        run = openvino_target.open_graph(files)
        return lambda feeds: {name: array[::-1] for name, array in run(feeds).items()}

    wrong = dataclasses.replace(openvino_target.TARGET, open=open_wrongly)
    monkeypatch.setattr(openvino_target, "TARGET", wrong)
    out = tmp_path / "files"
    assert main(["edge", str(tiny_bundle), "--target", "openvino,web", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"wrote {out} without openvino" in said.out
    assert "icgan-export: openvino is left out (openvino: encoder, max error is" in said.err
    assert sorted(path.name for path in out.iterdir()) == ["edge.json", "web"]


def test_an_unknown_runtime_and_a_missing_library_are_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    out = tmp_path / "files"
    assert main(["edge", str(tiny_bundle), "--target", "abacus", "--out", str(out)]) == 1
    assert "--target abacus: choose from litert, mnn, ncnn, openvino, ort, web" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ncnn", None)
    monkeypatch.delitem(sys.modules, "icgan_export.edge.ncnn_target", raising=False)
    assert main(["edge", str(tiny_bundle), "--target", "ncnn", "--out", str(out)]) == 1
    assert "ncnn is not installed: pip install 'icgan[edge]'" in capsys.readouterr().err
    assert not out.exists()


def test_an_encoder_without_bytes_gives_the_same_embeddings(tiny_bundle: Path):
    model = onnx.load(tiny_bundle / "encoder.onnx")
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    picture = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    with OrtSession(model.SerializeToString(), "bytes.onnx") as session:
        expected = session.run({"image": picture})["embedding"]
    with OrtSession(float_input(model).SerializeToString(), "floats.onnx") as session:
        found = session.run({"image": picture.astype(np.float32)})["embedding"]
    np.testing.assert_array_equal(found, expected)


def test_a_graph_that_webgpu_cannot_bind_is_refused(tmp_path: Path):
    nodes = [
        onnx.helper.make_node("Split", ["x"], [f"y{i}" for i in range(8)], "wide", num_outputs=8, axis=1)
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 8])
    y = onnx.helper.make_tensor_value_info("y0", onnx.TensorProto.FLOAT, ["N", 1])
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]))
    with pytest.raises(ExportError, match="Split wide of generator binds 9 tensors, WebGPU promises 8"):
        web_target.convert(model, tmp_path / "generator")


def test_a_runtime_of_one_picture_at_a_time_is_asked_one_by_one():
    seen = []

    def run(feeds):
        seen.append(len(feeds["x"]))
        return {"y": 2 * feeds["x"]}

    found = in_rows(run, {"x": np.arange(6.0).reshape(3, 2)}, batch=1)
    assert seen == [1, 1, 1]
    np.testing.assert_array_equal(found["y"], 2 * np.arange(6.0).reshape(3, 2))
