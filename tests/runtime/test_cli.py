import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import icgan_runtime
from icgan_runtime import Pipeline, images
from icgan_runtime.cli import build_parser, main, parse, serve
from icgan_runtime.errors import RequestError, ServiceError
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import Ports
from tests.golden.make_commands import COMMANDS, OUT, help_of

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


def test_generate_writes_single_files_into_a_folder(icgan, tiny_bundle, tmp_path):
    other = tmp_path / "other.jpg"
    other.write_bytes(Path(PHOTO).read_bytes())
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, n=2, seed=4).images
    out = tmp_path / "images"
    status, printed, _ = icgan("generate", tiny_bundle, PHOTO, "-n", 2, "--seed", 4, "--out", out)
    assert (status, printed.splitlines()[-1]) == (0, f"wrote {out}")
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png"]
    icgan("generate", tiny_bundle, PHOTO, other, "-n", 2, "--seed", 4, "--out", out)
    for path in (out / "00001.png", out / "photo" / "00001.png", out / "other" / "00001.png"):
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), expected[1])


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
        ("generate BUNDLE PHOTO -n 0", "n: 0, expected 1..10000 images"),
        ("generate BUNDLE PHOTO --seed -1", "seed: -1, expected 0..2^63-1"),
        ("generate BUNDLE PHOTO --truncation 0", "truncation: 0.0, expected a number in (0, 1]"),
        ("generate BUNDLE PHOTO --label 3", "label: 3, but this model has no labels; leave it out"),
        ("generate BUNDLE PHOTO --columns 0", "columns: 0, expected at least 1"),
        ("generate BUNDLE PHOTO --precision int8", "no encoder graph at int8; the bundle has ['fp32']"),
        ("generate BUNDLE PHOTO --backend ort-tensorrt", "backend ort-tensorrt is not in this onnxruntime"),
        ("generate BUNDLE absent.jpg", "picture: absent.jpg: cannot be read (No such file or directory)"),
        (
            "generate BUNDLE BUNDLE/README.md",
            "/README.md: not a JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or HEIC picture",
        ),
        ("embed BUNDLE PHOTO BUNDLE/README.md --json", "/README.md: not a JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        ("generate BUNDLE PHOTO --out a.txt", "out: a.txt, expected a name ending in .png"),
        ("generate BUNDLE/bank PHOTO", "holds no manifest.json; expected a bundle"),
        ("generate BUNDLE PHOTO --threads -1", "threads: -1, expected at least 1, or 0 for one per core"),
        ("generate BUNDLE PHOTO PHOTO --out new", "out: new: two pictures have the same name"),
        ("embed BUNDLE PHOTO --out BUNDLE/bank", "/bank is a folder; name a file in it"),
        ("generate absent PHOTO", "absent: no such folder; expected a bundle"),
        ("generate PHOTO BUNDLE", "photo.jpg: not a folder; expected a bundle"),
        ("generate --url '' PHOTO", "url: '', expected one of grpc://, grpcs://, http://, https:// and then"),
        ("embed BUNDLE PHOTO", "out: say where to: --out FILE.npy, or --json"),
        ("search BUNDLE PHOTO -k 99", "k: 99, expected 1..20 for this bank"),
        ("info absent", "absent: no such folder"),
        ("bench BUNDLE --against ,", "against: no route given"),
        ("bench BUNDLE --out PHOTO", "photo.jpg is no folder; name one for the report"),
        ("bench --url '' PHOTO", "url: '', expected one of"),
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


def test_a_strangers_text_does_not_reach_the_terminal_as_commands(icgan, tiny_bundle, copy_bundle):
    bundle = copy_bundle(tiny_bundle)
    (bundle / "a\x1b[2J\tb").write_text("clears the screen")
    (bundle / "c\udcff").write_text("no UTF-8")
    _, printed, _ = icgan("info", bundle)
    assert printed.endswith("never used: a\\u001b[2J\tb, c\\udcff\n")
    assert icgan("embed", tiny_bundle, "\x9b2J.jpg", "--json")[2].startswith(
        "icgan: picture: \\u009b2J.jpg: "
    )


def test_a_terminal_without_our_signs_gets_escapes(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", "info", tiny_bundle],
        capture_output=True,
        text=True,
        cwd=Path(icgan_runtime.__file__).parents[1],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny 1: 8 \\xd7 8 pictures")


def test_a_sheet_that_cannot_be_written_is_reported(icgan, tiny_bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    status, _, complaint = icgan("generate", tiny_bundle, PHOTO, "--out", tmp_path / "file" / "a.png")
    assert status == 1
    assert complaint.startswith(f"icgan: out: {tmp_path}/file/a.png cannot be written (")


@pytest.mark.parametrize(("kind", "n"), [("webp", 1700), ("jpg", 7000)])
def test_a_sheet_too_large_for_its_format_is_a_mistake(icgan, tiny_bundle, tmp_path, kind, n):
    out = tmp_path / f"sheet.{kind}"
    status, _, errors = icgan("generate", tiny_bundle, PHOTO, "-n", n, "--columns", 1, "--out", out)
    name = {"jpg": "JPEG"}.get(kind, "WEBP")
    expected = f"icgan: out: {8 + 6 + 8} × {10 * n - 2} pixels are too many for a {name}; use .png\n"
    assert (status, errors, out.exists()) == (1, expected, False)


def test_a_usage_error_is_status_2(icgan, tiny_bundle, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("generate", tiny_bundle)
    with pytest.raises(SystemExit, match="2"):
        icgan("generate", tiny_bundle, PHOTO, "--truncation", "much")
    assert "argument --truncation: 'much' is neither a number in (0, 1] nor none\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_a_runnable_example(icgan, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        icgan(*[command][: bool(command)], "--help")
    assert capsys.readouterr().out.startswith("example: icgan ")


def test_the_module_is_the_command(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", "info", tiny_bundle],
        capture_output=True,
        text=True,
        cwd=Path(icgan_runtime.__file__).parents[1],
    )
    assert done.returncode == 0
    assert done.stdout.startswith("tiny 1")


def test_the_help_says_what_was_last_reviewed():
    """After a change: python -m tests.golden.make_commands."""
    reviewed = [" ".join(part.split()) for part in OUT.read_text().split("\n\n")]
    assert [help_of(command) for command in COMMANDS] == reviewed


PLACE = {
    "url": None,
    "backend": "auto",
    "precision": None,
    "search": "auto",
    "threads": 0,
    "bundle": "B",
    "json": False,
}


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        (
            "generate B a.jpg",
            {
                **PLACE,
                "pictures": ["a.jpg"],
                "n": 8,
                "seed": 0,
                "truncation": 1.0,
                "condition": "query",
                "label": None,
                "columns": 8,
                "out": Path("grid.png"),
                "sign_key": None,
                "no_mark": False,
                "embedding": "none",
                "ledger": None,
            },
        ),
        ("embed B a.jpg b.jpg", {**PLACE, "pictures": ["a.jpg", "b.jpg"], "out": None}),
        ("search B", {**PLACE, "pictures": [], "k": None, "out": None}),
        (
            "serve B",
            {
                "bundle": Path("B"),
                "host": "127.0.0.1",
                "http_port": 8000,
                "grpc_port": 8001,
                "metrics_port": 8002,
                "require_signature": None,
                "search": "faiss",
                "cpu_precision": None,
                "generators": 1,
                "max_batch": 32,
                "queue_delay_us": 0,
                "log": "warning",
                "json": False,
            },
        ),
        ("info B", {"bundle": "B", "verify": False, "backend": "ort-cpu", "json": False}),
        (
            "bench B",
            {
                "bundle": "B",
                "url": None,
                "seconds": 10,
                "against": "onnxruntime",
                "batches": "1,8",
                "rounds": 20,
                "threads": 0,
                "out": None,
            },
        ),
    ],
)
def test_what_is_not_said_is_as_the_help_says(command, defaults):
    options = vars(build_parser().parse_args(command.split()))
    run = options.pop("run")
    options.pop("parser")
    assert options == defaults
    assert callable(run)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("generate B p -n 3", "n", 3),
        ("generate B p --seed 3", "seed", 3),
        ("generate B p --truncation none", "truncation", None),
        ("generate B p --truncation 0.5", "truncation", 0.5),
        ("generate B p --condition sample", "condition", "sample"),
        ("generate B p --label 3", "label", 3),
        ("generate B p --columns 3", "columns", 3),
        ("generate B p --out x.png", "out", Path("x.png")),
        ("generate B p --url grpc://a:1", "url", "grpc://a:1"),
        ("embed B p --precision fp16", "precision", "fp16"),
        ("embed B p --threads 3", "threads", 3),
        ("embed B p --backend openvino", "backend", "openvino"),
        ("embed B p --out x.npy", "out", Path("x.npy")),
        ("search B p --search faiss-ivf", "search", "faiss-ivf"),
        ("search B p -k 3", "k", 3),
        ("search B p --out x.png", "out", Path("x.png")),
        ("serve B --host 0.0.0.0", "host", "0.0.0.0"),
        ("serve B --http-port 1", "http_port", 1),
        ("serve B --grpc-port 1", "grpc_port", 1),
        ("serve B --metrics-port 1", "metrics_port", 1),
        ("serve B --search graph", "search", "graph"),
        ("serve B --precision fp16", "cpu_precision", "fp16"),
        ("serve B --max-batch 3", "max_batch", 3),
        ("serve B --generators 3", "generators", 3),
        ("serve B --queue-delay-us 3", "queue_delay_us", 3),
        ("serve B --log info", "log", "info"),
        ("info B --verify", "verify", True),
        ("info B --backend tensorrt", "backend", "tensorrt"),
        ("info B --json", "json", True),
        ("bench B --seconds 0.5", "seconds", 0.5),
        ("bench B --rounds 3", "rounds", 3),
        ("bench B --threads 3", "threads", 3),
        ("bench B --out x", "out", Path("x")),
    ],
)
def test_an_option_is_read_as_what_it_is(words, field, value):
    found = vars(build_parser().parse_args(words.split()))[field]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "words",
    [
        "generate B p --condition mean",
        "serve B --search annoy",
        "serve B --search faiss-gpu",
        "serve B --precision bf16",
        "serve B --log all",
        "info B --backend auto",
        "",
    ],
)
def test_what_is_none_of_the_choices_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert "usage: icgan" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"icgan {icgan_runtime.__version__}\n"


