"""The bundle of all but free networks, and a run of the benchmark that serves it."""

from __future__ import annotations

import sys

import numpy as np

from benchmarks import ceiling
from benchmarks.ceiling_bundle import make_bundle
from icgan_runtime import Pipeline
from tests.triton.conftest import environment, monkeypatch_session  # noqa: F401  # fixtures


def test_its_networks_follow_their_inputs_in_the_shapes_of_real_ones(tmp_path):
    with Pipeline.load(make_bundle(tmp_path / "bundle", 64, 1280, 50)) as pipe:
        picture = np.random.default_rng(1).integers(0, 256, (90, 80, 3), np.uint8)
        result = pipe.generate(picture, n=8)
    assert result.images.shape == (8, 64, 64, 3)
    assert len({image.tobytes() for image in result.images}) > 1
    assert result.embedding.shape == (1280,)


def test_a_run_says_what_each_stage_cost(environment, monkeypatch, capsys):  # noqa: F811
    words = "--bank 50 --width 64 --rounds 1 --seconds 0.3 --clients 2 --protocols grpc,http,shared"
    monkeypatch.setattr(sys, "argv", ["ceiling", *words.split(), "--scenarios", "1 row, embedding"])
    ceiling.main()
    page = capsys.readouterr().out
    for protocol in ("grpc", "http", "shared"):
        (line,) = [
            line
            for line in page.splitlines()
            if line.startswith(f"| {protocol}, 1 row, embedding | 2 | this")
        ]
        assert float(line.split("|")[4]) > 0, "requests per second"
    assert "condition" in page
