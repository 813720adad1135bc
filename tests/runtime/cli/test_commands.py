"""All commands of `icgan`: their help, defaults and options; mistakes in one line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import icgan_runtime
from icgan_runtime.cli import build_parser, main, parse
from tests.golden.make_commands import COMMANDS, OUT, help_of
from tests.runtime.cli.common import PHOTO


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
        ("bench BUNDLE --against ,", "against: no runner given"),
        ("bench BUNDLE --out PHOTO", "photo.jpg is no folder; name one for the report"),
        ("bench --url '' PHOTO", "url: '', expected one of"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(icgan, tiny_bundle, arguments, message):
    words = shlex.split(arguments)
    words = [word.replace("BUNDLE", str(tiny_bundle)).replace("PHOTO", PHOTO) for word in words]
    status, printed, complaint = icgan(*words)
    assert status == 1
    assert printed == ""
    assert complaint.startswith("icgan: ")
    assert message in complaint
    assert complaint.count("\n") == 1


def test_a_usage_error_is_status_2(icgan, tiny_bundle, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("embed", tiny_bundle, "--json")
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
    "state": None,
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
                "captions": False,
                "instance": [],
                "out": "grid.png",
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
                "traces": None,
                "trace_every": 1,
                "search": "faiss",
                "cpu_precision": None,
                "cpu_backend": "onnxruntime",
                "generators": None,
                "decoders": None,
                "condition_processes": None,
                "cache_mb": 0,
                "max_queue": 48,
                "changes": "bundle",
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
                "target": None,
                "edge": None,
                "batches": "1,8",
                "rounds": 20,
                "threads": 0,
                "out": None,
                "json": False,
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
        ("generate B p --out x.png", "out", "x.png"),
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
        ("serve B --decoders 3", "decoders", 3),
        ("serve B --condition-processes 3", "condition_processes", 3),
        ("serve B --cache-mb 64", "cache_mb", 64),
        ("serve B --changes postgresql://db/icgan", "changes", "postgresql://db/icgan"),
        ("search B p --state 3-abc", "state", "3-abc"),
        ("serve B --max-queue 9", "max_queue", 9),
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


@pytest.mark.parametrize("words", ["embed B a.jpg --jsom", "embed B a.jpg --jsom b.jpg", "info B more"])
def test_a_word_that_means_nothing_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(words.split())
    assert "unrecognized arguments: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("bench --url grpc://a:1 PHOTO --against torch", "--against means nothing beside --url"),
        ("bench --url grpc://a:1 PHOTO --batches 1", "--batches means nothing beside --url"),
        ("bench --url grpc://a:1 PHOTO --rounds 3", "--rounds means nothing beside --url"),
        ("bench --url grpc://a:1 PHOTO --threads 3", "--threads means nothing beside --url"),
        ("bench B --seconds 3", "--seconds means nothing without --url"),
        ("info B --backend openvino", "--backend is for --verify"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(icgan, capsys, words, complaint):
    with pytest.raises(SystemExit, match="2"):
        icgan(*(PHOTO if word == "PHOTO" else word for word in words.split()))
    assert complaint in capsys.readouterr().err
