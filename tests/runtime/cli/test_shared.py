"""What the commands that take pictures share: where it runs, and the words of the command line."""

from __future__ import annotations

import json

import pytest

from icgan_runtime import Pipeline
from icgan_runtime.cli import parse
from icgan_runtime.errors import RequestError
from tests.runtime.cli.common import PHOTO


def test_where_it_runs_is_passed_on(icgan, monkeypatch):
    asked: list[tuple[object, ...]] = []

    def stop(*arguments: object, **options: object) -> None:
        asked.append((*arguments, options))
        raise RequestError("asked", "enough")

    monkeypatch.setattr(Pipeline, "load", stop)
    monkeypatch.setattr(Pipeline, "connect", stop)
    flags = [
        "--backend",
        "openvino",
        "--precision",
        "fp16",
        "--search",
        "numpy",
        "--threads",
        "3",
        "--state",
        "7-abc",
    ]
    assert icgan("embed", "B", PHOTO, "--json", *flags)[0] == 1
    assert icgan("embed", "--url", "grpc://a:1", PHOTO, "--json")[0] == 1
    wanted = {"backend": "openvino", "precision": "fp16", "search": "numpy", "threads": 3, "state": "7-abc"}
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
        assert (status, len(printed.splitlines())) == (0, 2 * 3)
        status, _, complaint = icgan("search", "--url", stand_in.grpc_url, PHOTO, "--out", "x.png")
        assert (status, complaint) == (1, "icgan: out: there are no thumbnails to draw\n")


@pytest.mark.parametrize(
    "words", ["B a.jpg b.jpg --json", "B a.jpg --json b.jpg", "B --json a.jpg b.jpg", "--json B a.jpg b.jpg"]
)
def test_pictures_may_stand_before_and_after_options(words):
    options = parse(["embed", *words.split()])
    assert (options.bundle, options.pictures, options.json) == ("B", ["a.jpg", "b.jpg"], True)


def test_a_picture_is_missed_in_the_words_of_the_usage(icgan, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("embed", "B", "--json")
    assert "embed: error: the following arguments are required: PICTURE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["generate BUNDLE PHOTO -n 1 --out OUT.png", "embed BUNDLE PHOTO --out OUT.npy", "search BUNDLE PHOTO"],
)
def test_a_command_says_on_one_line_what_ran_its_graphs_and_why(icgan, tiny_bundle, tmp_path, words):
    places = {"BUNDLE": str(tiny_bundle), "PHOTO": PHOTO}
    command = [places.get(word, word.replace("OUT", f"{tmp_path}/out")) for word in words.split()]
    status, printed, route = icgan(*command, "--threads", 1, "--search", "numpy")
    assert status == 0
    assert "route" not in printed
    assert route == (
        "route: ort-cpu (ONNX Runtime has no CUDA provider here), on CPUExecutionProvider (opened by encoder "
        "and generator), fp32 (the highest in the bundle), search numpy (asked for), threads 1 (asked for)\n"
    )
    report = json.loads(icgan(*command, "--json")[1])["route"]
    assert (report["backend"], report["provider"]) == ("ort-cpu", "CPUExecutionProvider")
    assert report["reasons"].keys() == {"backend", "provider", "precision", "search", "threads"}
