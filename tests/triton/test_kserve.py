"""KServe's own client library against the real server: what its users can ask for, by REST and by gRPC."""

from __future__ import annotations

import asyncio
import base64
import importlib
import re
from typing import Any

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.server.process import Server
from tests.triton.test_icgan import PHOTO

kserve = pytest.importorskip("kserve", reason="pip install kserve: tens of packages, not in the lock")

ROWS = {
    "SEED": ("INT64", np.array([[2**53 + 1]] * 2)),
    "SAMPLE": ("INT64", np.array([[0], [1]])),
    "TRUNCATION": ("FP32", np.full((2, 1), 0.7, np.float32)),
    "CONDITION": ("INT32", np.zeros((2, 1), np.int32)),
}


def ask(server: Server, protocol: str, model: str, given: dict[str, tuple[str, np.ndarray[Any, Any]]]) -> Any:
    """One request as the library's documentation writes it."""
    inputs = []
    for name, (datatype, array) in given.items():
        inputs.append(kserve.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=datatype != "BYTES" or protocol == "grpc")
    kinds = importlib.import_module("kserve.protocol.infer_type")
    wanted = [
        kinds.RequestedOutput("GENERATED", parameters={"binary_data": True} if protocol == "rest" else None)
    ]
    request = kserve.InferRequest(model, inputs, request_outputs=wanted)

    async def send() -> Any:
        if protocol == "rest":
            async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=60)) as client:
                return await client.infer(server.http_url, request, model_name=model)
        async with kserve.InferenceGRPCClient(server.grpc_url.removeprefix("grpc://"), timeout=60) as client:
            return await client.infer(request)

    return asyncio.run(send())


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        yield pipe


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_an_embedding_becomes_pythons_images(server, pipe, protocol):
    embedding = pipe.bank.embeddings[:1]
    given = {"EMBEDDING": ("FP32", embedding.repeat(2, axis=0)), **ROWS}
    answer = ask(server, protocol, "icgan_from_embedding", given)
    expected = pipe.generate_from(embedding, n=2, seed=2**53 + 1, truncation=0.7).images
    images = answer.outputs[0].as_numpy()
    assert (images.dtype, images.shape) == (np.uint8, expected.shape)
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("protocol", "picture"),
    [("grpc", PHOTO), ("rest", base64.b64encode(PHOTO))],
    ids=["grpc", "rest, base64"],
)
def test_a_picture_file_becomes_pythons_images(server, pipe, protocol, picture):
    column = np.array([[picture], [picture]], object)
    answer = ask(server, protocol, "icgan", {"IMAGE": ("BYTES", column), **ROWS})
    expected = pipe.generate(PHOTO, n=2, seed=2**53 + 1, truncation=0.7).images
    assert np.abs(answer.outputs[0].as_numpy().astype(int) - expected).max() <= 1


def test_a_refusal_names_the_input(server, pipe):
    given = {"EMBEDDING": ("FP32", pipe.bank.embeddings[:2]), **ROWS}
    given["TRUNCATION"] = ("FP32", np.full((2, 1), 3, np.float32))
    sentence = r"TRUNCATION: 3\.0, expected more than 0 and at most 1"
    with pytest.raises(Exception, match=sentence):
        ask(server, "grpc", "icgan_from_embedding", given)
    caught: Any
    with pytest.raises(Exception, match="400 Bad Request") as caught:
        ask(server, "rest", "icgan_from_embedding", given)
    # Triton's refusals carry no content type, and the library shows words only of those that do
    assert re.search(sentence, caught.value.response.text)
