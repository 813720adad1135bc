import numpy as np
import onnx

from icgan_export.lower.graphs import generator_graph
from icgan_export.rewrite.choice import Rewrites
from icgan_export.standalone import compare_generator
from icgan_training.networks.config import ModelConfig
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
