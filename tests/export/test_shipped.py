"""The shipped weights: what a newcomer exports first."""

import json
from pathlib import Path

import numpy as np
import pytest

from icgan_export.cli import main
from icgan_export.source.runs import read_evaluation
from icgan_runtime import Pipeline

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"


@pytest.mark.parametrize("name", ["demo", "cifar10"])
def test_shipped_weights_make_a_bundle_with_any_pictures_that_draws_what_follows_the_picture(tmp_path, name):
    bundle = tmp_path / name
    assert main(["bundle", str(ROOT / "models" / name), "--bank", str(PHOTOS), "--out", str(bundle)]) == 0
    with Pipeline.load(bundle) as pipe:
        first, again, other = (
            pipe.generate(PHOTOS / photo, n=4, seed=0).images
            for photo in ("oranges.jpg", "oranges.jpg", "melons.jpg")
        )
        assert pipe.model.licence.weights == "Apache-2.0"
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(float) - other).mean() > 5  # grey levels: not noise alone decides
    assert first.std(axis=0).mean() > 5  # nor the picture alone


@pytest.mark.parametrize("name", ["demo", "cifar10"])
def test_shipped_weights_come_with_a_card_and_their_training(name):
    folder = ROOT / "models" / name
    config = json.loads((folder / "config.json").read_text())
    assert {"model", "train", "encoder", "data", "licence"} <= config.keys()
    assert "path" not in config["data"]
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("licence", "FID", "## Limits", "Training."))
    assert read_evaluation(folder)["scores"]["fid"] < 60  # measured of these weights
    assert sum(file.stat().st_size for file in folder.glob("generator.safetensors")) < 16e6
