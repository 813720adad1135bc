import json
from pathlib import Path

from icgan_runtime.cli import main


def test_bench_runs_torch_beside_the_graphs_and_finds_the_same_pictures(
    tiny_bundle: Path, tiny_run: Path, tmp_path: Path, capsys
) -> None:
    report = tmp_path / "report"
    routes = f"torch:{tiny_run},onnxruntime"
    command = ["bench", str(tiny_bundle), "--against", routes, "--rounds", "1", "--batches", "2"]
    assert main([*command, "--threads", "1", "--out", str(report)]) == 0
    rows = json.loads((report / "bench.json").read_text())["rows"]
    apart = {(row["stage"], row["runner"]): row["apart"] for row in rows}
    assert apart["encoder", "onnxruntime"] < 1e-5
    assert apart["generator", "onnxruntime"] <= 1  # grey level
    assert "torch:" in capsys.readouterr().out


def test_bench_says_that_torch_needs_the_weights(tiny_bundle: Path, capsys) -> None:
    assert main(["bench", str(tiny_bundle), "--against", "torch:nowhere"]) == 1
    assert "against: torch needs the weights of the bundle, torch:RUN" in capsys.readouterr().err
