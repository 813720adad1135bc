"""A folder of pictures, and runs of `icgan synthesize` over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.cli import main

COUNT = 5  # pictures


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures in two class folders."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = tmp_path / "photos" / ("cats" if i < 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def synthesize(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns (status, stdout, stderr)."""

    def run(bundle: Path, source: object, out: Path, *options: object) -> tuple[int, str, str]:
        words = ["synthesize", bundle, "--from", source, "--out", out, "--threads", 1, *options]
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


def shards(out: Path) -> dict[str, bytes]:
    """Every file that a finished run is compared by: all but what is hidden."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
