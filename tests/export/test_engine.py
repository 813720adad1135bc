"""Plans are really built where `tensorrt_rtx` is installed: it needs no GPU for that."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from icgan_export import engine
from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_runtime.bundle.manifest import GraphEntry
from icgan_runtime.bundle.opened import Bundle


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


@pytest.fixture(scope="module")
def bundle(all_precisions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of its own at every precision, for plans to be added to."""
    return Path(shutil.copytree(all_precisions, tmp_path_factory.mktemp("bundles") / "planned"))


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", "FLOAT"), ("fp16", "HALF"), ("bf16", "BF16"), ("int8", "INT8")]
)
def test_every_graph_is_built_at_every_precision_without_a_gpu(bundle, precision, kind, capsys) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    assert main(["engine", str(bundle), "--precision", precision, "--library", "tensorrt_rtx"]) == 0
    place = f"engines/sm89-trtrtx{trt.__version__}"
    held = [entry for entry in Bundle.open(bundle).manifest.engines if entry.precision == precision]
    suffix = "" if precision == "fp32" else f".{precision}"
    assert {entry.file for entry in held} == {f"{place}/{r}{suffix}.plan" for r in ("encoder", "generator")}
    assert all((bundle / entry.file).stat().st_size > 100_000 for entry in held)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        types = line.partition("products: ")[2]
        assert types.split(", ")[0].endswith(kind)  # the most frequent one


def test_the_lookup_is_built_too_and_the_bundle_stays_sound(bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    command = ["engine", str(bundle), "--precision", "fp32", "--roles", "lookup", "--max-batch", "1"]
    assert main([*command, "--best-batch", "1", "--library", "tensorrt_rtx"]) == 0
    Bundle.open(bundle).verify_files()


def test_a_plan_is_built_for_the_gpu_that_is_named() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    plans = [
        engine.build(
            trt, small_generator(), entry("fp32"), engine.PlanOptions(compute_capability=name), b"", print
        )
        for name in ("8.9", "12.0")
    ]
    assert plans[0].data != plans[1].data
    assert plans[0].products == {"FLOAT": 1}
    with pytest.raises(ExportError, match=r"--compute-capability 3.5: choose from SM120"):
        engine.target_capability(trt, engine.PlanOptions(compute_capability="3.5"))


def test_what_tensorrt_cannot_read_is_said_in_its_own_words() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx to build plans")
    with pytest.raises(ExportError, match=r"generator\.onnx: TensorRT cannot read it"):
        engine.build(trt, b"no graph", entry("fp32"), engine.PlanOptions(), b"", lambda text: None)


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
    ("options", "message"),
    [
        ({"best_batch": 64}, "--best-batch 64"),
        ({"level": 9}, "--level is 9"),
        ({"best_batch": 0}, "--best-batch 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        engine.PlanOptions(**options)  # type: ignore[arg-type]
