"""`icgan embed`: embeddings as a file or as JSON."""

from __future__ import annotations

import json

import numpy as np

from tests.runtime.cli.common import PHOTO


def test_embed_writes_npy_or_json(icgan, tiny_bundle, tmp_path):
    assert icgan("embed", tiny_bundle, PHOTO, "--out", tmp_path / "h.npy")[0] == 0
    embedding = np.load(tmp_path / "h.npy", allow_pickle=False)
    assert (embedding.dtype, embedding.shape) == (np.float32, (1, 12))
    _, printed, _ = icgan("embed", tiny_bundle, PHOTO, "--json")
    np.testing.assert_array_equal(np.array(json.loads(printed)["embedding"], np.float32), embedding)


def test_embed_says_what_it_wrote_and_reports_the_pictures(icgan, tiny_bundle, tmp_path):
    out = tmp_path / "h.npy"
    assert icgan("embed", tiny_bundle, PHOTO, PHOTO, "--out", out)[1] == f"wrote {out}: float32 [2, 12]\n"
    _, printed, _ = icgan("embed", tiny_bundle, PHOTO, "--json", "--out", out)
    assert json.loads(printed)["pictures"] == [PHOTO]
    assert np.load(out, allow_pickle=False).shape == (1, 12)