def test_ctrl_c_ends_a_command_without_a_traceback(icgan, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icgan_runtime.cli.info.Bundle.open", interrupted)
    assert icgan("info", "B") == (130, "", "icgan: interrupted\n")


# ---- reports ---------------------------------------------------------------------------------------------


def test_generate_says_for_each_picture_what_is_near_and_reports_what_was_asked(
    icgan, labelled_bundle, tmp_path
):
    out = tmp_path / "a.png"
    flags = ["-n", 2, "--seed", 9, "--truncation", 0.5, "--condition", "nearest", "--label", 2, "--out", out]
    _, printed, _ = icgan("generate", labelled_bundle, PHOTO, *flags)
    with Pipeline.load(labelled_bundle) as pipe:
        result = pipe.generate(PHOTO, n=2, seed=9, truncation=0.5, condition="nearest", label=2)
    near = result.neighbours
    listed = ", ".join(f"{i} ({score:.3f})" for i, score in zip(near.ids, near.scores, strict=True))
    assert printed == f"{PHOTO}: nearest {listed}\nwrote {out}\n"
    with Image.open(out) as opened:
        np.testing.assert_array_equal(np.asarray(opened)[:8, 14:22], result.images[0])
    _, printed, _ = icgan("generate", labelled_bundle, PHOTO, *flags, "--json")
    entries = zip(near.ids.tolist(), near.scores.tolist(), near.labels.tolist(), strict=True)
    data = json.loads(printed)
    assert data.pop("route")["backend"] == "ort-cpu"
    assert data == {
        "out": str(out),
        "seed": 9,
        "n": 2,
        "pictures": [
            {
                "picture": PHOTO,
                "neighbours": [{"id": i, "score": score, "label": label} for i, score, label in entries],
            }
        ],
    }


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
    assert complaint == "icgan: out: there are no thumbnails at hand to draw\n"
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


def test_embed_says_what_it_wrote_and_reports_the_pictures(icgan, tiny_bundle, tmp_path):
    out = tmp_path / "h.npy"
    assert icgan("embed", tiny_bundle, PHOTO, PHOTO, "--out", out)[1] == f"wrote {out}: float32 [2, 12]\n"
    _, printed, _ = icgan("embed", tiny_bundle, PHOTO, "--json", "--out", out)
    assert json.loads(printed)["pictures"] == [PHOTO]
    assert np.load(out, allow_pickle=False).shape == (1, 12)


def test_where_it_runs_is_passed_on(icgan, monkeypatch):
    asked: list[tuple[object, ...]] = []

    def stop(*arguments: object, **options: object) -> None:
        asked.append((*arguments, options))
        raise RequestError("asked", "enough")

    monkeypatch.setattr(Pipeline, "load", stop)
    monkeypatch.setattr(Pipeline, "connect", stop)
    flags = ["--backend", "openvino", "--precision", "fp16", "--search", "numpy", "--threads", "3"]
    assert icgan("embed", "B", PHOTO, "--json", *flags)[0] == 1
    assert icgan("embed", "--url", "grpc://a:1", PHOTO, "--json")[0] == 1
    wanted = {"backend": "openvino", "precision": "fp16", "search": "numpy", "threads": 3}
    assert asked == [("B", wanted), ("grpc://a:1", {})]


@pytest.mark.parametrize(
    "choice", ["--backend tensorrt", "--precision fp16", "--search numpy", "--threads 2"]
)
def test_what_the_server_has_chosen_cannot_be_chosen_again(icgan, capsys, choice):
    with pytest.raises(SystemExit):
        icgan("embed", "--url", "grpc://a:1", PHOTO, "--json", *choice.split())
    assert f"{choice.split()[0]} is the server's choice: leave it out" in capsys.readouterr().err


def test_with_a_server_the_first_word_is_a_picture_too(icgan, tiny_bundle):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    from tests.runtime.stand_in import StandIn

    with StandIn(tiny_bundle) as stand_in:
        status, printed, _ = icgan("search", "--url", stand_in.grpc_url, PHOTO, PHOTO, "-k", 2)
        assert (status, len(printed.splitlines())) == (0, 2)
        status, _, complaint = icgan("search", "--url", stand_in.grpc_url, PHOTO, "--out", "x.png")
        assert (status, complaint) == (1, "icgan: out: there are no thumbnails at hand to draw\n")


@pytest.mark.parametrize(
    "words", ["B a.jpg b.jpg --json", "B a.jpg --json b.jpg", "B --json a.jpg b.jpg", "--json B a.jpg b.jpg"]
)
def test_pictures_may_stand_before_and_after_options(words):
    options = parse(["embed", *words.split()])
    assert (options.bundle, options.pictures, options.json) == ("B", ["a.jpg", "b.jpg"], True)


@pytest.mark.parametrize("words", ["embed B a.jpg --jsom", "embed B a.jpg --jsom b.jpg", "info B more"])
def test_a_word_that_means_nothing_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(words.split())
    assert "unrecognized arguments: " in capsys.readouterr().err


def test_a_picture_is_missed_in_the_words_of_the_usage(icgan, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("embed", "B", "--json")
    assert "embed: error: the following arguments are required: PICTURE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["generate BUNDLE PHOTO -n 1 --out OUT.png", "embed BUNDLE PHOTO --out OUT.npy", "search BUNDLE PHOTO"],
)
def test_a_command_says_on_one_line_what_ran_its_graphs_and_why(icgan, tiny_bundle, tmp_path, words):
    words = (
        words.replace("BUNDLE", str(tiny_bundle)).replace("PHOTO", PHOTO).replace("OUT", f"{tmp_path}/out")
    )
    status, printed, route = icgan(*words.split(), "--threads", 1, "--search", "numpy")
    assert status == 0
    assert "route" not in printed
    assert route == (
        "route: ort-cpu (ONNX Runtime has no CUDA provider here), on CPUExecutionProvider (opened by encoder "
        "and generator), fp32 (the highest in the bundle), search numpy (asked for), threads 1 (asked for)\n"
    )
    report = json.loads(icgan(*words.split(), "--json")[1])["route"]
    assert (report["backend"], report["provider"]) == ("ort-cpu", "CPUExecutionProvider")
    assert report["reasons"].keys() == {"backend", "provider", "precision", "search", "threads"}


def test_bench_says_what_each_route_runs_on(icgan, tiny_bundle):
    status, printed, progress = icgan("bench", tiny_bundle, "--rounds", 1, "--batches", 1)
    assert status == 0
    assert "route onnxruntime: ort-cpu on CPUExecutionProvider, fp32\n" in progress
    routes = json.loads(printed.splitlines()[-1])["routes"]
    assert routes == {"onnxruntime": "ort-cpu on CPUExecutionProvider, fp32"}


# ---- bench -----------------------------------------------------------------------------------------------


def test_bench_measures_what_is_asked_for_and_ends_in_json(icgan, monkeypatch, tmp_path):
    asked: list[object] = []

    def bench(*arguments: object, progress: object, **options: object) -> dict[str, object]:
        asked.append((*arguments, options))
        progress("round 1")  # type: ignore[operator]
        return {"rows": 1}

    monkeypatch.setattr("icgan_runtime.bench.bench", bench)
    monkeypatch.setattr("icgan_runtime.bench.table", lambda report: f"a table of {report['rows']}")
    flags = ["--against", " torch, onnxruntime,", "--batches", "1, 4", "--rounds", 3, "--threads", 2]
    status, printed, progress = icgan("bench", "B", *flags, "--out", tmp_path / "report")
    assert (status, printed, progress) == (0, 'a table of 1\n{"rows": 1}\n', "round 1\n")
    wanted = {"batches": [1, 4], "rounds": 3, "threads": 2}
    assert asked == [("B", ["torch", "onnxruntime"], wanted)]
    assert json.loads((tmp_path / "report" / "bench.json").read_text()) == {"rows": 1}
    assert (tmp_path / "report" / "bench.json").read_text().endswith("}\n")
    assert (tmp_path / "report" / "bench.txt").read_text() == "a table of 1\n"
    status, printed, complaint = icgan("bench", "B", "--batches", "1,two")
    assert (status, printed) == (1, "")
    assert complaint == "icgan: batches: 'two', expected whole numbers separated by commas\n"


def test_bench_of_a_server_sends_it_the_picture(icgan, monkeypatch):
    asked: list[object] = []

    def measure(*arguments: object, progress: object, **options: object) -> dict[str, object]:
        asked.append((*arguments, options))
        progress("Offline")  # type: ignore[operator]
        return {"scenarios": {}}

    monkeypatch.setattr("icgan_runtime.load.measure", measure)
    monkeypatch.setattr("icgan_runtime.load.table", lambda report: "a table")
    found = icgan("bench", "--url", "grpc://a:1", PHOTO, "--seconds", 3)
    assert found == (0, 'a table\n{"scenarios": {}}\n', "Offline\n")
    assert asked == [("grpc://a:1", Path(PHOTO).read_bytes(), {"seconds": 3.0, "connection": {}})]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (f"bench --url grpc://a:1 {PHOTO} --against torch", "--against means nothing beside --url"),
        (f"bench --url grpc://a:1 {PHOTO} --batches 1", "--batches means nothing beside --url"),
        (f"bench --url grpc://a:1 {PHOTO} --rounds 3", "--rounds means nothing beside --url"),
        (f"bench --url grpc://a:1 {PHOTO} --threads 3", "--threads means nothing beside --url"),
        ("bench B --seconds 3", "--seconds means nothing without --url"),
        ("info B --backend openvino", "--backend is for --verify"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(icgan, capsys, words, complaint):
    with pytest.raises(SystemExit, match="2"):
        icgan(*words.split())
    assert complaint in capsys.readouterr().err


# ---- serve -----------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """What `icgan serve` starts, which ends at once as with Ctrl-C unless the test puts another end in."""
    asked: list[Any] = []
    end = SimpleNamespace(error=KeyboardInterrupt(), asked=asked)

    def wait() -> None:
        asked.append(signal.getsignal(signal.SIGTERM))
        raise end.error

    @contextlib.contextmanager
    def serve_bundle(*arguments: object) -> Iterator[object]:
        asked.extend(arguments)
        yield SimpleNamespace(
            http_url="http://h:1", grpc_url="grpc://h:2", metrics_url="http://h:3/m", wait=wait
        )
        asked.append("over")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("icgan_runtime.server.serve_bundle.serve_bundle", serve_bundle)
    yield end
    signal.signal(signal.SIGTERM, before)


def test_serve_says_how_it_is_asked_and_ends_with_ctrl_c(icgan, served):
    ports = ["--http-port", 1, "--grpc-port", 2, "--metrics-port", 3]
    flags = [
        "--search",
        "graph",
        "--precision",
        "int8",
        "--max-batch",
        4,
        "--generators",
        2,
        "--log",
        "info",
    ]
    status, printed, complaint = icgan("serve", "B", *ports, *flags)
    assert (status, complaint) == (0, "")
    assert printed.splitlines() == [
        "serving B until Ctrl-C, metrics at http://h:3/m",
        "  icgan generate --url grpc://127.0.0.1:2 photo.jpg --out grid.png",
        "  icgan generate --url http://127.0.0.1:1 photo.jpg --out grid.png",
        "stopping when the requests in flight are answered",
    ]
    bundle, options, choices, level, report, on_sigterm, over = served.asked
    assert (bundle, level, over) == (Path("B"), "info", "over")
    assert (options.ports, options.host) == (Ports(1, 2, 3), "127.0.0.1")
    assert choices == RepositoryOptions(
        search="graph", precision="int8", cpu_precision="int8", generators=2, max_batch=4
    )
    assert on_sigterm is signal.default_int_handler, "SIGTERM is as Ctrl-C"
    assert callable(report)


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")])
def test_serve_on_all_addresses_shows_one_that_can_be_asked(icgan, served, host, shown):
    _, printed, _ = icgan("serve", "B", "--host", host)
    assert served.asked[1].host == host
    assert f"--url grpc://{shown}:8001 " in printed
    assert f"--url http://{shown}:8000 " in printed


def test_serve_prints_its_addresses_as_json(icgan, served):
    _, printed, _ = icgan("serve", "B", "--json")
    assert json.loads(printed) == {"http": "http://h:1", "grpc": "grpc://h:2", "metrics": "http://h:3/m"}


def test_a_server_that_dies_is_status_1(icgan, served):
    served.error = ServiceError("tritonserver was ended by SIGABRT")
    status, _, complaint = icgan("serve", "B")
    assert (status, complaint) == (1, "icgan: tritonserver was ended by SIGABRT\n")


def test_the_log_goes_to_stderr_and_a_full_disk_costs_lines_only(capfd, monkeypatch):
    serve.report("a line \udcff \x1b[2J")
    assert capfd.readouterr().err == "a line \\udcff \\u001b[2J\n"
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        serve.report("lost")


def test_a_reader_that_has_seen_enough_does_not_cost_the_pictures(tiny_bundle, tmp_path):
    """`icgan generate … | head -1`: nobody reads on, and the sheet is written all the same."""
    photo, sheet = tmp_path / "photo.png", tmp_path / "sheet.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    command = ["generate", tiny_bundle, photo, photo, "-n", "1", "--out", sheet]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=Path(icgan_runtime.__file__).parents[1],
    )
    os.close(write)
    assert (done.returncode, done.stderr[:13]) == (0, b"route: ort-cp")
    assert sheet.exists()
