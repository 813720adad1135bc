"""The ORT format for phones: ONNX Runtime's converter takes our graphs, and the pictures stay the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from icgan_export.lower.precision import activation_ranges
from icgan_export.lower.qdq import quantisable, quantise
from icgan_runtime import latents
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from tests.edge.proof import assert_proved

Feeds = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def feeds(tiny_bundle: Path) -> Feeds:
    """Three pictures' worth of generator input."""
    bundle = Bundle.open(tiny_bundle)
    noise = latents.noise(0, np.arange(3), 1.0, bundle.manifest.model.dim_z)
    return {"noise": noise, "embedding": Bank.of_bundle(bundle).embeddings[:3]}


@pytest.fixture(scope="module")
def converted(tiny_bundle: Path, feeds: Feeds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's graphs, and the generator in INT8, beside what the converter made of them."""
    folder = tmp_path_factory.mktemp("mobile")
    for name in ("encoder.onnx", "generator.onnx"):
        shutil.copy(tiny_bundle / name, folder)
    generator = onnx.load(tiny_bundle / "generator.onnx")
    for index, node in enumerate(generator.graph.node):
        node.name = f"node {index}"
    lowered = quantise(generator, quantisable(generator), activation_ranges(generator, feeds))
    onnx.save(lowered, folder / "generator.int8.onnx")
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(folder)]
    done = subprocess.run([*command, "--optimization_style", "Fixed"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_a_phone_draws_from_the_ort_format_is_proved(converted, feeds, tiny_bundle):
    drawn = ort.InferenceSession(converted / "generator.ort").run(["image"], feeds)[0]
    assert_proved(drawn[2], tiny_bundle, feeds["embedding"][2], 0, 2, 1.0)


@pytest.mark.parametrize("name", ["generator", "generator.int8"])
def test_a_generator_in_ort_format_draws_the_same_pictures(name, converted, feeds):
    images = [
        ort.InferenceSession(converted / f"{name}.{ending}").run(["image"], feeds)[0].astype(int)
        for ending in ("onnx", "ort")
    ]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_the_list_of_operators_for_a_small_build_covers_every_graph(converted):
    (config,) = converted.glob("*.config")
    lines = [line.split(";") for line in config.read_text().splitlines() if not line.startswith("#")]
    operators = {name for _, _, names in lines for name in names.split(",")}
    assert {"MatMul", "Round", "ReduceMean"} <= operators  # of the generator's matrix, output and length
    assert operators & {"QLinearMatMul", "MatMulIntegerToFloat", "DequantizeLinear"}  # of INT8
    assert {domain for domain, _, _ in lines} == {"ai.onnx", "com.microsoft"}
