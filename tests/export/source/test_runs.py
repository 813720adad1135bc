"""What a run directory says of itself, as a bundle passes it on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from icgan_export.card import model_card
from icgan_export.check.verify import Report
from icgan_export.errors import ExportError
from icgan_export.source.runs import read_evaluation, read_run
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.files import sha256_of_file

SCORES = '{"fid": 12.5, "kid": NaN}'


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run directory of its own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def evaluated(run: Path, weights: str) -> None:
    """As `icgan-train evaluate` leaves it."""
    text = f'{{"scores": {SCORES}, "parameters": {{"generator": "{weights}"}}, "notes": []}}'
    (run / "evaluation.json").write_text(text)


def test_the_scores_of_the_weights_stand_on_the_card(run, tiny_bundle):
    evaluated(run, sha256_of_file(run / "generator.safetensors")[:12])
    metrics = read_run(run).metrics
    assert metrics["scores"] == {"fid": 12.5, "kid": None}
    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, metrics=metrics)
    manifest.validate()
    card = model_card(manifest, Report("tiny", (), 0.0, np.zeros((0, 32, 32, 3), np.uint8), {}), "grid.png")
    assert "| FID | KID |\n| --- | --- |\n| 12.5 | none |\n" in card
    assert "Not measured." in (tiny_bundle / "README.md").read_text()


def test_the_card_says_scores_and_what_they_are_of_in_words(run, tiny_bundle):
    metrics = {
        "scores": {"fid": 35.20729064941406, "kid": 0.0158, "kid_deviation": 0.001},
        "parameters": {"samples": 5000, "reference": "groceries, 1324 pictures", "metrics": ["fid", "kid"]},
        "notes": ["FID falls as samples are added"],
    }
    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, metrics=metrics)
    card = model_card(manifest, Report("tiny", (), 0.0, np.zeros((0, 32, 32, 3), np.uint8), {}), "grid.png")
    quality = card.partition("## Quality")[2].partition("##")[0]
    assert "| 35.21 | 0.0158 ± 0.001 |" in quality
    assert "Measured on 5,000 generated pictures, against groceries, 1324 pictures." in quality
    assert "FID falls as samples are added." in quality
    assert not set('{}[]"_') & set(quality)


def test_folders_of_this_machine_stay_out_of_what_is_handed_on(run):
    config = json.loads((run / "config.json").read_text())
    config["data"] = {**config.get("data", {}), "name": "mine", "path": "/home/anna/photos of 2026"}
    (run / "config.json").write_text(json.dumps(config))
    said = read_run(run).provenance
    assert said["data"]["name"] == "mine"
    assert "anna" not in json.dumps(said)


def test_instances_are_embedded_as_prepare_does_and_the_reference_as_published(run):
    opened = read_run(run)
    pictures = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    published = opened.embed(pictures)
    with torch.inference_mode():
        assert np.array_equal(published[:8], opened.encoder(torch.from_numpy(pictures[:8])).numpy())
    np.testing.assert_allclose(opened.embed_instances(pictures), published, atol=1e-5)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in opened.encoder.modules())


def test_which_pictures_of_the_data_set_samples_come_close_to_is_not_for_the_bundle(run):
    parameters = {"generator": sha256_of_file(run / "generator.safetensors")[:12]}
    found = {"scores": {"authenticity": 0.9}, "parameters": parameters, "closest": [{"picture": 7}]}
    (run / "evaluation.json").write_text(json.dumps(found))
    assert read_evaluation(run) == {"scores": {"authenticity": 0.9}, "parameters": parameters}


@pytest.mark.parametrize("parameters", [{"generator": "0" * 12}, {"samples": 5000}])
def test_scores_that_are_not_known_to_be_of_these_weights_do_not(run, parameters):
    (run / "evaluation.json").write_text(json.dumps({"scores": {"fid": 1.0}, "parameters": parameters}))
    assert read_evaluation(run) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"scores": {}}', '{"parameters": 3}', "[" * 2_000])
def test_a_damaged_evaluation_is_refused_by_name(run, text):
    (run / "evaluation.json").write_text(text)
    with pytest.raises(
        ExportError, match=r"evaluation\.json is damaged \(.+\): evaluate again, or delete it"
    ):
        read_evaluation(run)
