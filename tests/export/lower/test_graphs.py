import numpy as np
import onnx
import pytest

from icgan_export.lower.graphs import generator_graph
from icgan_export.rewrite.choice import Rewrites
from icgan_export.standalone import compare_generator
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator
from tests.tiny_model import lively_generator


def test_a_class_conditional_graph_takes_labels_and_agrees_with_torch() -> None:
    generator = lively_generator(ModelConfig(32, 4, (8,), embedding_dim=24, class_count=5))
    rewrites = Rewrites(("transposed",) * 3)
    graph = generator_graph(generator, rewrites, {})
    assert [tensor.name for tensor in graph.graph.input] == ["noise", "embedding", "label"]
    assert graph.graph.input[2].type.tensor_type.elem_type == onnx.TensorProto.INT64
    error = compare_generator(generator, graph.SerializeToString())
    assert np.isfinite(error)
    assert error < 1e-5


STORAGE_BUFFERS = 8  # that WebGPU promises a shader


@pytest.fixture(scope="module")
def largest() -> tuple[Generator, onnx.ModelProto]:
    """The network with the most blocks, labels and attention, and its graph with three forms of block."""
    generator = lively_generator(ModelConfig(512, 1, (16,), embedding_dim=24, class_count=5))
    rewrites = Rewrites(("products", *("shifts",) * 3, *("transposed",) * 3))
    return generator, generator_graph(generator, rewrites, {})


@pytest.fixture
def deepest(largest) -> onnx.GraphProto:
    return largest[1].graph


def test_512_pixels_are_exported_as_torch_draws_them(largest) -> None:
    generator, graph = largest
    assert compare_generator(generator, graph.SerializeToString()) < 1e-5


def test_no_operator_reads_and_writes_more_tensors_than_a_webgpu_shader_binds(deepest) -> None:
    settings = {tensor.name for tensor in deepest.initializer if tensor.data_type == onnx.TensorProto.INT64}
    for node in deepest.node:
        bound = {name for name in (*node.input, *node.output) if name and name not in settings}
        assert len(bound) <= STORAGE_BUFFERS, f"{node.op_type} {node.name}"


def test_no_node_is_called_as_a_tensor_is(deepest) -> None:
    tensors = {name for node in deepest.node for name in (*node.input, *node.output)}
    names = [node.name for node in deepest.node]
    assert len(set(names)) == len(names)
    assert not tensors & set(names)


def test_products_are_spelt_so_that_every_runtime_reads_them_at_every_precision(deepest) -> None:
    assert "Gemm" not in {node.op_type for node in deepest.node}
