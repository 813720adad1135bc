"""The ORT format for phones: ONNX Runtime's converter takes our graphs, and the pictures stay the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from icgan_runtime import latents
from icgan_runtime.bank import Bank
from icgan_runtime.bundle import Bundle


@pytest.fixture(scope="module")
def converted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's graphs beside what the converter made of them."""
    folder = tmp_path_factory.mktemp("mobile")
    for name in ("encoder.onnx", "generator.onnx"):
        shutil.copy(tiny_bundle / name, folder)
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(folder)]
    done = subprocess.run([*command, "--optimization_style", "Fixed"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_generator_in_ort_format_draws_the_same_pictures(converted, tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    noise = latents.noise(0, np.arange(3), 1.0, bundle.manifest.model.dim_z)
    feeds = {"noise": noise, "embedding": Bank.of_bundle(bundle).embeddings[:3]}
    images = [
        ort.InferenceSession(converted / name).run(["image"], feeds)[0].astype(int)
        for name in ("generator.onnx", "generator.ort")
    ]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_the_list_of_operators_for_a_small_build_covers_both_graphs(converted):
    (config,) = converted.glob("*.config")
    lines = [line.split(";") for line in config.read_text().splitlines() if not line.startswith("#")]
    operators = {name for _, _, names in lines for name in names.split(",")}
    assert {"MatMul", "Round", "ReduceMean"} <= operators  # of the generator's matrix, output and length
    assert {domain for domain, _, _ in lines} == {"ai.onnx", "com.microsoft"}
