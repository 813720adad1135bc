"""Published stored instances become the instances of a bank, read without running anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icgan_export.bundle import make_bank
from icgan_export.errors import ExportError
from icgan_export.source.instances import choose_instances
from icgan_export.source.runs import read_run


def test_stored_instances_are_a_bank_without_thumbnails(tiny_run: Path, tmp_path: Path) -> None:
    run = read_run(tiny_run)
    features = np.random.default_rng(0).normal(size=(9, run.model.embedding_dim)).astype(np.float32) * 3
    stored = {"instance_features": features, "labels": np.arange(9), "image_path": ["a.jpg"] * 9}
    np.save(tmp_path / "coco_kmeans.npy", stored)  # type: ignore[arg-type]
    found = choose_instances(run, tmp_path / "coco_kmeans.npy", 1000, 4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(found.embeddings, unit, atol=1e-6)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(9))
    assert found.pictures.shape == (4, 32, 32, 3)
    assert found.queries.shape == found.pictures.shape
    bank = make_bank(run, found, 64)
    assert bank.thumbnails is None
    assert len(bank) == 9


def test_instances_of_another_encoder_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"instance_features": np.ones((3, 7), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="3 instances of 7 numbers"):
        choose_instances(read_run(tiny_run), tmp_path / "a.npy", 10, 4)
    np.save(tmp_path / "b.npy", {"features": np.ones(3)})  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="instance_features"):
        choose_instances(read_run(tiny_run), tmp_path / "b.npy", 10, 4)
