"""Clients of the protocol that are not NVIDIA's: gRPC from Node, and plain HTTP with JSON alone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.server.process import Server
from tests.triton.conftest import ROOT

SEED = 9007199254740993  # beyond what a double holds


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        yield pipe


def columns(pipe: Pipeline, n: int) -> dict[str, tuple[str, np.ndarray]]:
    """n images of the first stored instance, as the wire wants them."""
    return {
        "EMBEDDING": ("FP32", pipe.bank.embeddings[:1].repeat(n, axis=0)),
        "SEED": ("INT64", np.full((n, 1), SEED)),
        "SAMPLE": ("INT64", np.arange(n)[:, None]),
        "TRUNCATION": ("FP32", np.full((n, 1), 0.7, np.float32)),
        "CONDITION": ("INT32", np.zeros((n, 1), np.int32)),
    }


@pytest.fixture(scope="module")
def ask_from_node(tmp_path_factory):
    """Asks a server from Node's gRPC library; returns the outputs' bytes, or status and words."""
    if shutil.which("node") is None or not (ROOT / "examples/node_modules/@grpc/grpc-js").is_dir():
        pytest.skip("Node and the examples' packages are not installed: tests/edge/install.sh")
    service = pytest.importorskip("tritonclient.grpc.service_pb2", reason="pip install 'icgan[triton]'")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    files = FileDescriptorSet()
    for each in (*service.DESCRIPTOR.dependencies, service.DESCRIPTOR):
        each.CopyToProto(files.file.add())
    descriptors = tmp_path_factory.mktemp("node") / "service.bin"
    descriptors.write_bytes(files.SerializeToString())

    def ask(server: Server, given: dict[str, tuple[str, np.ndarray]], outputs: list[str]) -> dict[str, Any]:
        inputs = [
            {
                "name": name,
                "datatype": datatype,
                "shape": array.shape,
                "data": base64.b64encode(array.tobytes()).decode(),
            }
            for name, (datatype, array) in given.items()
        ]
        address = f"{server.options.host}:{server.options.ports.grpc}"
        program = Path(__file__).with_name("grpc_client.mjs")
        done = subprocess.run(
            ["node", program, address, descriptors, "icgan_from_embedding"],
            input=json.dumps({"inputs": inputs, "outputs": outputs}),
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return ask


def test_node_over_grpc_gets_pythons_images(ask_from_node, server, pipe):
    found = ask_from_node(server, columns(pipe, 3), ["GENERATED", "NEIGHBOUR_IDS"])
    expected = pipe.generate_from(pipe.bank.embeddings[:1], n=3, seed=SEED, truncation=0.7)
    images = np.frombuffer(base64.b64decode(found["GENERATED"]), np.uint8).reshape(expected.images.shape)
    assert np.abs(images.astype(int) - expected.images).max() <= 1
    ids = np.frombuffer(base64.b64decode(found["NEIGHBOUR_IDS"]), np.int64).reshape(3, -1)
    assert (ids == expected.neighbours.ids).all()


def test_node_over_grpc_reads_which_input_is_wrong(ask_from_node, server, pipe):
    given = columns(pipe, 1)
    given["TRUNCATION"] = ("FP32", np.full((1, 1), 3, np.float32))
    found = ask_from_node(server, given, ["GENERATED"])
    assert found["status"] == "INVALID_ARGUMENT"
    assert "TRUNCATION: 3.0, expected more than 0 and at most 1" in found["words"]


def infer(server: Server, given: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1, np.size(data)], "data": np.ravel(data).tolist()}
        for name, (datatype, data) in given.items()
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "GENERATED"}]}).encode()
    url = f"{server.http_url}/v2/models/icgan_from_embedding/infer"
    with urllib.request.urlopen(urllib.request.Request(url, data=body)) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def test_json_alone_carries_large_seeds_and_gives_pythons_images(server, pipe):
    answer = infer(server, columns(pipe, 1))
    expected = pipe.generate_from(pipe.bank.embeddings[:1], seed=SEED, truncation=0.7)
    (output,) = answer["outputs"]
    images = np.array(output["data"]).reshape(expected.images.shape)
    assert np.abs(images - expected.images).max() <= 1


@pytest.mark.parametrize("seed", [1.0, "5", None, 1e21, 2**63])
def test_a_seed_that_json_spells_otherwise_is_refused_by_the_server_itself(server, pipe, seed):
    """As docs/serving.md says: before any stage sees it, and without its name."""
    given = columns(pipe, 1)
    given["SEED"] = ("INT64", np.array([seed], object))
    with pytest.raises(urllib.error.HTTPError) as caught:
        infer(server, given)
    assert caught.value.code == 500
    assert "Unable to parse 'data'" in caught.value.read().decode()
    caught.value.close()
