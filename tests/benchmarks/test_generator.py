"""The comparison of generators: every competitor is at its best."""

import functools
import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

benchmark = importlib.import_module("benchmarks.generator")


@pytest.fixture
def compiled_for(monkeypatch):
    """The batches that torch.compile has been asked to make code for, one after the other."""
    batches = []

    def remember(module, inputs):
        batches.append({len(item) for item in inputs if isinstance(item, torch.Tensor)})
        return module.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=remember))
    return batches


class Doubled(torch.nn.Module):
    def forward(self, noise):
        return noise * 2


def test_torch_compile_has_code_of_its_own_for_every_batch(compiled_for, monkeypatch):
    monkeypatch.setattr(benchmark, "GraphGenerator", lambda generator, config, as_bytes: Doubled())
    any_generator: Any = SimpleNamespace(config=None)
    run = benchmark.torch_runner(any_generator, compiled=True, threads=torch.get_num_threads())
    for batch in (1, 8, 32):
        run({"noise": np.ones((batch, 3), np.float32)})
    assert compiled_for == [{1}, {8}, {32}], "not one for any batch"
