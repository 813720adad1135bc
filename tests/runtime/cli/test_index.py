"""`icgan index`: a bank indexed once instead of at every start."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.banks.index import NAMES
from icgan_runtime.bundle.manifest import describe_file
from icgan_runtime.bundle.opened import Bundle
from tests.runtime.cli.common import PHOTO

pytest.importorskip("faiss")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def test_an_indexed_bundle_verifies_uses_its_index_and_gives_the_same_pictures(icgan, bundle, tiny_bundle):
    status, printed, _ = icgan("index", bundle)
    assert status == 0
    assert "1.000 of the nearest and 1.000 of the ten nearest others" in printed
    assert icgan("info", "--verify", bundle)[0] == 0
    with Pipeline.load(tiny_bundle) as before, Pipeline.load(bundle) as pipe:
        assert pipe.route.search == "faiss-ivf"
        result, expected = pipe.generate(PHOTO, seed=3), before.generate(PHOTO, seed=3)
    assert np.array_equal(result.neighbours.ids, expected.neighbours.ids)
    assert np.array_equal(result.images, expected.images)


def test_what_it_measured_is_json_on_request(icgan, bundle):
    status, printed, _ = icgan("index", bundle, "--json")
    assert status == 0
    about = json.loads(printed)
    assert about["count"] == Bundle.open(bundle).manifest.bank.count
    assert about["embeddings"] == Bundle.open(bundle).manifest.files["bank/embeddings.npy"].sha256


def test_a_second_index_replaces_the_first_and_bytes_that_changed_are_noticed(icgan, bundle):
    assert icgan("index", bundle)[0] == 0
    first = {name: (bundle / name).read_bytes() for name in NAMES}
    assert icgan("index", bundle)[0] == 0
    assert {name: (bundle / name).read_bytes() for name in NAMES} == first
    codes = bundle / "bank" / "index_codes.npy"
    codes.write_bytes(codes.read_bytes()[:-1] + b"\x01")
    status, _, errors = icgan("search", bundle, PHOTO)
    assert status == 1
    assert "bank/index_codes.npy" in errors


def test_an_index_of_other_embeddings_is_refused(icgan, bundle):
    assert icgan("index", bundle)[0] == 0
    about = json.loads((bundle / "bank" / "index.json").read_text())
    (bundle / "bank" / "index.json").write_text(json.dumps({**about, "embeddings": "0" * 64}))
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = describe_file(bundle / "bank" / "index.json")
    manifest["files"]["bank/index.json"] = {"bytes": entry.bytes, "sha256": entry.sha256}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    status, _, errors = icgan("search", bundle, PHOTO)
    assert status == 1
    assert "an index of other embeddings: make it anew with icgan index" in errors
