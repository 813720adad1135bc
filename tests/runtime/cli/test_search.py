"""`icgan search`: what is near, in words, as JSON and drawn."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from icgan_runtime import Pipeline, images
from tests.runtime.cli.common import PHOTO, size


def test_search_prints_neighbours_and_draws_their_thumbnails(icgan, tiny_bundle, tmp_path):
    status, printed, _ = icgan("search", tiny_bundle, PHOTO, "-k", 3, "--out", tmp_path / "near.png")
    assert status == 0
    with Pipeline.load(tiny_bundle) as pipe:
        near = pipe.nearest(PHOTO, k=3)[0]
    assert near.names is not None
    rows = zip(near.scores, near.ids, near.names, strict=True)
    assert printed.splitlines()[:-1] == [
        f"{PHOTO}:",
        *(f"  {score:.3f}  {number:>8}  {name}" for score, number, name in rows),
    ]
    assert size(tmp_path / "near.png") == (112 + 6 + 3 * 112 + 2 * 2, 112 + 2 * 15)


def test_search_reports_as_json_with_labels_and_draws_nothing_where_there_is_nothing(
    icgan, labelled_bundle, bare_bundle, tmp_path
):
    status, printed, _ = icgan("search", labelled_bundle, PHOTO, PHOTO, "-k", 2, "--json")
    with Pipeline.load(labelled_bundle) as pipe:
        ids, scores = pipe.search(pipe.embed(PHOTO), k=2)
        assert pipe.bank.labels is not None
        labels = pipe.bank.labels[pipe.bank.rows(ids[0])].tolist()
    near = [
        {"id": i, "score": score, "label": label, "class": f"class {label}"}
        for i, score, label in zip(ids[0].tolist(), scores[0].tolist(), labels, strict=True)
    ]
    assert status == 0
    data = json.loads(printed)
    assert data.pop("route")["search"] == "faiss"
    for entry in data["pictures"]:
        assert (entry["picture"], entry["neighbours"], entry["outside"]) == (PHOTO, near, False)
    status, printed, complaint = icgan("search", bare_bundle, PHOTO, "--out", tmp_path / "a.png")
    assert (status, printed) == (1, "")
    assert complaint == "icgan: out: there are no thumbnails to draw\n"
    status, printed, _ = icgan("search", bare_bundle, PHOTO)
    assert (status, printed.count("(class")) == (0, 5), "the bundle's k"


def test_search_draws_the_picture_beside_its_neighbours(icgan, tiny_bundle, tmp_path):
    _, printed, _ = icgan("search", tiny_bundle, PHOTO, "-k", 2, "--out", tmp_path / "near.png")
    assert printed.splitlines()[-1] == f"wrote {tmp_path / 'near.png'}"
    with Pipeline.load(tiny_bundle) as pipe:
        ids, _ = pipe.search(pipe.embed(PHOTO), k=2)
        assert pipe.bank.thumbnails is not None
        thumbnails = pipe.bank.thumbnails[pipe.bank.rows(ids[0])]
    with Image.open(tmp_path / "near.png") as opened:
        sheet = np.asarray(opened)
    np.testing.assert_array_equal(sheet[:112:28, :112:28], images.load(PHOTO, 4))
    assert (sheet[:, 112:118] == 255).all()
    np.testing.assert_array_equal(sheet[:112:28, 118:230:28], thumbnails[0])
    np.testing.assert_array_equal(sheet[:112:28, 232::28], thumbnails[1])
    for left in (0, 118, 232):
        assert sheet[112:, left : left + 112].min() < 128, "words below each"
