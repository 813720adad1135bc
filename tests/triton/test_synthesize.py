"""Variants drawn by a real server: those of the bundle in this process, in their order."""

from __future__ import annotations

import numpy as np

from icgan_runtime.cli import main
from icgan_runtime.synthesize.reading import Variants


def test_servers_give_the_variants_of_the_bundle_in_their_order(
    labelled_server, labelled_bundle, tmp_path, monkeypatch
):
    rows = np.load(labelled_bundle / "bank" / "embeddings.npy")[:7]
    np.save(tmp_path / "rows.npy", rows)
    how = [
        "--from",
        str(tmp_path / "rows.npy"),
        "--per",
        "9",
        "--condition",
        "sample",
        "--scorer",
        "similarity",
    ]
    urls = [f"--url={labelled_server.grpc_url}", f"--url={labelled_server.http_url}"]
    assert main(["synthesize", *urls, *how, "--out", str(tmp_path / "served")]) == 0
    assert main(["synthesize", str(labelled_bundle), *how, "--out", str(tmp_path / "local")]) == 0
    served, local = Variants(tmp_path / "served"), Variants(tmp_path / "local")
    assert len(served) == len(local) == 63
    for one, other in zip(served, local, strict=True):
        assert (one["id"], one["seed"], one["label"]) == (other["id"], other["seed"], other["label"])
        assert np.abs(one["image"].astype(int) - other["image"]).max() <= 1
        assert abs(one["score"] - other["score"]) < 0.01
