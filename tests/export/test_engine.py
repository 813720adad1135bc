"""Plans are really built where `tensorrt_rtx` is installed: it needs no GPU for that."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from icgan_export import engine
from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_export.half import to_half
from icgan_runtime.manifest import GraphEntry


def small_generator() -> bytes:
    """A transposed convolution and the generator's way to bytes: what TensorRT accepts only in one order."""
    kernel = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["h"], "deconv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["h"], ["picture"], "tanh"),
        helper.make_node("Mul", ["picture", "scale"], ["levels"], "mul"),
        helper.make_node("Round", ["levels"], ["whole"], "round"),
        helper.make_node("Transpose", ["whole"], ["turned"], "transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["turned"], ["image"], "cast", to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 4, 4])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [
            numpy_helper.from_array(kernel, "w"),
            numpy_helper.from_array(np.array(127.5, np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def entry(precision: str) -> GraphEntry:
    return GraphEntry("generator", precision, "generator.onnx", 18, (), (), "")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_with_two_profiles_is_built_without_a_gpu(precision: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    graph = small_generator()
    if precision == "fp16":
        graph = to_half(
            onnx.load_from_string(graph), ("mul", "round", "transpose", "cast")
        ).SerializeToString()
    plan = engine.build(trt, graph, entry(precision), engine.Settings(), b"", lambda text: None)
    assert len(plan.data) > 1000
    assert engine.Settings().profiles == ((1, 1, 1), (1, 8, 32))


def test_what_tensorrt_cannot_read_is_said_in_its_own_words() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    with pytest.raises(ExportError, match=r"generator\.onnx: TensorRT cannot read it"):
        engine.build(trt, b"no graph", entry("fp32"), engine.Settings(), b"", lambda text: None)


def test_without_tensorrt_the_command_says_where_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    assert main(["engine", str(tmp_path)]) == 1
    assert "built on the GPU that will run them" in capsys.readouterr().err
    assert main(["engine", str(tmp_path), "--library", "tensorrt"]) == 1
    assert "pip install 'icgan[tensorrt]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_batch": 64}, "--best-batch 64"),
        ({"level": 9}, "--level is 9"),
        ({"best_batch": 0}, "--best-batch 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        engine.Settings(**settings)  # type: ignore[arg-type]
