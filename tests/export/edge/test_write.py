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
from icgan_export.edge.target import find_target, in_rows
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
        assert {graph["precision"] for graph in target["graphs"]} == {"fp32"}
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


def test_the_program_for_mnn_runs_as_it_stands(tiny_bundle: Path, tmp_path: Path):
    pytest.importorskip("MNN", reason="MNN is not installed: pip install 'icgan[edge]'")
    out = tmp_path / "files"
    assert main(["edge", str(tiny_bundle), "--target", "mnn", "--out", str(out)]) == 0
    (program,) = re.findall(r"```python\n(.*?)```", (out / "mnn" / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], cwd=out / "mnn", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "uint8 (1, 8, 8, 3)"


def test_the_program_for_ncnn_runs_as_it_stands(tmp_path: Path):
    pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'icgan[edge]'")
    target = find_target("ncnn")
    shapes = {"noise": [1, 6], "embedding": [1, 12]}
    nodes = [
        onnx.helper.make_node("Concat", list(shapes), ["both"], axis=1),
        onnx.helper.make_node("MatMul", ["both", "weight"], ["flat"]),
        onnx.helper.make_node("Reshape", ["flat", "shape"], ["picture"]),
        onnx.helper.make_node("Tanh", ["picture"], ["image"]),
    ]
    weight = np.random.default_rng(0).normal(size=(18, 192)).astype(np.float32)
    graph = onnx.helper.make_graph(
        nodes,
        "generator",
        [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()],
        [onnx.helper.make_tensor_value_info("image", 1, [1, 3, 8, 8])],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(np.array([1, 3, 8, 8]), "shape"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    made = target.convert(model, tmp_path / "generator", "fp32")
    program = target.snippet.format(generator=made[0].name, inputs=list(shapes), shapes=list(shapes.values()))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "float32 (1, 3, 8, 8)"  # the shape of this Reshape


def test_a_target_whose_pictures_differ_is_named_and_the_others_are_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def open_wrongly(files, threads):
        run = openvino_target.open_graph(files, threads)
        return lambda feeds: {name: array[::-1] for name, array in run(feeds).items()}

    wrong = dataclasses.replace(openvino_target.TARGET, open=open_wrongly)
    monkeypatch.setattr(openvino_target, "TARGET", wrong)
    out = tmp_path / "files"
    assert main(["edge", str(tiny_bundle), "--target", "openvino,web", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"wrote {out} without openvino" in said.out
    assert "icgan-export: openvino is left out (openvino: encoder at fp32, max error " in said.err
    assert sorted(path.name for path in out.iterdir()) == ["edge.json", "web"]


def test_an_unknown_runtime_and_a_missing_library_are_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    out = tmp_path / "files"
    assert main(["edge", str(tiny_bundle), "--target", "abacus", "--out", str(out)]) == 1
    assert (
        "--target abacus: choose from coreml, executorch, litert, mnn, ncnn, openvino, ort, web"
        in capsys.readouterr().err
    )
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


def test_a_precision_that_misses_or_is_not_there_is_named_and_float32_is_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def spoil(model, stem, precision):
        if precision == "int8":
            for tensor in model.graph.initializer:
                array = onnx.numpy_helper.to_array(tensor)
                if array.dtype == np.float32 and array.ndim == 2:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
        return openvino_target.convert(model, stem, precision)

    own = dataclasses.replace(openvino_target.TARGET, convert=spoil, lowers=True)
    monkeypatch.setattr(openvino_target, "TARGET", own)
    out = tmp_path / "files"
    wanted = ["--target", "openvino,ort", "--precision", "fp32,fp16,int8", "--out", str(out)]
    assert main(["edge", str(tiny_bundle), *wanted]) == 1
    said = capsys.readouterr().err
    assert "openvino:int8 is left out (openvino: encoder at int8, cosine, worst row" in said
    assert "ort:fp16 is left out (the bundle has no fp16: icgan-export bundle --precision fp32,fp16" in said
    here = {path.name for path in (out / "openvino").iterdir()}
    assert {"generator.xml", "generator.fp16.xml", "encoder.fp16.bin"} <= here
    assert not any("int8" in name for name in here)
    graphs = json.loads((out / "edge.json").read_text())["targets"]["openvino"]["graphs"]
    assert {(graph["role"], graph["measure"]) for graph in graphs if graph["precision"] == "fp16"} == {
        ("encoder", "cosine, worst row"), ("encoder", "recall@1 on the bank"), ("generator", "PSNR, dB"),
    }  # fmt: skip


def test_precisions_are_refused_before_any_work(tiny_bundle: Path, tmp_path: Path, capsys):
    command = ["edge", str(tiny_bundle), "--target", "web", "--out", str(tmp_path / "files"), "--precision"]
    assert main([*command, "fp32,int4"]) == 1
    assert "--precision int4: choose from fp32, fp16, int8" in capsys.readouterr().err
    assert main([*command, "int8"]) == 1
    assert "--precision must include fp32" in capsys.readouterr().err
