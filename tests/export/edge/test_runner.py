"""Edge files are competitors of `icgan bench`, and only those of the bundle, as they were written."""

from __future__ import annotations

import json
import shutil
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from icgan_export.cli import main as export
from icgan_export.edge.runner import open_edge
from icgan_runtime import bench
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import main
from icgan_runtime.errors import RequestError
from tests.models import bundles

ROOT = Path(__file__).parents[3]
tiny_bundle = bundles.tiny_bundle
labelled_bundle = bundles.labelled_bundle


@pytest.fixture(scope="module")
def written(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runner") / "edge"
    assert export(["edge", str(tiny_bundle), "--target", "openvino,ort", "--out", str(out)]) == 0
    return out


def test_bench_compares_edge_runtimes_in_one_run(
    written: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    points = [EntryPoint(name, value, "icgan.bench") for name, value in declared["icgan.bench"].items()]
    monkeypatch.setattr(bench, "entry_points", lambda group: points)
    report = tmp_path / "report"
    command = ["bench", str(tiny_bundle), "--edge", str(written), "--target", "ort,openvino"]
    assert main([*command, "--rounds", "1", "--batches", "2", "--threads", "1", "--out", str(report)]) == 0
    found = json.loads((report / "bench.json").read_text())
    names = [f"edge:{written / name}" for name in ("ort", "openvino")]
    assert list(found["runners"]) == ["onnxruntime", *names]
    assert found["runners"][names[1]].startswith("openvino ")
    drawn = [row for row in found["rows"] if row["stage"] == "generator"]
    assert all(row["apart"] <= 1 and row["psnr"] >= 40 for row in drawn)
    assert all(found["starts"][name]["megabytes"] > 0 for name in names)


def test_target_and_edge_go_together(tiny_bundle: Path, capsys):
    assert main(["bench", str(tiny_bundle), "--target", "ort"]) == 1
    assert "target: --target and --edge go together" in capsys.readouterr().err


def test_a_runtime_without_bytes_is_given_levels_and_its_picture_becomes_bytes(
    written: Path, tiny_bundle: Path
):
    runner = open_edge(tiny_bundle, 1, str(written / "ort"))
    pictures, feeds = bench.make_inputs(Bundle.open(tiny_bundle).manifest.model, 2)
    assert runner.embed(pictures).shape == (2, 12)
    assert runner.generate(feeds).shape == (2, 8, 8, 3)


def test_what_is_not_of_this_bundle_or_was_changed_is_refused(
    written: Path, tiny_bundle: Path, labelled_bundle: Path, tmp_path: Path
):
    with pytest.raises(RequestError, match="is no folder of icgan-export edge; name FOLDER/TARGET"):
        open_edge(tiny_bundle, 1, str(tmp_path / "ort"))
    with pytest.raises(RequestError, match="another bundle than"):
        open_edge(labelled_bundle, 1, str(written / "ort"))
    with pytest.raises(RequestError, match="no int8 there; icgan-export edge --precision"):
        open_edge(tiny_bundle, 1, f"{written / 'ort'}:int8")
    copy = shutil.copytree(written, tmp_path / "changed")
    (copy / "ort" / "generator.ort").write_bytes(b"other")
    with pytest.raises(RequestError, match=r"generator\.ort is not the file that was written"):
        open_edge(tiny_bundle, 1, str(copy / "ort"))
