import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from icgan_runtime import Pipeline, bench
from icgan_runtime.backends import base, select
from icgan_runtime.backends.canned import CannedSession
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.bundle.manifest import EngineEntry, TensorSpec
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import (
    BackendError,
    BindingError,
    BundleError,
    MissingExtraError,
    NumericsError,
    RequestError,
)
from icgan_runtime.verify import verify_bundle

BACKENDS = ["ort-cpu", "openvino"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param


def open_graph(bundle: Path, role: str, backend: str):
    opened = Bundle.open(bundle)
    return select.open_session(opened, opened.manifest.graph(role), backend, threads=1)


def feeds(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(rows, 12)).astype(np.float32)
    return {
        "noise": rng.normal(size=(rows, 6)).astype(np.float32),
        "embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
        "label": rng.integers(0, 3, rows),
    }


def test_a_session_describes_its_tensors_as_the_manifest_does(labelled_bundle, backend):
    manifest = Bundle.open(labelled_bundle).manifest
    for role in ("encoder", "lookup", "generator"):
        with open_graph(labelled_bundle, role, backend) as session:
            assert (session.inputs, session.outputs) == manifest.specs(role)
            assert session.name == f"{backend} {role}.onnx"


def test_every_backend_paints_the_same_picture(labelled_bundle, backend):
    """Fast path and reference held together: at most one grey level apart."""
    with open_graph(labelled_bundle, "generator", backend) as session:
        got = session.run(feeds(5))["image"].astype(int)
    with open_graph(labelled_bundle, "generator", "ort-cpu") as session:
        expected = session.run(feeds(5))["image"].astype(int)
    apart = np.abs(got - expected)
    assert apart.max() <= 1, f"max {apart.max()}, mean {apart.mean():.3g} grey levels"


def test_a_later_run_leaves_earlier_outputs_alone(labelled_bundle, backend):
    with open_graph(labelled_bundle, "generator", backend) as session:
        first = session.run(feeds(3))["image"]
        kept = first.copy()
        session.run(feeds(3, seed=1))
        np.testing.assert_array_equal(first, kept)


def test_threads_may_share_a_session(labelled_bundle, backend):
    with open_graph(labelled_bundle, "generator", backend) as session:
        alone = [session.run(feeds(2, seed))["image"] for seed in range(16)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda seed: session.run(feeds(2, seed))["image"], range(16)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": None}, r"fed \['embedding', 'label'\], expected \['embedding', 'label', 'noise'\]"),
        ({"extra": np.zeros(2)}, "fed .*'extra'"),
        ({"noise": np.zeros((2, 6))}, r"noise is float64\[2, 6\], expected float32\[N, 6\]"),
        ({"noise": np.zeros((2, 7), np.float32)}, r"noise is float32\[2, 7\]"),
        ({"noise": np.zeros(6, np.float32)}, r"noise is float32\[6\]"),
        ({"label": np.zeros(3, np.int64)}, r"label is int64\[3\], expected int64\[2\]"),
        ({"label": np.zeros(2, np.int32)}, r"label is int32\[2\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_with_both_shapes(labelled_bundle, backend, change, message):
    fed = {name: array for name, array in {**feeds(2), **change}.items() if array is not None}
    with (
        open_graph(labelled_bundle, "generator", backend) as session,
        pytest.raises(BackendError, match=message),
    ):
        session.run(fed)


def test_no_rows_and_nan_are_refused_alike_by_every_backend(labelled_bundle, backend):
    bad = feeds(3)
    bad["embedding"][1, 5] = np.nan
    with open_graph(labelled_bundle, "generator", backend) as session:
        with pytest.raises(BackendError, match="has no rows, one at least is expected"):
            session.run({name: array[:0] for name, array in bad.items()})
        with pytest.raises(BackendError, match="row 1 of embedding holds NaN or infinity"):
            session.run(bad)


def test_arrays_in_another_byte_order_are_not_read_as_other_numbers(labelled_bundle, backend):
    swapped = feeds(2)
    swapped["noise"] = swapped["noise"].astype(">f4")
    with (
        open_graph(labelled_bundle, "generator", backend) as session,
        pytest.raises(BackendError, match="noise is >f4"),
    ):
        session.run(swapped)


def test_a_session_leaves_the_callers_smallest_numbers_alone(labelled_bundle, backend):
    """A session option that flushes them to zero holds for the whole thread, and for good."""
    with open_graph(labelled_bundle, "generator", backend) as session:
        session.run(feeds(1))
        smallest = np.full(1000, 1e-40, np.float32)
        assert (smallest * np.float32(0.5) > 0).all()


def test_a_label_beyond_the_table_is_a_backend_error(labelled_bundle):
    with (
        open_graph(labelled_bundle, "generator", "ort-cpu") as session,
        pytest.raises(BackendError, match=r"ort-cpu generator\.onnx: .*indices element out of data bounds"),
    ):
        session.run({**feeds(1), "label": np.array([99])})


def test_what_is_not_a_graph_is_refused_by_name():
    with pytest.raises(BundleError, match=r"^encoder\.onnx: ONNX Runtime cannot load it \(.+\)$"):
        OrtSession(b"\x08\x09", "encoder.onnx")
    openvino = pytest.importorskip("icgan_runtime.backends.openvino")
    with pytest.raises(BundleError, match=r"^encoder\.onnx: OpenVINO cannot load it \(.+\)$"):
        openvino.OpenVinoSession(b"\x08\x09", "encoder.onnx")


def test_a_graph_with_other_tensors_than_the_format_is_refused(tiny_bundle, monkeypatch):
    bundle = Bundle.open(tiny_bundle)
    entry = bundle.manifest.graph("encoder")
    wrong = (TensorSpec("pixels", "uint8", ("N", 8, 8, 3)),), entry.outputs
    monkeypatch.setattr(type(bundle.manifest), "specs", lambda self, role: wrong)
    with pytest.raises(
        BindingError,
        match=r"encoder\.onnx: computes image uint8\[N, 8, 8, 3\] -> .*, the format says pixels uint8",
    ):
        select.open_session(bundle, entry, "ort-cpu")


def test_the_choice_carries_its_reason():
    choice = select.choose_backend()
    assert choice.backend in select.BACKENDS[1:]
    assert "CUDA" in choice.reason
    for asked in ("ort-cpu", "openvino", "tensorrt"):
        assert select.choose_backend(asked) == select.Choice(asked, "asked for")


def test_an_unknown_or_absent_backend_is_refused(monkeypatch):
    with pytest.raises(RequestError, match="backend: 'tpu', expected one of auto, ort-cpu"):
        select.choose_backend("tpu")
    monkeypatch.setattr("icgan_runtime.backends.ort.available_backends", lambda: ["ort-cpu"])
    with pytest.raises(BackendError, match="backend ort-cuda is not in this onnxruntime, which has ort-cpu"):
        select.choose_backend("ort-cuda")


@pytest.mark.parametrize(
    ("module", "backend", "library", "extra"),
    [("ort", "auto", "onnxruntime", "cpu"), ("openvino", "openvino", "openvino", "openvino")],
)
def test_a_missing_library_names_its_extra(tiny_bundle, monkeypatch, module, backend, library, extra):
    monkeypatch.setitem(sys.modules, f"icgan_runtime.backends.{module}", None)
    with pytest.raises(MissingExtraError) as caught:
        open_graph(tiny_bundle, "encoder", select.choose_backend(backend).backend)
    assert str(caught.value) == f"{library} is not installed: pip install 'icgan[{extra}]'"


def test_plans_need_the_cuda_bindings_and_auto_does_without(tiny_bundle, monkeypatch):
    plan = EngineEntry("generator", "fp16", "engines/g.plan", "sm90", "10.14.1", 8, "")
    monkeypatch.setitem(sys.modules, "icgan_runtime.backends.trt", None)
    with pytest.raises(MissingExtraError) as caught:
        select.fitting_plan([plan], "generator")
    assert str(caught.value) == "cuda-python is not installed: pip install 'icgan[tensorrt]'"
    assert select.choose_backend("auto", [plan]).backend.startswith("ort-")


def test_only_a_plan_of_this_gpu_and_this_tensorrt_fits(monkeypatch):
    here = SimpleNamespace(capability="sm90", libraries={"tensorrt": "10.14.1"})
    monkeypatch.setitem(sys.modules, "icgan_runtime.backends.trt", SimpleNamespace(machine=lambda: here))

    def plan(capability: str, version: str, role: str = "generator") -> EngineEntry:
        return EngineEntry(role, "fp16", f"{capability}-{version}.plan", capability, version, 8, "")

    others = [plan("sm80", "10.14.1"), plan("sm90", "10.13.0")]
    assert select.fitting_plan([*others, plan("sm90", "10.14.1")], "generator").file == "sm90-10.14.1.plan"
    with pytest.raises(BackendError) as caught:
        select.fitting_plan(others, "generator")
    remedy = "run `icgan-export engine` on this machine"
    assert str(caught.value) == f"no plan of the generator for sm90 and tensorrt 10.14.1: {remedy}"
    both = [plan("sm90", "10.14.1", "encoder"), plan("sm90", "10.14.1")]
    chosen = select.Choice("tensorrt", "sm90-10.14.1.plan was built for this GPU")
    assert select.choose_backend("auto", both) == select.choose_backend("auto", both, "fp16") == chosen
    # else the graphs run without plans
    assert select.choose_backend("auto", both, "fp32").backend.startswith("ort-")
    for alone in both:
        assert select.choose_backend("auto", [alone]).backend.startswith("ort-")
    here.libraries = {}
    with pytest.raises(BackendError, match="no plan of the generator int8 for sm90 and no TensorRT: run"):
        select.fitting_plan([plan("sm90", "10.14.1")], "generator", "int8")


def test_a_plan_is_chosen_by_role_and_precision_and_so_is_its_graph(labelled_bundle, monkeypatch):
    here = SimpleNamespace(capability="sm90", libraries={"tensorrt_rtx": "1.1", "tensorrt": "10.14.1"})
    monkeypatch.setitem(sys.modules, "icgan_runtime.backends.trt", SimpleNamespace(machine=lambda: here))
    plans = tuple(
        EngineEntry(role, precision, f"{role}.{precision}.plan", "sm90", "10.14.1", 8, "")
        for role in ("encoder", "generator")
        for precision in ("fp16", "fp32")
    )
    assert select.fitting_plan(plans, "generator").file == "generator.fp16.plan"
    assert select.fitting_plan(plans, "generator", "fp32").file == "generator.fp32.plan"
    manifest = replace(Bundle.open(labelled_bundle).manifest, engines=plans[1:])
    assert select.choose_graph(manifest, "encoder", None, "tensorrt") == manifest.graph("encoder", "fp32")
    assert select.choose_graph(manifest, "encoder", "fp32", "ort-cpu") == manifest.graph("encoder", "fp32")
    with pytest.raises(BackendError, match="no plan of the lookup"):
        select.choose_graph(manifest, "lookup", None, "tensorrt")


def test_openvino_is_told_what_to_compute_in_and_with_how_many_threads(labelled_bundle):
    pytest.importorskip("openvino")
    from icgan_runtime.backends.openvino import OpenVinoSession

    bundle = Bundle.open(labelled_bundle)
    names = {}
    for backend in ("openvino", "openvino-bf16"):
        for role in ("lookup", "generator"):
            with select.open_session(bundle, bundle.manifest.graph(role), backend, threads=1) as session:
                names[backend, role] = session.name
                assert isinstance(session, OpenVinoSession)
                assert session._compiled.get_property("INFERENCE_NUM_THREADS") == 1
                assert session._compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert names == {
        ("openvino", "lookup"): "openvino lookup.onnx",
        ("openvino", "generator"): "openvino generator.onnx",
        ("openvino-bf16", "lookup"): "openvino lookup.onnx",  # neighbours are found in float32
        ("openvino-bf16", "generator"): "openvino-bf16 generator.onnx",
    }
    with OpenVinoSession(bundle.read("generator.onnx"), "generator.onnx") as session:
        assert session.name == "openvino generator.onnx"
        assert "float32" in str(session._compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_a_lone_row_on_openvino_is_drawn_as_in_a_batch_though_by_a_form_of_its_own(labelled_bundle):
    pytest.importorskip("openvino")
    with open_graph(labelled_bundle, "generator", "openvino") as session:
        assert session._one is not None
        together = session.run(feeds(3))["image"]
        for row in range(3):
            alone = session.run({name: array[row : row + 1] for name, array in feeds(3).items()})["image"]
            assert np.abs(alone.astype(int) - together[row]).max() <= 1
    with open_graph(labelled_bundle, "generator", "openvino-bf16") as session:
        assert session._one is None, "bfloat16 would round otherwise there"


def test_what_openvino_complains_of_is_one_line_with_backend_and_graph(labelled_bundle):
    pytest.importorskip("openvino")

    def create_infer_request() -> None:
        raise RuntimeError("Check failed:\n  out of memory")

    with open_graph(labelled_bundle, "generator", "openvino") as session:
        session._compiled = SimpleNamespace(create_infer_request=create_infer_request)
        with pytest.raises(BackendError) as caught:
            session.run(feeds(2))
    assert str(caught.value) == "openvino generator.onnx: Check failed: out of memory"


def test_infinity_in_an_answer_is_reported_with_backend_and_graph(labelled_bundle, backend):
    near = np.load(labelled_bundle / "bank/embeddings.npy")[0]
    embedding = np.stack(
        [near, 3e38 * np.sign(near)]
    )  # finite, but its inner product with that instance is not
    with open_graph(labelled_bundle, "lookup", backend) as session, pytest.raises(NumericsError) as caught:
        session.run({"embedding": embedding})
    assert str(caught.value).startswith(f"{backend} lookup.onnx: scores holds NaN or infinity in 1 of 2 rows")


def test_what_onnx_runtime_complains_of_comes_without_its_codes(labelled_bundle):
    with (
        open_graph(labelled_bundle, "generator", "ort-cpu") as session,
        pytest.raises(BackendError) as caught,
    ):
        session.run({**feeds(1), "label": np.array([99])})
    words = str(caught.value).removeprefix("ort-cpu generator.onnx: ")
    assert words.startswith("Non-zero status code returned while running Gather node")
    assert "\n" not in words
    assert len(words) <= 300


def test_a_session_says_on_which_device_its_tensors_lie(labelled_bundle, monkeypatch):
    """By what ONNX Runtime took, not by what it was asked for: it falls back without a word."""
    model = (labelled_bundle / "generator.onnx").read_bytes()
    with OrtSession(model, "generator.onnx") as session:
        assert session.device == "cpu"
    held = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda session: held)
    with OrtSession(model, "generator.onnx") as session:
        assert session.device == "cuda"


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
@pytest.mark.parametrize(
    "use",
    [
        lambda path, backend: Pipeline.load(path, backend=backend),
        lambda path, backend: bench.SessionRunner.open(Bundle.open(path), backend, 1),
    ],
    ids=["load", "bench"],
)
def test_a_provider_that_is_asked_for_and_cannot_be_loaded_is_not_replaced_by_another(
    labelled_bundle, monkeypatch, backend, use
):
    """Its time and its pictures would pass for those of the GPU."""
    held = ["CUDAExecutionProvider"] * (backend == "ort-tensorrt") + ["CPUExecutionProvider"]
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda model, options, providers: start(model, options)
    )
    monkeypatch.setattr(start, "get_providers", lambda session: held)
    monkeypatch.setattr("icgan_runtime.backends.ort.available_backends", lambda: ["ort-cuda", "ort-tensorrt"])
    with pytest.raises(BackendError, match=rf"{backend} encoder\.onnx: .* run on {held[0]}"):
        use(labelled_bundle, backend)
    with Pipeline.load(labelled_bundle) as pipe:  # auto takes the best there is
        assert pipe.generate(np.zeros((8, 8, 3), np.uint8), label=0).images.shape == (1, 8, 8, 3)


def test_what_onnx_runtime_says_of_missing_libraries_is_not_among_the_answers(
    labelled_bundle, monkeypatch, capsys
):
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda model, options, providers: start(model, options)
    )
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    OrtSession((labelled_bundle / "generator.onnx").read_bytes(), "generator.onnx", "ort-cuda").close()
    assert capsys.readouterr() == ("", "Failed to load libcudnn.so.9\n")


def test_float32_is_not_shortened_on_a_gpu(monkeypatch):
    asked = {}

    def open_nothing(model, options, providers):
        asked.update(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr("onnxruntime.InferenceSession", open_nothing)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    with pytest.raises(BundleError, match="no GPU here"):
        OrtSession(b"", "generator.onnx", "ort-cuda")
    assert asked == {"CUDAExecutionProvider": {"use_tf32": "0"}, "CPUExecutionProvider": {}}


def test_int8_products_do_not_overflow_on_older_processors():
    """Unless told, and without VNNI, ONNX Runtime adds two products in 16 bits: 2 x 255 x 127 is too much."""
    weight = helper.make_tensor("weight", TensorProto.INT8, [64, 8], [127] * 512)
    nodes = [
        helper.make_node("MatMulInteger", ["image", "weight"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["out"], to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 64])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "g", [image], [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with OrtSession(model.SerializeToString(), "g.onnx", threads=1) as session:
        sums = session.run({"image": np.full((3, 64), 255, np.uint8)})["out"]
    assert (sums == 64 * 255 * 127).all()


def test_a_type_that_the_contract_has_not_is_called_as_the_library_calls_it():
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", 2]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    with OrtSession(model.SerializeToString(), "x.onnx") as session:
        assert session.inputs == (TensorSpec("x", "tensor(double)", ("N", 2)),)


def test_bfloat16_on_openvino_stays_within_the_bound_of_half_precision(tiny_bundle):
    pytest.importorskip("openvino")
    checks = {check.name: check for check in verify_bundle(Bundle.open(tiny_bundle), "openvino-bf16")}
    assert "at least 40 wanted" in checks["generator.onnx on samples"].detail
    assert all(check.passed for check in checks.values())


def test_cuda_is_chosen_where_onnx_runtime_has_it(monkeypatch):
    monkeypatch.setattr("icgan_runtime.backends.ort.available_backends", lambda: ["ort-cpu", "ort-cuda"])
    assert select.choose_backend() == select.Choice("ort-cuda", "ONNX Runtime has its CUDA provider")


SPEC = (TensorSpec("x", "float32", ("N", 2)),)


@settings(max_examples=30)
@given(rows=st.integers(1, 5), bad=st.data(), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nan_and_infinity_are_reported_with_their_row(rows, bad, value):
    outputs = {"x": np.zeros((rows, 2), np.float32), "bytes": np.zeros((rows, 2), np.uint8)}
    base.check_finite("here", outputs)
    row = bad.draw(st.integers(0, rows - 1))
    outputs["x"][row, 1] = value
    with pytest.raises(
        NumericsError, match=rf"here: x holds NaN or infinity in 1 of {rows} rows, first row {row};"
    ):
        base.check_finite("here", outputs)


def test_a_canned_session_keeps_its_feeds_and_checks_like_the_others():
    session = CannedSession(SPEC, SPEC, lambda fed: {"x": fed["x"] * 2})
    fed = {"x": np.ones((3, 2), np.float32)}
    assert session.run(fed)["x"].tolist() == [[2, 2]] * 3
    assert session.calls == [fed]
    with pytest.raises(BackendError, match="canned: x is float32"):
        session.run({"x": np.ones((3, 3), np.float32)})


def test_a_closed_session_does_not_run(tiny_bundle, backend):
    session = open_graph(tiny_bundle, "lookup", backend)
    session.close()
    session.close()
    with pytest.raises((BackendError, AttributeError)):
        session.run({"embedding": np.zeros((1, 12), np.float32)})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux to count threads")
def test_one_thread_is_one_thread(tiny_bundle):
    before = len(os.listdir("/proc/self/task"))
    with open_graph(tiny_bundle, "lookup", "ort-cpu") as session:
        session.run({"embedding": np.zeros((1, 12), np.float32)})
        assert len(os.listdir("/proc/self/task")) == before
