"""What can be tried on a machine, and what is left out and why."""

from __future__ import annotations

import dataclasses

import pytest

from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.tune import space as spaces
from icgan_runtime.tune.space import show, space_of


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Four cores that multiply bfloat16, whatever runs the tests."""
    monkeypatch.setattr(spaces, "usable_cpus", lambda: 4)
    monkeypatch.setattr(spaces, "_cpu_flags", lambda: {"avx2", "avx512_bf16"})
    pytest.importorskip("openvino", reason="pip install 'icgan[openvino]'")


def test_the_graphs_of_a_bundle_are_tried_with_every_library_that_is_here(tiny_bundle):
    space = space_of(Bundle.open(tiny_bundle), samples=16)
    assert [setting["cpu_backend"] for setting in space.axes["library and precision"]] == [
        "onnxruntime",
        "openvino",
        "openvino-bf16",
    ]
    assert [setting["generators"] for setting in space.axes["generators"]] == [1, 2, 4]
    assert [setting["max_batch"] for setting in space.axes["batch"]] == [16, 32, 64], "a request has 16 rows"
    assert space.left_out == ()


def test_a_cpu_without_bfloat16_is_not_tried_with_it(tiny_bundle, monkeypatch):
    monkeypatch.setattr(spaces, "_cpu_flags", lambda: {"avx2"})
    space = space_of(Bundle.open(tiny_bundle), samples=8)
    assert space.left_out == ("openvino-bf16: this CPU does not multiply bfloat16",)


def test_without_openvino_it_is_said_how_to_have_it_tried(tiny_bundle, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    space = space_of(Bundle.open(tiny_bundle), samples=8)
    assert [line.split(": ", 1)[1] for line in space.left_out] == [
        "not installed: pip install 'icgan[openvino]'"
    ] * 2


def test_exact_pictures_leave_out_whatever_shortens_float32(tiny_bundle):
    space = space_of(Bundle.open(tiny_bundle), samples=8, exact=True)
    assert [setting["cpu_backend"] for setting in space.axes["library and precision"]] == [
        "onnxruntime",
        "openvino",
    ]
    assert space.left_out == ("openvino-bf16 fp32: draws other pictures than float32",)


def test_what_misses_the_bundles_bounds_is_left_out_with_the_figure(tiny_bundle, monkeypatch):
    monkeypatch.setattr("icgan_runtime.verify.MIN_COSINE", {"fp32": 0.9, "bf16": 1.1})
    space = space_of(Bundle.open(tiny_bundle), samples=8)
    [line] = space.left_out
    assert line.startswith("openvino-bf16 fp32: encoder.onnx on samples: cosine ")
    assert line.endswith("at least 1.1 wanted")


def test_settings_are_shown_as_the_flags_of_icgan_serve():
    defaults = RepositoryOptions(decoders=2)
    tuned = RepositoryOptions(
        decoders=2, precision="int8", cpu_precision="int8", cpu_backend="openvino", queue_delay_us=1000
    )
    assert show(tuned, defaults) == "--precision int8 --backend openvino --queue-delay-us 1000"
    alone = RepositoryOptions(decoders=2, generators=2)
    together = dataclasses.replace(alone, generator_threads=0)
    assert show(alone, together) == "--generators 2", "of which each has a thread"
    assert show(defaults, defaults) == "defaults"
