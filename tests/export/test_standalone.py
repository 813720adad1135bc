from pathlib import Path

import numpy as np
import onnxruntime as ort

from icgan_export.cli import main


def test_the_generator_alone_as_float_and_as_bytes_without_rewrites(tiny_run: Path, tmp_path: Path) -> None:
    feeds = {
        "noise": np.random.default_rng(0).standard_normal((3, 120)).astype(np.float32),
        "embedding": np.eye(3, 1280, dtype=np.float32),
    }
    as_float, as_bytes = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    assert main(["onnx", str(tiny_run), "--image-dtype", "float32", "--out", str(as_float)]) == 0
    assert main(["onnx", str(tiny_run), "--no-rewrite", "--out", str(as_bytes)]) == 0
    image = ort.InferenceSession(as_float).run(None, feeds)[0]
    levels = ort.InferenceSession(as_bytes).run(None, feeds)[0]
    assert image.shape == (3, 3, 32, 32)
    assert image.dtype == np.float32
    assert levels.shape == (3, 32, 32, 3)
    assert levels.dtype == np.uint8
    assert np.abs(levels - (image.transpose(0, 2, 3, 1) + 1) * 127.5).max() <= 0.51
