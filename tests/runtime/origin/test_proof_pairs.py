"""What one runtime drew, another proves: within one grey level, as the contract says of them."""

from __future__ import annotations

import importlib.util
from itertools import permutations

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.chain import LocalChain
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import PROVED, Queries, prove

PICTURE = np.random.default_rng(4).integers(0, 256, (9, 9, 3), np.uint8)
BACKENDS = {"ort-cpu": "onnxruntime", "openvino": "openvino"}


@pytest.mark.parametrize(("drawn_by", "proved_by"), [*permutations(BACKENDS, 2), ("ort-cpu", "ort-cpu")])
def test_what_one_runtime_drew_another_proves(tiny_bundle, tmp_path, drawn_by, proved_by):
    for name in (drawn_by, proved_by):
        if importlib.util.find_spec(BACKENDS[name]) is None:
            pytest.skip(f"{name} is not installed")
    with Pipeline.load(tiny_bundle, backend=drawn_by) as pipe:
        result = pipe.generate(PICTURE, n=3, seed=11, truncation=0.6)
        embedding = result.embedding
        (path,) = result.save(tmp_path / "x.png")
    data = path.read_bytes()
    with Pipeline.load(tiny_bundle, backend=proved_by) as pipe:
        settings = recover.Candidates(range(1), range(1), 1.0)
        assert isinstance(pipe.chain, LocalChain)
        verdict = prove(data, read_marks(data), pipe.chain, Queries(embedding[None]), settings)
    assert (verdict.verdict, verdict.how) == (PROVED, "claim")
    assert verdict.marks["claim"]["source"]["backend"] == drawn_by
