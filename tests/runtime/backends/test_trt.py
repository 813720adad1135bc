"""The session of TensorRT plans, on CUDA and TensorRT as far as tests/gpu/fakes.py has them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.backends.select import choose_graph, open_session
from icgan_runtime.bundle.manifest import EngineEntry, Manifest, TensorSpec, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BackendError, BundleError, NumericsError
from tests.gpu.fakes import Context, Cuda, Engine, RuntimeConfig, fake_tensorrt, machine_with_gpu

PROFILES = [(1, 1, 2), (1, 4, 8)]
Open = Callable[..., Any]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    with machine_with_gpu(monkeypatch) as cuda:
        yield cuda


@pytest.fixture
def open_plan(cuda: Cuda, labelled_bundle: Path) -> Iterator[Open]:
    """Returns a function that opens a plan of one of the bundle's graphs."""
    opened = []

    def open_plan(role: str = "generator") -> Any:
        trt = importlib.import_module("icgan_runtime.backends.trt")
        opened.append(trt.TrtSession(plan_of(labelled_bundle, role), f"{role}.plan"))
        return opened[-1]

    yield open_plan
    for session in opened:
        if hasattr(session, "_engine"):
            session.close()
    assert not cuda.memory
    assert not cuda.streams
    assert cuda.graphs == 0


def plan_of(bundle: Path, role: str, *flags: str) -> bytes:
    head = json.dumps({"profiles": PROFILES, "flags": flags})
    return head.encode() + b"\n" + (bundle / f"{role}.onnx").read_bytes()


def feeds(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "noise": rng.normal(size=(rows, 6)).astype(np.float32),
        "embedding": rng.normal(size=(rows, 12)).astype(np.float32),
        "label": rng.integers(0, 3, rows),
    }


