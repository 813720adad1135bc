from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from icgan_export.lower.half import to_half
from icgan_export.lower.skeleton import SMALL, check, with_shapes


@pytest.mark.parametrize("name", ["generator.onnx", "encoder.onnx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_shapes_without_the_weights_are_those_with_them(tiny_bundle: Path, name: str, precision: str) -> None:
    model = onnx.load(tiny_bundle / name)
    if precision != "fp32":
        model = to_half(model, (), precision)
    found = {value.name: value for value in with_shapes(model).graph.value_info}
    assert found == {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    assert len(found) > 20


def test_the_weights_of_the_copy_are_those_of_the_model(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "generator.onnx")
    copy = with_shapes(model)
    assert list(copy.graph.initializer) == list(model.graph.initializer)
    assert copy.graph.input == model.graph.input


def product(rows: int) -> onnx.ModelProto:
    """x [N, 64] @ weight [rows, 64]."""
    weight = numpy_helper.from_array(np.zeros((rows, 64), np.float32), "weight")
    assert weight.ByteSize() > SMALL
    public = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])], "product", public[:1], public[1:], [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_weight_of_the_wrong_shape_is_found_without_its_values() -> None:
    check(product(64))
    with pytest.raises(onnx.shape_inference.InferenceError, match="MatMul"):
        check(product(63))


def test_a_tensor_that_nothing_makes_is_found() -> None:
    model = product(64)
    del model.graph.initializer[:]
    with pytest.raises(onnx.checker.ValidationError, match="weight"):
        check(model)
