import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icgan_runtime
from icgan_runtime import Pipeline
from icgan_runtime.cli import main

PHOTO = str(Path(__file__).parents[1] / "golden" / "photo.jpg")


@pytest.fixture
def icgan(capsys):
    """Runs a command; returns (status, stdout, stderr)."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def size(path) -> tuple[int, int]:
    """Width and height of a picture file."""
    with Image.open(path) as opened:
        return opened.size


def test_generate_writes_a_sheet_with_the_instance_on_the_left(icgan, tiny_bundle, tmp_path):
    out = tmp_path / "new folder" / "grid.png"
    status, printed, _ = icgan("generate", tiny_bundle, PHOTO, PHOTO, "-n", 3, "--seed", 4, "--out", out)
    assert status == 0
    assert f"wrote {out}" in printed
    assert f"{PHOTO}: nearest 11 (" in printed
    with Image.open(out) as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (2 * 8 + 2, 8 + 6 + 3 * 8 + 2 * 2, 3)
    with Pipeline.load(tiny_bundle) as pipe:
        np.testing.assert_array_equal(sheet[:8, 14:22], pipe.generate(PHOTO, n=3, seed=4).images[0])


def test_generate_wraps_samples_into_columns(icgan, tiny_bundle, tmp_path):
    icgan("generate", tiny_bundle, PHOTO, "-n", 5, "--columns", 2, "--out", tmp_path / "a.png")
    assert size(tmp_path / "a.png") == (8 + 6 + 2 * 8 + 2, 3 * 8 + 2 * 2)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.PNG"])
def test_generate_writes_the_format_of_the_name(icgan, tiny_bundle, tmp_path, name):
    assert icgan("generate", tiny_bundle, PHOTO, "--out", tmp_path / name)[0] == 0
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format in ("JPEG", "WEBP", "PNG")


def test_generate_reports_as_json(icgan, tiny_bundle, tmp_path):
    _, printed, _ = icgan("generate", tiny_bundle, PHOTO, "--json", "--out", tmp_path / "a.png")
    report = json.loads(printed)
    assert report["pictures"][0]["neighbours"][0].keys() == {"id", "score", "label"}


def test_embed_writes_npy_or_json(icgan, tiny_bundle, tmp_path):
    assert icgan("embed", tiny_bundle, PHOTO, "--out", tmp_path / "h.npy")[0] == 0
    embedding = np.load(tmp_path / "h.npy", allow_pickle=False)
    assert (embedding.dtype, embedding.shape) == (np.float32, (1, 12))
    _, printed, _ = icgan("embed", tiny_bundle, PHOTO, "--json")
    np.testing.assert_array_equal(np.array(json.loads(printed)["embedding"], np.float32), embedding)


def test_search_prints_neighbours_and_draws_their_thumbnails(icgan, tiny_bundle, tmp_path):
    status, printed, _ = icgan("search", tiny_bundle, PHOTO, "-k", 3, "--out", tmp_path / "near.png")
    assert status == 0
    assert printed.splitlines()[0].count("(") == 3
    assert size(tmp_path / "near.png") == (4 + 6 + 3 * 4 + 2 * 2, 4)


def test_info_names_what_matters(icgan, tiny_bundle):
    _, printed, _ = icgan("info", tiny_bundle)
    for part in ("tiny 1: 8 × 8", "CC0-1.0", "opset 18", "MatMul 2", "bank       20 instances", "k = 5"):
        assert part in printed
    _, printed, _ = icgan("info", tiny_bundle, "--json")
    facts = json.loads(printed)
    assert facts["graphs"][0]["operators"]["MatMul"] == 1
    assert facts["unlisted_files"] == []


def test_info_verify_passes_a_sound_bundle_and_fails_a_damaged_one(icgan, tiny_bundle, copy_bundle):
    status, printed, _ = icgan("info", "--verify", tiny_bundle)
    assert (status, printed.splitlines()[-1]) == (0, "18 checks, 0 failed")
    bundle = copy_bundle(tiny_bundle)
    (bundle / "README.md").write_text("# tinY\n")
    status, printed, _ = icgan("info", "--verify", bundle)
    assert status == 1
    assert "FAILED README.md: README.md: SHA-256" in printed
    assert printed.splitlines()[-1] == "18 checks, 1 failed"
    status, printed, _ = icgan("info", "--verify", "--json", bundle)
    assert json.loads(printed)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate BUNDLE PHOTO -n 0", "n: 0, expected 1..10000 pictures"),
        ("generate BUNDLE PHOTO --seed -1", "seed: -1, expected 0..2^63-1"),
        ("generate BUNDLE PHOTO --truncation 0", "truncation: 0.0, expected a number in (0, 1]"),
        ("generate BUNDLE PHOTO --label 3", "label: 3, but this model has no labels; leave it out"),
        ("generate BUNDLE PHOTO --columns 0", "columns: 0, expected at least 1"),
        ("generate BUNDLE PHOTO --precision int8", "no encoder graph at int8; the bundle has ['fp32']"),
        ("generate BUNDLE PHOTO --backend ort-tensorrt", "backend ort-tensorrt is not in this onnxruntime"),
        ("generate BUNDLE absent.jpg", "image: absent.jpg: cannot be read (No such file or directory)"),
        ("generate BUNDLE BUNDLE/README.md", "image: not a JPEG, PNG, WEBP, GIF, BMP or TIFF picture"),
        ("generate BUNDLE PHOTO --out a.txt", "out: a.txt, expected a name ending in .png"),
        ("generate BUNDLE/bank PHOTO", "holds no manifest.json; expected a bundle"),
        ("generate absent PHOTO", "absent: no such folder; expected a bundle"),
        ("embed BUNDLE PHOTO", "out: say where to: --out FILE.npy, or --json"),
        ("search BUNDLE PHOTO -k 99", "k: 99, expected 1..20 for this bank"),
        ("info absent", "absent: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(icgan, tiny_bundle, arguments, message):
    words = shlex.split(arguments.replace("BUNDLE", str(tiny_bundle)).replace("PHOTO", PHOTO))
    status, printed, complaint = icgan(*words)
    assert status == 1
    assert printed == ""
    assert complaint.startswith("icgan: ")
    assert message in complaint
    assert complaint.count("\n") == 1


def test_a_sheet_that_cannot_be_written_is_reported(icgan, tiny_bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    status, _, complaint = icgan("generate", tiny_bundle, PHOTO, "--out", tmp_path / "file" / "a.png")
    assert status == 1
    assert complaint.startswith(f"icgan: out: {tmp_path}/file/a.png cannot be written (")


def test_a_usage_error_is_status_2(icgan, tiny_bundle, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("generate", tiny_bundle)
    with pytest.raises(SystemExit, match="2"):
        icgan("generate", tiny_bundle, PHOTO, "--truncation", "much")


@pytest.mark.parametrize("command", ["", "generate", "embed", "search", "info"])
def test_help_shows_a_runnable_example(icgan, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        icgan(*[command][: bool(command)], "--help")
    assert "example: icgan " in capsys.readouterr().out


def test_the_module_is_the_command(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", "info", tiny_bundle],
        capture_output=True,
        text=True,
        cwd=Path(icgan_runtime.__file__).parents[1],
    )
    assert done.returncode == 0
    assert done.stdout.startswith("tiny 1")
