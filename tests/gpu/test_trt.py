"""Plans built and run on the GPU at hand: `make test-gpu`. Nothing here is collected where there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from icgan_export.cli import main
from icgan_runtime import Pipeline
from icgan_runtime.backends.ort import OrtSession, available_backends
from icgan_runtime.backends.select import choose_backend, choose_graph, open_session
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import BackendError
from icgan_runtime.verify import psnr, verify_bundle

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
LIBRARY = os.environ.get("ICGAN_TRT_LIBRARY", "tensorrt")  # or tensorrt_rtx


@pytest.fixture(scope="module")
def planned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with FP16 plans of this machine."""
    pytest.importorskip(LIBRARY)
    pytest.importorskip("cuda.bindings")
    out = tmp_path_factory.mktemp("bundles") / "planned"
    assert (
        main(["bundle", str(tiny_run), "--precision", "fp32,fp16", "--target", "tensorrt", "--out", str(out)])
        == 0
    )
    assert main(["engine", str(out), "--library", LIBRARY, "--max-batch", "8", "--best-batch", "4"]) == 0
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


def test_auto_takes_the_plans_that_fit_this_gpu(planned):
    assert choose_backend("auto", Bundle.open(planned).manifest.engines).backend == "tensorrt"
    chain = LocalChain.load(planned)
    assert chain.generator.name.startswith(LIBRARY)
    chain.close()


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_plan_draws_what_torch_drew_within_the_bound_of_fp16(rows, planned, generator):
    wanted = np.load(planned / "samples.npz")["image"][:rows]
    levels = np.rint(np.clip((wanted + 1) * 127.5, 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)
    assert psnr(generator.run(feeds(planned, rows))["image"], levels) >= 40


def test_the_whole_chain_on_plans_is_within_the_bounds(planned):
    checks = verify_bundle(Bundle.open(planned), "tensorrt")
    assert [check.detail for check in checks if not check.passed] == []


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_onnx_runtimes_providers_are_fallbacks_with_arrays_left_on_the_gpu(backend, planned):
    if backend not in available_backends():
        pytest.skip(f"{backend} needs onnxruntime-gpu in place of onnxruntime")
    bundle = Bundle.open(planned)
    given = feeds(planned, 4)
    on_device = {name: torch.from_numpy(array).cuda() for name, array in given.items()}
    torch.cuda.synchronize()
    try:
        opened = open_session(bundle, bundle.manifest.graph("generator", "fp16"), backend)
    except BackendError as error:  # built for another CUDA or TensorRT than there are here
        pytest.skip(str(error))
    with opened as session:
        assert isinstance(session, OrtSession)
        image = torch.utils.dlpack.from_dlpack(session.run_on_device(on_device)["image"])
        assert image.is_cuda
        np.testing.assert_array_equal(image.cpu().numpy(), session.run(given)["image"])


def test_a_request_larger_than_the_plan_is_split(planned):
    with Pipeline.load(planned, backend="tensorrt") as pipe:
        many = pipe.generate_from(pipe.bank.embeddings[0], n=19, seed=3)
        one = pipe.generate_from(pipe.bank.embeddings[0], n=1, seed=3)
    assert len(many.images) == 19
    assert np.abs(many.images[0].astype(int) - one.images[0]).max() <= 2


def test_calls_allocate_nothing_on_the_device(planned, generator):
    given = feeds(planned, 8)
    for rows in (8, 4, 1):
        generator.run({name: array[:rows] for name, array in given.items()})
    free, _ = torch.cuda.mem_get_info()
    for _ in range(50):
        for rows in (8, 4, 1):
            generator.run({name: array[:rows] for name, array in given.items()})
    assert torch.cuda.mem_get_info()[0] == free


def test_answers_belong_to_the_caller(planned, generator):
    given = feeds(planned, 4)
    first = generator.run(given)["image"]
    kept = first.copy()
    generator.run({name: array[::-1].copy() for name, array in given.items()})
    np.testing.assert_array_equal(first, kept)


def test_arrays_on_the_gpu_go_in_and_out_without_the_host(planned, generator):
    given = feeds(planned, 4)
    on_device = {name: torch.from_numpy(array).cuda() for name, array in given.items()}
    image = torch.utils.dlpack.from_dlpack(generator.run_on_device(on_device)["image"])
    np.testing.assert_array_equal(image.cpu().numpy(), generator.run(given)["image"])


def test_what_does_not_fit_is_refused_by_name(planned, generator):
    given = feeds(planned, 4)
    with pytest.raises(BackendError, match="noise is float64"):
        generator.run({**given, "noise": given["noise"].astype(np.float64)})
    with pytest.raises(BackendError, match=r"9 rows, the plan takes 1\.\.8"):
        generator.run({name: np.resize(array, (9, *array.shape[1:])) for name, array in given.items()})
    with pytest.raises(BackendError, match="noise lies on device type 1, expected 2"):
        generator.run_on_device(given)


def test_a_damaged_plan_is_refused_by_its_name(planned, tmp_path):
    copy = Path(shutil.copytree(planned, tmp_path / "bundle"))
    (plan,) = copy.glob("engines/*/generator.fp16.plan")
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 0xFF
    plan.write_bytes(data)
    with pytest.raises(Exception, match=r"generator\.fp16\.plan"):
        Pipeline.load(copy, backend="tensorrt")
