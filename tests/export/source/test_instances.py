"""Which pictures become a bank, and what they are labelled with."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_export.errors import ExportError
from icgan_export.source.instances import choose_instances
from icgan_export.source.runs import read_run
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from tests.tiny_model import tiny_config, write_run
from tests.training import conftest as training

make_prepared = training.make_prepared


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run directory of its own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


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


def test_a_bank_is_squeezed_as_the_models_pictures_were(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "squeezed")
    config = json.loads((path / "config.json").read_text())
    config.setdefault("data", {})["crop"] = "squeeze"
    (path / "config.json").write_text(json.dumps(config))
    read = read_run(path)
    assert read.model.preprocessing.crop == "squeeze"
    (tmp_path / "wide").mkdir()
    side, wide = read.model.resolution, np.zeros((20, 40, 3), np.uint8)
    wide[:, 30:] = 255
    Image.fromarray(wide).save(tmp_path / "wide" / "0.png")
    found = choose_instances(read, tmp_path / "wide", 1, 1)
    assert found.pictures[0, 0, side - 1, 0] == 255
    assert found.pictures[0, 0, side // 2, 0] == 0


def test_a_bank_is_read_from_a_container_like_the_files_in_it(run, tmp_path):
    files = sorted((run / "instances" / "warm").iterdir())
    with tarfile.open(tmp_path / "warm.tar", "w") as shard:
        for number, file in enumerate(files):
            shard.add(file, f"{number:06d}{file.suffix}")
    found = choose_instances(read_run(run), tmp_path / "warm.tar", 100, 1)
    expected = choose_instances(read_run(run), run / "instances" / "warm", 100, 1)
    assert (found.pictures == expected.pictures).all()
    assert (found.embeddings == expected.embeddings).all()


@pytest.mark.parametrize("labels", [[1, 0, 1], [1, 0, 2]])
def test_numbers_without_names_in_a_container_are_classes_of_the_model(labels, tmp_path):
    """The published system's HDF5 files have labels and no names."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        file["imgs"] = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
        file["labels"] = np.array(labels, np.int64)
    classes = write_run(tmp_path / "classes", tiny_config(class_count=2))
    described(classes, class_names=["cold", "warm"])
    if max(labels) > 1:
        with pytest.raises(ExportError, match="the model has no class '2'"):
            choose_instances(read_run(classes), tmp_path / "two.hdf5", 100, 1)
        return
    found = choose_instances(read_run(classes), tmp_path / "two.hdf5", 100, 1)
    assert found.labels is not None
    assert found.labels.tolist() == labels
    assert found.class_names == ("cold", "warm")


def test_a_bank_without_one_picture_that_can_be_read_is_refused(run, tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "broken.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match="none of its 1 pictures can be read"):
        choose_instances(read_run(run), tmp_path / "album", 100, 1)