def test_the_machine_is_its_gpu_and_its_libraries(cuda, monkeypatch):
    trt = importlib.import_module("icgan_runtime.backends.trt")
    assert trt.machine() == trt.Machine("sm90", {"tensorrt": "0.0.fake"})
    monkeypatch.setattr(
        cuda, "cudaDeviceGetAttribute", lambda name, device: (0, 8 if "Major" in name.name else 6)
    )
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys.modules["tensorrt"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert trt.machine() == trt.Machine("sm86", {"tensorrt_rtx": "0.0.fake"})


def test_without_a_gpu_cudas_own_words_are_reported(cuda, monkeypatch):
    trt = importlib.import_module("icgan_runtime.backends.trt")

    def cudaDeviceGetAttribute(name: object, device: int) -> tuple[int, int]:  # noqa: N802
        assert device == 0
        return 100, 0

    monkeypatch.setattr(cuda, "cudaDeviceGetAttribute", cudaDeviceGetAttribute)
    for words in (b"no CUDA-capable device", "no CUDA-capable device"):
        monkeypatch.setattr(cuda, "cudaGetErrorString", lambda status, words=words: (0, words))
        with pytest.raises(BackendError) as caught:
            trt.machine()
        assert str(caught.value) == "CUDA: cudaDeviceGetAttribute failed: no CUDA-capable device"


@pytest.mark.parametrize("role", ["encoder", "generator"])
def test_a_session_describes_the_tensors_of_its_plan(open_plan, labelled_bundle, role):
    session = open_plan(role)
    with OrtSession((labelled_bundle / f"{role}.onnx").read_bytes(), role) as graph:
        assert (session.inputs, session.outputs) == (graph.inputs, graph.outputs)
    assert (session.name, session.max_batch) == (f"tensorrt {role}.plan", 8)


def test_every_number_of_rows_draws_what_onnx_runtime_draws(open_plan, labelled_bundle, cuda):
    session = open_plan()
    given = feeds(8)
    with OrtSession((labelled_bundle / "generator.onnx").read_bytes(), "generator.onnx") as graph:
        whole = graph.run(given)["image"].astype(int)
    before = cuda.allocations
    for rows in (1, 8, 2, 5, 8, 1):
        found = session.run({name: array[-rows:] for name, array in given.items()})
        assert found.keys() == {"image"}
        assert found["image"].dtype == np.uint8
        assert np.abs(found["image"] - whole[-rows:]).max() <= 1
    assert (cuda.allocations, cuda.launches, cuda.graphs) == (before, 6, 4), "one graph for each size"


def test_few_rows_take_the_first_profile_that_has_room(open_plan):
    session = open_plan()
    engine: Engine = session._engine
    for rows, profiles in ((2, [0]), (1, [0, 0]), (3, [0, 0, 1]), (8, [0, 0, 1, 1]), (3, [0, 0, 1, 1])):
        session.run(feeds(rows))
        assert [context.profile for context in engine.contexts] == profiles


def test_a_graph_holds_the_kernels_that_tensorrt_rtx_compiles_for_its_batch_size(
    cuda, labelled_bundle, monkeypatch
):
    """And not those for any size, with which it starts unless told."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(cuda, "tensorrt_rtx"))
    trt = importlib.import_module("icgan_runtime.backends.trt")
    plan = plan_of(labelled_bundle, "generator")
    with trt.TrtSession(plan, "generator.plan", "tensorrt_rtx") as session:
        assert session.run(feeds(3))["image"].shape == (3, 8, 8, 3)
        assert session._settings == RuntimeConfig("user managed", "eager")


def test_tensorrt_rtx_has_the_settings_that_it_is_given():
    rtx = pytest.importorskip("tensorrt_rtx")
    assert rtx.ICudaEngine.create_runtime_config
    assert rtx.IRuntimeConfig.set_execution_context_allocation_strategy
    assert hasattr(rtx.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert rtx.DynamicShapesKernelSpecializationStrategy.EAGER


def test_answers_belong_to_the_caller(open_plan):
    session = open_plan()
    first = session.run(feeds(3))["image"]
    kept = first.copy()
    assert (session.run(feeds(3, seed=1))["image"] != kept).any()
    np.testing.assert_array_equal(first, kept)


def test_tensors_on_the_gpu_are_read_and_left_there(open_plan, cuda):
    session = open_plan()
    expected = session.run(feeds(3))["image"]
    before = cuda.allocations
    held = session.run_on_device(feeds(3))["image"]
    assert (held.shape, held.dtype, held.owner) == ((3, 8, 8, 3), np.uint8, session)
    assert held.device == (importlib.import_module("icgan_runtime.backends.dlpack").CUDA, 0)
    np.testing.assert_array_equal(np.from_dlpack(held), expected)
    assert cuda.allocations == before
    other = session.run_on_device(feeds(3, seed=1))["image"]
    assert other.address == held.address, "overwritten by the next run"
    assert (np.from_dlpack(other) != expected).any()


def test_the_stream_waits_for_arrays_only_while_no_other_call_records_it(open_plan):
    """CUDA ends the recording of a stream that is told to wait for something outside."""
    session, alone = open_plan(), []

    class Feed:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

        def __dlpack__(self) -> Any:
            alone.append(session._lock.locked())
            return self.array.__dlpack__()

    session.run_on_device({name: Feed(array) for name, array in feeds(2).items()})
    assert alone == [True] * 3


@pytest.mark.parametrize("method", ["run", "run_on_device"])
def test_what_does_not_fit_is_refused_by_name(open_plan, method):
    session = open_plan()
    run = getattr(session, method)
    with pytest.raises(
        BackendError, match=r"^tensorrt generator\.plan: noise is float64\[2, 6\], expected float32"
    ):
        run({**feeds(2), "noise": np.zeros((2, 6))})
    with pytest.raises(BackendError) as caught:
        run(feeds(9))
    assert str(caught.value) == "tensorrt generator.plan: 9 rows, the plan takes 1..8"
    if method == "run":
        with pytest.raises(
            BackendError, match=r"generator\.plan: noise has no rows, one at least is expected"
        ):
            run(feeds(0))
    if method == "run_on_device":
        with pytest.raises(
            BackendError, match=r"^tensorrt generator\.plan: noise is a list without __dlpack__"
        ):
            run({**feeds(2), "noise": [1.0]})


def test_infinity_in_an_answer_is_reported(open_plan, labelled_bundle):
    session = open_plan("lookup")
    near = np.load(labelled_bundle / "bank/embeddings.npy")[0]
    with pytest.raises(
        NumericsError, match=r"^tensorrt lookup\.plan: scores holds NaN or infinity in 1 of 2 rows"
    ):
        session.run({"embedding": np.stack([near, 3e38 * np.sign(near)])})


def test_a_plan_that_cannot_be_loaded_is_refused_with_the_last_error(cuda, monkeypatch):
    trt = importlib.import_module("icgan_runtime.backends.trt")

    def runtime(logger: Any) -> Any:
        def deserialize_cuda_engine(self: object, plan: bytes) -> None:
            if plan == b"another version":
                logger.log(1, "version\n tag  does not match")
                logger.log(2, "only a warning")

        return type("Runtime", (), {"deserialize_cuda_engine": deserialize_cuda_engine})()

    monkeypatch.setattr(sys.modules["tensorrt"], "Runtime", runtime)
    for plan, reason in ((b"another version", "version tag does not match"), (b"", "no reason given")):
        with pytest.raises(BundleError) as caught:
            trt.TrtSession(plan, "generator.plan")
        assert caught.value.file == "generator.plan"
        assert str(caught.value) == f"generator.plan: tensorrt 0.0.fake cannot load it: {reason}"


def test_the_reason_is_known_while_another_plan_is_open(open_plan, labelled_bundle):
    open_plan()
    trt = importlib.import_module("icgan_runtime.backends.trt")
    with pytest.raises(BundleError, match="the plan brings code"):
        trt.TrtSession(plan_of(labelled_bundle, "encoder", "VERSION_COMPATIBLE"), "encoder.plan")


def test_a_type_that_the_contract_has_not_is_refused(open_plan, cuda, monkeypatch):
    monkeypatch.setattr(Engine, "get_tensor_dtype", lambda engine, name: type("Type", (), {"name": "HALF"}))
    with pytest.raises(BackendError) as caught:
        open_plan()
    expected = "tensorrt generator.plan: noise is HALF, expected one of FLOAT, UINT8, INT64"
    assert str(caught.value) == expected
    cuda.streams.clear()  # of a session that never was


@pytest.mark.parametrize("when", [1, 2])
def test_a_refusal_of_tensorrt_is_reported_and_the_next_call_is_served(open_plan, cuda, monkeypatch, when):
    """Refused while it warms up, or while its work is being captured."""
    session = open_plan()
    calls: list[int] = []
    execute = Context.execute_async_v3

    def refuse(context: Context, stream: int) -> bool:
        calls.append(stream)
        return execute(context, stream) and len(calls) != when

    monkeypatch.setattr(Context, "execute_async_v3", refuse)
    with pytest.raises(BackendError) as caught:
        session.run(feeds(2))
    assert str(caught.value) == "tensorrt generator.plan: TensorRT refused to run 2 rows"
    assert cuda.captured is None
    assert session.run(feeds(2))["image"].shape == (2, 8, 8, 3)


def test_closing_gives_everything_back(open_plan, cuda):
    session = open_plan()
    session.run(feeds(1))
    assert len(cuda.memory) == 9, "four tensors, on both sides, and scratch memory"
    assert session.inputs[0] == TensorSpec("noise", "float32", ("N", 6))
    session.close()
    session.close()
    assert not cuda.memory
    assert not cuda.streams
    assert cuda.graphs == 0


def test_a_plan_of_a_bundle_is_opened_at_its_precision_with_the_library_that_built_it(
    cuda, labelled_bundle, copy_bundle
):
    bundle = copy_bundle(labelled_bundle)
    (bundle / "engines").mkdir()
    manifest = Manifest.read(bundle)
    entries = []
    for precision in ("fp16", "fp32"):
        file = f"engines/{precision}.plan"
        (bundle / file).write_bytes(plan_of(bundle, "generator"))
        entries.append(
            EngineEntry("generator", precision, file, "sm90", "0.0.fake", 8, manifest.model.encoder_id)
        )
    replace(manifest, engines=tuple(entries), files=describe_files(bundle)).write(bundle)
    opened = Bundle.open(bundle)
    graph = choose_graph(opened.manifest, "generator", "fp32", "tensorrt")
    with open_session(opened, graph, "tensorrt") as session:
        assert session.name == "tensorrt engines/fp32.plan"
        assert session.run(feeds(2))["image"].shape == (2, 8, 8, 3)


def test_a_bundle_that_cannot_be_loaded_whole_leaves_nothing_on_the_gpu(cuda, labelled_bundle, copy_bundle):
    bundle = copy_bundle(labelled_bundle)
    (bundle / "engines").mkdir()
    (bundle / "engines/encoder.plan").write_bytes(plan_of(bundle, "encoder"))
    manifest = Manifest.read(bundle)
    space = manifest.model.encoder_id
    entry = EngineEntry("encoder", "fp32", "engines/encoder.plan", "sm90", "0.0.fake", 8, space)
    replace(manifest, engines=(entry,), files=describe_files(bundle)).write(bundle)
    with pytest.raises(BackendError, match="no plan of the generator"):
        Pipeline.load(bundle, backend="tensorrt")
    assert not cuda.memory
    assert not cuda.streams
    with Pipeline.load(bundle) as pipe:
        assert pipe.generate(np.zeros((8, 8, 3), np.uint8), label=0).images.shape == (1, 8, 8, 3)
