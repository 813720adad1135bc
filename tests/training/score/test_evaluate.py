import dataclasses
import json

import numpy as np
import pytest
import torch

from icgan_runtime.files import sha256_of_file
from icgan_training.cli import main
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.networks.inception import Inception, save_inception
from icgan_training.score.evaluate import STRATA, evaluate, fid_scorer
from icgan_training.score.features import FeatureNetwork
from icgan_training.score.metrics import frechet_distance
from icgan_training.score.report import score_lines, to_html
from icgan_training.score.subject import EvaluationSettings, draw
from tests.training.subjects import CPU, FEW


@pytest.fixture
def colours():
    """Mean colours of the four quarters of a picture, in place of the Inception network."""

    def run(pictures):
        return torch.nn.functional.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2).float(), 2).flatten(1)

    return FeatureNetwork("colours", "0" * 64, run, CPU)


def test_every_score_comes_with_its_settings(subject, colours):
    result = evaluate(subject, subject.data, FEW, colours)
    names = {"fid", "kid", "kid_deviation", "precision", "recall", "density", "coverage"}
    assert result.scores.keys() == names
    assert all(value is not None and np.isfinite(value) for value in result.scores.values())
    assert result.parameters["samples"] == 50
    assert result.parameters["instances"] == 10
    assert result.parameters["reference"] == "data, 60 pictures"
    assert any("of 50 samples" in note for note in result.notes)
    assert any("trained on 60 pictures: against so few" in note for note in result.notes)


def test_a_second_network_is_reported_under_its_name(subject, colours):
    second = FeatureNetwork("other", "1" * 64, colours.run, CPU)
    result = evaluate(subject, subject.data, FEW, colours, second=second)
    assert result.scores["kid_other"] == result.scores["kid"]
    assert "fid_other" not in result.scores


def test_real_pictures_of_another_size_are_refused_before_anything_is_drawn(subject, colours, make_prepared):
    larger = PreparedDataset.open(make_prepared("larger", resolution=64))
    undrawable = dataclasses.replace(subject, pool=np.array([], np.int64))
    with pytest.raises(ConfigError, match=r"larger has 64 px, the generator makes 32 px: .*--resolution 32"):
        evaluate(undrawable, larger, FEW, colours)


def test_more_real_pictures_than_there_are_are_refused_before_anything_is_drawn(subject, colours):
    undrawable = dataclasses.replace(subject, pool=np.array([], np.int64))
    with pytest.raises(ConfigError, match=r"--reference-pictures is 61, .*data has 60"):
        evaluate(undrawable, subject.data, dataclasses.replace(FEW, reference=61), colours)


@pytest.fixture
def small_strata(monkeypatch):
    monkeypatch.setattr(
        "icgan_training.score.evaluate.STRATA", {"many": (30, None), "medium": (10, 29), "few": (1, 9)}
    )


def test_fid_by_class_size_compares_samples_with_pictures_of_the_same_classes(
    labelled, colours, small_strata
):
    settings = dataclasses.replace(FEW, metrics=("fid", "strata"), samples=200, instances=0)
    shown = dataclasses.replace(labelled, pool=np.arange(60))
    result = evaluate(shown, labelled.data, settings, colours)
    assert result.scores.keys() == {"fid", "fid_many", "fid_medium", "fid_few"}
    draws = draw(shown, settings)
    pictures = shown.generate(draws, slice(0, 200))
    for name, label in (("many", 0), ("medium", 1), ("few", 2)):
        expected = frechet_distance(
            colours(np.array(labelled.data.images[labelled.data.labels == label])),
            colours(pictures[draws.labels == label]),
        )
        assert result.scores[f"fid_{name}"] == pytest.approx(expected, rel=1e-3)
    assert any(
        note.startswith("few (1 to 9 training pictures): 1 classes") and "3 reference" in note
        for note in result.notes
    )
    assert dict(score_lines(result))["FID ↓ (many)"]


def test_classes_are_grouped_as_published():
    assert STRATA == {"many": (100, None), "medium": (21, 99), "few": (1, 20)}


def test_a_group_without_pictures_has_no_score(labelled, colours):
    result = evaluate(labelled, labelled.data, dataclasses.replace(FEW, metrics=("strata",)), colours)
    assert result.scores["fid_many"] is None
    assert result.scores["fid_medium"] is not None


def test_fid_by_class_size_needs_the_same_classes_on_both_sides(subject, labelled, colours, make_prepared):
    settings = dataclasses.replace(FEW, metrics=("strata",))
    with pytest.raises(ConfigError, match="has no labels"):
        evaluate(subject, subject.data, settings, colours)
    with pytest.raises(ConfigError, match="needs the classes of"):
        evaluate(labelled, subject.data, settings, colours)


