"""Which class each variant gets."""

from __future__ import annotations

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.synthesize.labels import open_labels
from icgan_runtime.synthesize.reading import Variants
from tests.runtime.synthesize.conftest import COUNT


def labels(out) -> list[int]:
    return [item["label"] for item in Variants(out)]


def test_the_rules_for_a_model_with_classes(synthesize, labelled_bundle, photos, tmp_path):
    for rule in ("own", "2", "cycle", "source", "random"):
        assert synthesize(labelled_bundle, photos, tmp_path / rule, "--per", 4, "--label", rule)[0] == 0
    assert labels(tmp_path / "2") == [2] * 4 * COUNT
    assert labels(tmp_path / "cycle") == [0, 1, 2, 0] * COUNT
    assert labels(tmp_path / "source") == [0] * 8 + [1] * 12
    assert set(labels(tmp_path / "random")) == {0, 1, 2}
    with Pipeline.load(labelled_bundle, threads=1) as pipe:
        for item in list(Variants(tmp_path / "own"))[::4]:
            result = pipe.generate(photos / item["instance"], seed=item["seed"])
            assert result.neighbours.labels is not None
            assert item["label"] == result.neighbours.labels[0]
            assert np.abs(result.images[0].astype(int) - item["image"]).max() <= 1
        item = Variants(tmp_path / "random")[5]
        drawn = pipe.generate(photos / item["instance"], seed=item["seed"], n=4, label=item["label"])
        assert np.abs(drawn.images[item["sample"]].astype(int) - item["image"]).max() <= 1


def test_a_drawn_instance_gives_its_label(synthesize, labelled_bundle, photos, tmp_path):
    synthesize(labelled_bundle, photos, tmp_path / "out", "--per", 6, "--condition", "sample")
    with Pipeline.load(labelled_bundle, threads=1) as pipe:
        for item in Variants(tmp_path / "out"):
            wanted = pipe.generate(photos / item["instance"], seed=item["seed"], n=6, condition="sample")
            apart = np.abs(wanted.images[item["sample"]].astype(int) - item["image"])
            assert apart.max() <= 1
    assert len(set(labels(tmp_path / "out"))) > 1


def test_files_give_a_label_to_each_instance(synthesize, labelled_bundle, tiny_bundle, photos, tmp_path):
    np.save(tmp_path / "labels.npy", np.array([2, 1, 0, 1, 2]))
    (tmp_path / "labels.csv").write_text("cats/0.png,2\ncats/1.png,1\ndogs/2.png,0\n")
    synthesize(labelled_bundle, photos, tmp_path / "npy", "--per", 1, "--label", tmp_path / "labels.npy")
    assert labels(tmp_path / "npy") == [2, 1, 0, 1, 2]
    synthesize(tiny_bundle, photos, tmp_path / "csv", "--per", 1, "--label", tmp_path / "labels.csv")
    assert labels(tmp_path / "csv") == [2, 1, 0, -1, -1]  # handed on: this model draws without
    status, _, told = synthesize(
        labelled_bundle, photos, tmp_path / "no", "--per", 1, "--label", tmp_path / "labels.csv"
    )
    assert (status, "-1 of 'dogs/3.png', expected 0..2" in told) == (1, True)


def test_a_file_for_other_instances_is_refused(tmp_path):
    from icgan_runtime.errors import RequestError

    np.save(tmp_path / "labels.npy", np.array([2, 1]))
    with pytest.raises(RequestError, match=r"int64\[2\], the source says int64\[5\]"):
        open_labels(str(tmp_path / "labels.npy"), 3, 5)
    (tmp_path / "labels.csv").write_text("cats/0.png\n")
    with pytest.raises(RequestError, match="lines of the form id,label"):
        open_labels(str(tmp_path / "labels.csv"), 3, 5)
