"""What a run directory says of itself, as a bundle passes it on."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_export.card import model_card
from icgan_export.check.verify import Report
from icgan_export.errors import ExportError
from icgan_export.source import choose_instances, read_evaluation, read_run
from icgan_runtime.bundle.opened import Bundle
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.integrity import file_sha256
from tests.tiny_model import tiny_config, write_run
from tests.training import conftest as training

make_prepared = training.make_prepared

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
    evaluated(run, file_sha256(run / "generator.safetensors")[:12])
    metrics = read_run(run).metrics
    assert metrics["scores"] == {"fid": 12.5, "kid": None}
    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, metrics=metrics)
    manifest.validate()
    card = model_card(manifest, Report("tiny", (), 0.0, np.zeros((0, 32, 32, 3), np.uint8), {}), "grid.png")
    assert json.loads(card.partition("```json\n")[2].partition("```")[0]) == metrics
    assert "not measured" in (tiny_bundle / "README.md").read_text()


def test_which_pictures_of_the_data_set_samples_come_close_to_is_not_for_the_bundle(run):
    parameters = {"generator": file_sha256(run / "generator.safetensors")[:12]}
    found = {"scores": {"authenticity": 0.9}, "parameters": parameters, "closest": [{"picture": 7}]}
    (run / "evaluation.json").write_text(json.dumps(found))
    assert read_evaluation(run) == {"scores": {"authenticity": 0.9}, "parameters": parameters}


@pytest.mark.parametrize("parameters", [{"generator": "0" * 12}, {"samples": 5000}])
def test_scores_that_are_not_known_to_be_of_these_weights_do_not(run, parameters):
    (run / "evaluation.json").write_text(json.dumps({"scores": {"fid": 1.0}, "parameters": parameters}))
    assert read_evaluation(run) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"scores": {}}', '{"parameters": 3}', "[" * 100_000])
def test_a_damaged_evaluation_is_refused_by_name(run, text):
    (run / "evaluation.json").write_text(text)
    with pytest.raises(
        ExportError, match=r"evaluation\.json is damaged \(.+\): evaluate again, or delete it"
    ):
        read_evaluation(run)


@pytest.mark.parametrize(
    ("data", "licence"),
    [
        (b"\xef\xbb\xbfMIT License\r\n\r\nCopyright", "MIT License"),  # as Windows writes it
        ("\n  CC\u00a0BY\t4.0 \x1b[0m".encode(), "CC BY 4.0 [0m"),
        (b"", "LicenseRef-unstated"),
        (b" \n\n", "LicenseRef-unstated"),
    ],
)
def test_the_licence_beside_pictures_is_text_that_a_manifest_takes(run, data, licence):
    """What is not printable is refused when the bundle is read, after all the work."""
    pictures = run / "instances"
    (pictures / "LICENSE").write_bytes(data)
    found = choose_instances(read_run(run), pictures, 2, 1)
    assert found.licence == licence
    assert found.licence.isprintable()


def described(run: Path, **changes: object) -> None:
    """Change what a run's config.json says."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))


def test_instances_of_a_model_of_clusters_are_labelled_with_its_clusters(tmp_path):
    """Not with the classes of their pictures: the model's labels mean something else."""
    run = write_run(tmp_path / "run", tiny_config(class_count=5))
    found = choose_instances(read_run(run), None, 100, 1)
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    assert found.class_names == ("cold", "warm")
    described(run, train={"label_source": "clusters"})
    np.save(run / "centroids.npy", found.embeddings[[7, 1, 3, 10, 5]])
    found = choose_instances(read_run(run), None, 100, 1)
    assert found.labels is not None
    assert found.labels[[7, 1, 3, 10, 5]].tolist() == [0, 1, 2, 3, 4]
    assert found.class_names is None


@pytest.mark.parametrize("known", [["class 0", "class 1"], ["class 1", "class 0"]])
def test_a_prepared_data_set_whose_labels_are_other_classes_is_no_bank(known, make_prepared, tmp_path):
    """The generator would be told of each instance that it is something else."""
    data = make_prepared(embedding_dim=1280, labels=[0, 1] * 20, class_count=2)
    path = write_run(tmp_path / "run", tiny_config(class_count=2))
    described(path, class_names=known)
    run = read_run(path)
    encoder = dataclasses.replace(run.model.encoder, sha256=PreparedDataset.open(data).meta.encoder.sha256)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, encoder=encoder))
    if known[0] == "class 0":
        assert choose_instances(run, data, 100, 1).class_names == ("class 0", "class 1")
        return
    with pytest.raises(ConfigError, match=r"label 0 is 'class 0' in .* and was 'class 1' in training"):
        choose_instances(run, data, 100, 1)


def test_a_folder_whose_name_is_no_text_still_names_a_class(run, tmp_path):
    shutil.copytree(run / "instances" / "warm", tmp_path / "bank" / "caf\udce9")
    assert choose_instances(read_run(run), tmp_path / "bank", 2, 1).class_names == ("caf\ufffd",)


def test_a_bank_takes_the_pictures_that_prepare_takes_and_names_those_it_cannot_read(run, tmp_path, capsys):
    """As an album has them: one broken, a hidden copy that a Mac left, another format."""
    pictures = tmp_path / "album"
    shutil.copytree(run / "instances" / "warm", pictures)
    count = len(list(pictures.iterdir()))
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (pictures / "._hidden.jpg").write_bytes(b"a Mac's")
    Image.new("RGB", (8, 8), "red").save(pictures / "red.ppm")
    found = choose_instances(read_run(run), pictures, 100, 1)
    assert len(found.pictures) == count + 1
    assert re.fullmatch(r"left out of the bank: .*/broken\.jpg: .*\n", capsys.readouterr().err)
    (tmp_path / "list.csv").write_text("path,label\nalbum/red.ppm,warm\n")
    assert choose_instances(read_run(run), tmp_path / "list.csv", 100, 1).class_names == ("warm",)


def test_a_bank_without_one_picture_that_can_be_read_is_refused(run, tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "broken.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match="none of its 1 pictures can be read"):
        choose_instances(read_run(run), tmp_path / "album", 100, 1)
