"""Variants drawn by a real server: those of the bundle in this process, in their order."""

from __future__ import annotations

import numpy as np

from icgan_runtime.cli import main
from icgan_runtime.server.process import free_ports
from icgan_runtime.synthesize.reading import Variants
from icgan_runtime.synthesize.work import Worker


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


def test_a_server_that_dies_in_the_middle_costs_no_variant(server, start, tiny_bundle, tmp_path, monkeypatch):
    dying = start(tiny_bundle)
    make = Worker.make

    def make_and_kill(self: Worker, number: int):
        if number == 2:
            dying.stop()
        return make(self, number)

    how = ["--from", str(tiny_bundle / "bank/embeddings.npy"), "--per", "8", "--shard", "40"]
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "make", make_and_kill)
        urls = [f"--url={dying.grpc_url}", f"--url={server.grpc_url}"]
        assert main(["synthesize", *urls, *how, "--out", str(tmp_path / "served")]) == 0
    assert main(["synthesize", str(tiny_bundle), *how, "--out", str(tmp_path / "local")]) == 0
    served, local = list(Variants(tmp_path / "served")), list(Variants(tmp_path / "local"))
    assert [one["id"] for one in served] == [one["id"] for one in local]
    apart = [
        np.abs(one["image"].astype(int) - other["image"]).max()
        for one, other in zip(served, local, strict=True)
    ]
    assert max(apart) <= 1


def test_a_server_that_is_down_from_the_beginning_is_left_out(server, tiny_bundle, tmp_path, capsys):
    nobody = f"--url=grpc://127.0.0.1:{free_ports().grpc}"
    how = ["--from", str(tiny_bundle / "bank/embeddings.npy"), "--per", "2"]
    for name, urls in (
        ("first", [nobody, f"--url={server.grpc_url}"]),
        ("last", [f"--url={server.grpc_url}", nobody]),
    ):
        assert main(["synthesize", *urls, *how, "--out", str(tmp_path / name)]) == 0
        assert len(Variants(tmp_path / name)) == 2 * len(np.load(tiny_bundle / "bank/embeddings.npy"))
    capsys.readouterr()
    assert main(["synthesize", nobody, nobody, *how, "--out", str(tmp_path / "none")]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("icgan: ")]
    assert "127.0.0.1" in line
