"""One set of options for both commands that serve a bundle."""

import argparse
import dataclasses

import pytest

from icgan_runtime.errors import RequestError
from icgan_runtime.server import options
from icgan_runtime.server.options import MOST_DECODERS, RepositoryOptions, add_options, from_options


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr(options, "usable_cpus", lambda: 1)


def read(*words: str, gpu: bool) -> RepositoryOptions:
    parser = argparse.ArgumentParser()
    add_options(parser, gpu=gpu)
    return from_options(parser.parse_args(words))


@pytest.mark.parametrize("gpu", [True, False])
def test_what_is_not_said_is_as_the_dataclass_says(gpu):
    assert read(gpu=gpu) == RepositoryOptions(changes="" if gpu else "bundle")


@pytest.mark.parametrize("gpu", [True, False])
def test_both_commands_read_the_same_words_alike(gpu):
    words = ["--search", "graph", "--generators", "2", "--max-batch", "4", "--queue-delay-us", "7"]
    wanted = RepositoryOptions(search="graph", generators=2, max_batch=4, queue_delay_us=7)
    words += ["--changes", "postgresql://db/icgan"]
    wanted = dataclasses.replace(wanted, changes="postgresql://db/icgan")
    assert read(*words, gpu=gpu) == wanted


def test_pictures_are_decoded_by_as_many_processes_as_the_server_will_have_cores(monkeypatch):
    monkeypatch.setattr(options, "usable_cpus", lambda: 6)
    assert read(gpu=False).decoders == 6
    assert read(gpu=True).decoders == 1, "of another machine nothing is known"
    assert read("--cores", "16", gpu=True).decoders == 16
    assert read("--cores", "999", gpu=True).decoders == MOST_DECODERS
    for gpu in (True, False):
        assert read("--decoders", "3", gpu=gpu).decoders == 3


def test_one_process_searches_for_each_four_cores_of_the_server(monkeypatch):
    monkeypatch.setattr(options, "usable_cpus", lambda: 9)
    assert read(gpu=False).condition_processes == 2
    assert read(gpu=True).condition_processes == 1
    assert read("--cores", "16", gpu=True).condition_processes == 4
    assert read("--cores", "999", gpu=True).condition_processes == options.MOST_CONDITIONS
    for gpu in (True, False):
        assert read("--condition-processes", "3", gpu=gpu).condition_processes == 3


def test_a_server_on_several_cores_has_two_generators_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(options, "usable_cpus", lambda: 6)
    found = read(gpu=False)
    assert (found.generators, found.generator_threads) == (2, 0), "on all cores each"
    found = read("--generators", "2", gpu=False)
    assert (found.generators, found.generator_threads) == (2, 1), "on one thread each"
    assert read("--backend", "openvino", gpu=False).generators == 1
    assert read("--cores", "16", gpu=True).generators == 1


def test_without_a_gpu_the_precision_is_that_of_what_runs():
    alone = RepositoryOptions(precision="int8", cpu_precision="int8", changes="bundle")
    assert read("--precision", "int8", gpu=False) == alone
    both = read("--precision", "fp16", "--cpu-precision", "int8", gpu=True)
    assert both == RepositoryOptions(precision="fp16", cpu_precision="int8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search": "annoy"}, "search: 'annoy', expected one of faiss, faiss-ivf, faiss-gpu, graph"),
        ({"precision": "fp8"}, "precision: 'fp8', expected one of fp32, fp16, bf16, int8"),
        ({"max_batch": 0}, "max_batch: 0, expected at least 1"),
        ({"decoders": 0}, "decoders: 0, expected at least 1"),
        ({"condition_processes": 0}, "condition_processes: 0, expected at least 1"),
        ({"max_queue": 0}, "max_queue: 0, expected at least 1"),
        ({"cache_mb": -1}, "cache_mb: -1, expected at least 0"),
        ({"generators": 0}, "generators: 0, expected at least 1"),
        ({"engine_cache": "engines"}, "engine_cache: 'engines', expected a path from the root: /engines"),
        ({"cpu_backend": "torch"}, "backend: 'torch', expected one of onnxruntime, openvino, openvino-bf16"),
        ({"changes": "x"}, "changes: 'x', expected bundle or an address like postgresql://HOST/NAME"),
        ({"queue_delay_us": -1}, "queue_delay_us: -1, expected at least 0"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(given, message):
    with pytest.raises(RequestError) as caught:
        RepositoryOptions(**given)
    assert str(caught.value) == message
