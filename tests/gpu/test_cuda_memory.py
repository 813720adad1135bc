"""Pictures through memory of the GPU, between a client and a server on one machine: `make test-gpu`."""

from __future__ import annotations

import numpy as np
import pytest

from icgan_runtime import Pipeline
from tests.models import bundles
from tests.triton import conftest
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import PROTOCOLS

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
tiny_bundle, monkeypatch_session = bundles.tiny_bundle, conftest.monkeypatch_session
environment, start, server = conftest.environment, conftest.start, conftest.server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cuda_memory_carries_the_same_bytes(server, tiny_bundle, protocol):
    pytest.importorskip("cuda.bindings")
    url = server.http_url if protocol == "http" else server.grpc_url
    # the embedded server computes on the CPU, whatever ONNX Runtime is here
    with (
        Pipeline.load(tiny_bundle, backend="ort-cpu") as local,
        Pipeline.connect(url, shared_memory="cuda") as remote,
    ):
        expected = local.generate(PHOTO, n=40, seed=1)
        np.testing.assert_array_equal(remote.generate(PHOTO, n=40, seed=1).images, expected.images)
