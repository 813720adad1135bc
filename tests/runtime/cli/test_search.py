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
    assert printed.splitlines()[0].count("(") == 3
    assert size(tmp_path / "near.png") == (4 + 6 + 3 * 4 + 2 * 2, 4)


def test_search_reports_as_json_with_labels_and_draws_nothing_where_there_is_nothing(
    icgan, labelled_bundle, bare_bundle, tmp_path
):
    status, printed, _ = icgan("search", labelled_bundle, PHOTO, PHOTO, "-k", 2, "--json")
    with Pipeline.load(labelled_bundle) as pipe:
        ids, scores = pipe.search(pipe.embed(PHOTO), k=2)
        assert pipe.bank.labels is not None
        labels = pipe.bank.labels[pipe.bank.rows(ids[0])].tolist()
    near = [
        {"id": i, "score": score, "label": label}
        for i, score, label in zip(ids[0].tolist(), scores[0].tolist(), labels, strict=True)
    ]
    assert status == 0
    data = json.loads(printed)
    assert data.pop("route")["search"] == "faiss"
    assert data == {"pictures": [{"picture": PHOTO, "neighbours": near}] * 2}
    status, printed, complaint = icgan("search", bare_bundle, PHOTO, "--out", tmp_path / "a.png")
    assert (status, printed) == (1, "")
    assert complaint == "icgan: out: there are no thumbnails to draw\n"
    status, printed, _ = icgan("search", bare_bundle, PHOTO)
    assert (status, printed.count("(")) == (0, 5), "the bundle's k"


def test_search_draws_the_picture_beside_its_neighbours(icgan, tiny_bundle, tmp_path):
    _, printed, _ = icgan("search", tiny_bundle, PHOTO, "-k", 2, "--out", tmp_path / "near.png")
    assert printed.splitlines()[-1] == f"wrote {tmp_path / 'near.png'}"
    with Pipeline.load(tiny_bundle) as pipe:
        ids, _ = pipe.search(pipe.embed(PHOTO), k=2)
        assert pipe.bank.thumbnails is not None
        thumbnails = pipe.bank.thumbnails[pipe.bank.rows(ids[0])]
    with Image.open(tmp_path / "near.png") as opened:
        sheet = np.asarray(opened)
    np.testing.assert_array_equal(sheet[:, :4], images.load(PHOTO, 4))
    assert (sheet[:, 4:10] == 255).all()
    np.testing.assert_array_equal(sheet[:, 10:14], thumbnails[0])
    np.testing.assert_array_equal(sheet[:, 16:20], thumbnails[1])