def test_samples_that_come_close_to_a_training_picture_are_named(subject, colours):
    settings = dataclasses.replace(FEW, metrics=("copies",))
    result = evaluate(subject, subject.data, settings, colours)
    assert result.scores.keys() == {"authenticity", "authenticity_of_real"}
    assert result.notes == []
    first = result.closest[0]
    sample = subject.generate(draw(subject, settings), np.array([first.sample]))
    distances = np.linalg.norm(colours(sample) - colours(np.array(subject.data.images)), axis=1)
    assert first.picture == distances.argmin()
    assert json.loads(result.to_json())["closest"][0] == dataclasses.asdict(first)


def test_copies_of_pictures_that_were_not_looked_at_are_said_to_go_unseen(subject, colours):
    settings = dataclasses.replace(FEW, metrics=("copies",), reference=40)
    assert (
        "among 40 pictures of data, not among all 60"
        in evaluate(subject, subject.data, settings, colours).notes[0]
    )


def test_inception_score_without_a_class_layer_is_said_to_be_missing(subject, colours):
    result = evaluate(subject, subject.data, EvaluationSettings(metrics=("is",), samples=10), colours)
    assert result.scores == {"is": None}
    assert "--logits" in result.notes[0]


def test_training_is_scored_by_the_same_fid(subject, colours):
    score = fid_scorer(subject.data, 60, colours)
    settings = EvaluationSettings(metrics=("fid",), samples=60, instances=0)
    everything = dataclasses.replace(subject, pool=np.arange(60))
    expected = evaluate(everything, subject.data, settings, colours).scores["fid"]
    assert score(subject.generator, None) == expected


def test_the_command_writes_json_and_a_page(run_dir, tmp_path, capsys):
    torch.manual_seed(0)
    save_inception(Inception(), tmp_path / "inception.safetensors", source="untrained", licence="none")
    arguments = ["evaluate", str(run_dir), "--metrics", "kid", "--samples", "4", "--reference-pictures", "4"]
    arguments += ["--instances", "5", "--choice", "random"]
    assert main([*arguments, "--inception", str(tmp_path / "inception.safetensors")]) == 0
    assert "KID" in capsys.readouterr().out
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert result["parameters"]["samples"] == 4
    assert sha256_of_file(run_dir / "generator.safetensors").startswith(result["parameters"]["generator"])
    assert (result["parameters"]["instances"], result["parameters"]["choice"]) == (5, "random")
    assert "data:image/png;base64," in (run_dir / "evaluation.html").read_text()
    assert (run_dir / "samples.png").exists()
    assert not (run_dir / "labels.png").exists()
    assert not (run_dir / "copies.png").exists()


def test_the_command_shows_what_may_be_copied(run_dir, tmp_path, capsys):
    torch.manual_seed(0)
    save_inception(Inception(), tmp_path / "inception.safetensors", source="untrained", licence="none")
    arguments = ["evaluate", str(run_dir), "--metrics", "copies", "--samples", "8", "--instances", "0"]
    arguments += ["--reference-pictures", "20", "--inception", str(tmp_path / "inception.safetensors")]
    assert main(arguments) == 0
    assert "samples that are no copy (authenticity)" in capsys.readouterr().out
    assert (run_dir / "copies.png").exists()
    assert "below each that picture" in (run_dir / "evaluation.html").read_text()


def test_weights_that_no_metric_asks_for_are_not_fetched(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ICGAN_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing could be
    assert main(["evaluate", str(run_dir), "--metrics", "is", "--samples", "4"]) == 0
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert result["scores"] == {"is": None}
    assert result["parameters"]["feature_networks"] == []


def test_a_metric_of_features_without_its_network_is_a_bug(subject):
    with pytest.raises(ValueError, match="no Inception network given for fid, kid, prdc"):
        evaluate(subject, subject.data, FEW, None)


def test_the_page_escapes_what_it_shows(subject, colours):
    result = evaluate(subject, subject.data, FEW, colours)
    page = to_html(result, "<script>", {"samples": np.zeros((4, 4, 3), np.uint8)})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_deviations_stand_beside_their_score(subject, colours):
    second = FeatureNetwork("other", "1" * 64, colours.run, CPU)
    lines = dict(score_lines(evaluate(subject, subject.data, FEW, colours, second=second)))
    assert "±" in lines["KID ↓"]
    assert "±" in lines["KID ↓ (other)"]
    assert "FID ↓" in lines
