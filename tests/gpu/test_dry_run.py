"""The GPU code run through without a GPU, on `fakes`: what a real one would only show when it is lent."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.utils.dlpack import from_dlpack

from icgan_export.cli import main
from icgan_runtime import Pipeline
from icgan_runtime.backends.select import choose_backend, choose_graph, open_session
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BackendError, BundleError
from icgan_runtime.verify import verify_bundle
from tests.gpu.fakes import Cuda, machine_with_gpu


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A machine with a GPU that torch sees too, for the length of a test."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with machine_with_gpu(monkeypatch) as cuda:
        yield cuda


@pytest.fixture
def planned(cuda: Cuda, all_precisions: Path, tmp_path: Path) -> Path:
    """A bundle with FP16 plans of that machine."""
    out = Path(shutil.copytree(all_precisions, tmp_path / "planned"))
    assert main(["engine", str(out), "--library", "tensorrt", "--max-batch", "8", "--best-batch", "4"]) == 0
    return out


@pytest.fixture
def generator(planned: Path):
    bundle = Bundle.open(planned)
    entry = choose_graph(bundle.manifest, "generator", None, "tensorrt")
    with open_session(bundle, entry, "tensorrt") as session:
        yield session


def feeds(planned: Path, rows: int) -> dict[str, np.ndarray]:
    samples = np.load(planned / "samples.npz")
    return {"noise": samples["noise"][:rows], "embedding": samples["embedding"][:rows]}


def test_plans_lie_in_a_folder_of_their_gpu_and_version_with_cache_and_layers(planned):
    folder = planned / "engines" / "sm90-trt0.0.fake"
    assert {path.name for path in folder.iterdir()} == {
        "encoder.fp16.plan",
        "encoder.fp16.layers.json",
        "generator.fp16.plan",
        "generator.fp16.layers.json",
        "timing.cache",
    }
    Bundle.open(planned).verify_files()
    assert choose_backend("auto", Bundle.open(planned).manifest.engines).backend == "tensorrt"


def test_float32_is_not_shortened(cuda, all_precisions, tmp_path):
    out = Path(shutil.copytree(all_precisions, tmp_path / "planned"))
    command = ["engine", str(out), "--library", "tensorrt", "--precision", "fp32", "--roles", "lookup"]
    assert main(command) == 0
    (plan,) = out.glob("engines/*/*.plan")
    assert json.loads(plan.read_bytes().partition(b"\n")[0])["flags"] == []


def test_a_plan_that_brings_code_is_refused(cuda, planned):
    trt = importlib.import_module("icgan_runtime.backends.trt")
    (plan,) = planned.glob("engines/*/encoder.fp16.plan")
    head, _, rest = plan.read_bytes().partition(b"\n")
    with_code = json.dumps(json.loads(head) | {"flags": ["VERSION_COMPATIBLE"]}).encode() + b"\n" + rest
    with pytest.raises(BundleError, match="the plan brings code"):
        trt.TrtSession(with_code, plan.name)


def test_the_chain_on_plans_draws_what_torch_drew(planned):
    checks = verify_bundle(Bundle.open(planned), "tensorrt")
    assert [check.name for check in checks if not check.passed] == []
    with Pipeline.load(planned, backend="tensorrt", precision="fp16") as pipe:
        many = pipe.generate_from(pipe.bank.embeddings[0], n=19, seed=3)
        one = pipe.generate_from(pipe.bank.embeddings[0], n=1, seed=3)
    assert len(many.images) == 19  # in parts of eight
    assert np.abs(many.images[0].astype(int) - one.images[0]).max() <= 2


def test_every_batch_size_runs_its_own_graph_and_calls_allocate_nothing(planned, generator, cuda):
    given = feeds(planned, 8)
    whole = generator.run(given)["image"]
    before = cuda.allocations
    for rows in (1, 8, 4, 8, 1):
        part = generator.run({name: array[-rows:] for name, array in given.items()})["image"]
        assert np.abs(part.astype(int) - whole[-rows:]).max() <= 1
    assert cuda.allocations == before
    assert cuda.launches == 6


def test_answers_belong_to_the_caller(planned, generator):
    given = feeds(planned, 4)
    first = generator.run(given)["image"]
    kept = first.copy()
    generator.run({name: array[::-1].copy() for name, array in given.items()})
    np.testing.assert_array_equal(first, kept)


def test_tensors_go_in_and_out_without_the_host(planned, generator):
    given = feeds(planned, 4)
    held = generator.run_on_device(given)["image"]
    image = from_dlpack(held).numpy().copy()
    np.testing.assert_array_equal(image, generator.run(given)["image"])


def test_what_does_not_fit_is_refused_by_name(planned, generator):
    given = feeds(planned, 4)
    with pytest.raises(BackendError, match="noise is float64"):
        generator.run_on_device({**given, "noise": given["noise"].astype(np.float64)})
    with pytest.raises(BackendError, match=r"9 rows, the plan takes 1\.\.8"):
        generator.run({name: np.resize(array, (9, *array.shape[1:])) for name, array in given.items()})


def test_closing_gives_all_memory_back(planned, cuda):
    bundle = Bundle.open(planned)
    with open_session(bundle, choose_graph(bundle.manifest, "encoder", None, "tensorrt"), "tensorrt"):
        assert cuda.memory
    assert not cuda.memory


def test_what_the_session_calls_is_in_nvidias_bindings():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = [name for name in vars(Cuda) if name.startswith("cuda")]
    assert [name for name in used if not hasattr(runtime, name)] == []


def test_the_benchmark_runs_through(cuda, tiny_run, all_precisions, tmp_path, monkeypatch):
    gpu = importlib.import_module("benchmarks.gpu")
    graph = onnx.load(all_precisions / "generator.onnx")  # traced where torch believed in no GPU
    monkeypatch.setattr(gpu, "ours", lambda subject: graph)
    monkeypatch.setattr(gpu.Subject, "plain", graph)
    compiled = []
    monkeypatch.setattr(gpu, "PEAK_SIDE", 16)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)

    def compile_nothing(module, mode, dynamic):
        compiled.append((mode, dynamic))
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 1 << 31))
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "no GPU")
    out = tmp_path / "report"
    command = ["gpu", "--weights", str(tiny_run), "--batch", "1", "2", "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    report = json.loads((out / "gpu.json").read_text())
    assert [row["runner"] for row in report["rows"]] == [*gpu.RUNNERS.values()][:4] * 2
    assert set(report["failed"]) == {"ort cuda", "ort tensorrt"}  # not in this ONNX Runtime
    assert all(row["psnr"] > 40 for row in report["rows"])
    assert compiled == [("max-autotune", False)]
    assert len(emptied) == len(gpu.RUNNERS), (
        "what one runner leaves in torch's cache, the next would not be counted for"
    )
    assert "| ours, TensorRT |" in (out / "gpu.md").read_text()
    assert (out / "tensorrt.layers.json").exists()


def test_the_benchmark_measures_no_provider_in_the_name_of_another(tiny_bundle, monkeypatch):
    """ONNX Runtime takes CUDA without a word where it finds no TensorRT that it can load."""
    gpu = importlib.import_module("benchmarks.gpu")
    start, held = onnxruntime.InferenceSession, ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda model, options, providers: start(model, options)
    )
    monkeypatch.setattr(start, "get_providers", lambda session: held)
    monkeypatch.setattr("icgan_runtime.backends.ort.available_backends", lambda: ["ort-tensorrt"])
    with pytest.raises(BackendError, match="it would run on CUDAExecutionProvider"):
        gpu.provider_call(onnx.load(tiny_bundle / "generator.onnx"), "ort-tensorrt")


def test_without_a_gpu_the_benchmark_says_where_to_run_it(monkeypatch):
    gpu = importlib.import_module("benchmarks.gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="make bench-gpu"):
        gpu.main()
