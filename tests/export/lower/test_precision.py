from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from icgan_export.lower import precision, qdq
from icgan_export.lower.half import rounded, to_half
from icgan_export.lower.passes import float_pictures, transposed_in_phases
from icgan_export.lower.precision import activation_ranges, lower_to_half, lower_to_int8
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.errors import NumericsError

Feeds = Mapping[str, NDArray[Any]]


@pytest.fixture
def generator(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "generator.onnx")


@pytest.fixture
def feeds(tiny_bundle: Path) -> Feeds:
    samples = np.load(tiny_bundle / "samples.npz")
    return {"noise": samples["noise"], "embedding": samples["embedding"][: len(samples["noise"])]}


def pictures(model: onnx.ModelProto, feeds: Feeds) -> NDArray[np.float32]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with OrtSession(rounded(float_pictures(copy)).SerializeToString(), "test.onnx") as session:
        image: NDArray[np.float32] = session.run(feeds)["image"]
    return image


def against(reference: NDArray[np.float32], feeds: Feeds) -> precision.Loss:
    return lambda model: float(np.mean((pictures(model, feeds) - reference) ** 2))


def test_fp16_halves_the_file_and_keeps_the_public_types(generator: onnx.ModelProto, feeds: Feeds) -> None:
    loss = against(pictures(generator, feeds), feeds)
    lowered = lower_to_half(generator, activation_ranges(generator, feeds), loss, allowed=4e-4)
    assert lowered.model.ByteSize() < 0.6 * generator.ByteSize()
    assert [i.type.tensor_type.elem_type for i in lowered.model.graph.input] == [TensorProto.FLOAT] * 2
    assert lowered.model.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert lowered.loss < 4e-4
    assert "the rounding to bytes is float32" in {node.reason for node in lowered.kept}


def test_bf16_is_the_same_conversion_with_another_type(generator: onnx.ModelProto) -> None:
    model = to_half(generator, (), "bf16")
    assert TensorProto.BFLOAT16 in {tensor.data_type for tensor in model.graph.initializer}


def test_int8_weights_are_symmetric_per_channel_and_biases_stay_float(
    generator: onnx.ModelProto, feeds: Feeds
) -> None:
    loss = against(pictures(generator, feeds), feeds)
    lowered = lower_to_int8(generator, activation_ranges(generator, feeds), loss, allowed=4 * 10**-2.5)
    constants = {t.name: numpy_helper.to_array(t) for t in lowered.model.graph.initializer}
    in_int8 = sum(array.size for array in constants.values() if array.dtype == np.int8)
    assert in_int8 > 0.5 * sum(array.size for array in constants.values())
    for node in lowered.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not constants[node.input[2]].any()
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            assert constants[node.input[0]].dtype == np.int8  # an int32 bias is refused by TensorRT


def matrix_model(*matrices: NDArray[np.float32]) -> onnx.ModelProto:
    """x @ first @ second ..., one MatMul each."""
    nodes, constants, name = [], [], "x"
    for index, matrix in enumerate(matrices):
        result = "y" if index == len(matrices) - 1 else f"h{index}"
        constants.append(numpy_helper.from_array(matrix, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{index}"], [result], f"matmul_{index}"))
        name = result
    last = matrices[-1].shape
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", matrices[0].shape[-2]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*last[:-2], "N", last[-1]])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, feeds: Feeds) -> NDArray[np.float32]:
    with OrtSession(rounded(model).SerializeToString(), "test.onnx") as session:
        return session.run(feeds)["y"]


def test_a_node_whose_activation_overflows_fp16_stays_float_and_says_why() -> None:
    model = matrix_model(np.full((4, 4), 300, np.float32), np.full((4, 4), 1e-5, np.float32))
    feeds = {"x": np.full((2, 4), 100, np.float32)}
    reference = run(model, feeds)
    with pytest.raises(NumericsError, match="NaN or infinity"):
        run(to_half(model, ()), feeds)

    def loss(converted: onnx.ModelProto) -> float:
        return float(np.abs(run(converted, feeds) - reference).max())

    lowered = lower_to_half(model, activation_ranges(model, feeds), loss, allowed=1)
    assert [node.node for node in lowered.kept] == ["matmul_0", "matmul_1"]  # the second reads the large one
    assert "FP16 ends at 65504" in lowered.kept[0].reason


def test_the_costliest_node_goes_back_to_float() -> None:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((16, 16)).astype(np.float32)
    wide[0] *= 200  # one input channel needs the whole range of the scale
    model = matrix_model(wide, np.eye(16, dtype=np.float32))
    feeds = {"x": np.concatenate([np.eye(16), rng.uniform(-1, 1, (4, 16))]).astype(np.float32)}
    reference = run(model, feeds)

    def loss(converted: onnx.ModelProto) -> float:
        return float(np.mean((run(converted, feeds) - reference) ** 2))

    ranges = activation_ranges(model, feeds)
    everything = loss(qdq.quantise(model, qdq.quantisable(model), ranges))
    lowered = lower_to_int8(model, ranges, loss, allowed=everything / 2)
    assert len(lowered.kept) == 1
    assert "of the bound" in lowered.kept[0].reason
    assert lowered.loss <= everything / 2


def test_activation_ranges_are_the_largest_magnitudes_over_all_rows() -> None:
    model = matrix_model(np.eye(3, dtype=np.float32) * -2, np.eye(3, dtype=np.float32))
    x = np.zeros((20, 3), np.float32)
    x[19, 1] = 5
    assert activation_ranges(model, {"x": x}) == {"x": 5.0, "h0": 10.0, "y": 10.0}


def test_rounding_is_that_of_ieee_half_precision() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(0, 100, 1000), [65504, 1, 0, -0.333]])
    feeds = {"x": values.astype(np.float16).astype(np.float32)[:, None]}
    matrix = np.array([[1.2345678]], np.float32)
    found = run(to_half(matrix_model(matrix), ()), {"x": feeds["x"][:-4]})
    half = matrix.astype(np.float16).astype(np.float32)
    expected = (feeds["x"][:-4] * half).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_bf16_rounding_is_to_eight_digits() -> None:
    import ml_dtypes

    values = np.random.default_rng(0).normal(0, 1e6, (1000, 1)).astype(ml_dtypes.bfloat16).astype(np.float32)
    matrix = np.array([[1.2345678]], np.float32)
    found = run(to_half(matrix_model(matrix), (), "bf16"), {"x": values})
    product = values * matrix.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found, product.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(("size", "padding", "more"), [(4, 1, 0), (3, 0, 1)])
def test_a_transposed_convolution_in_phases_gives_the_same_sums(size: int, padding: int, more: int) -> None:
    """Those of BigGAN, to twice the side, and of StyleGAN2, to one pixel more."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 3, size, size)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2], pads=[padding] * 4)
    before = helper.make_node("Relu", ["given"], ["x"], "relu")
    graph = helper.make_graph(
        [before, node],
        "up",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["N", 5, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 8 + more, 12 + more])],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feeds = {"given": rng.normal(size=(2, 5, 4, 6)).astype(np.float32)}
    phases = transposed_in_phases(model)
    assert "ConvTranspose" not in {node.op_type for node in phases.graph.node}
    np.testing.assert_allclose(run(phases, feeds), run(model, feeds), rtol=0, atol=1e-5)


def test_a_transposed_convolution_of_stride_one_becomes_the_convolution_it_is() -> None:
    rng = np.random.default_rng(0)
    held = {"w": rng.normal(size=(5, 3, 3, 3)), "b": rng.normal(size=3)}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "out", pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node],
        "out",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 6])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feeds = {"x": rng.normal(size=(2, 5, 4, 6)).astype(np.float32)}
    convolution = transposed_in_phases(model)
    assert [node.op_type for node in convolution.graph.node] == ["Conv"]
    np.testing.assert_allclose(run(convolution, feeds), run(model, feeds), rtol=0, atol=1e-5)


def test_a_product_with_a_stack_of_matrices_is_quantised() -> None:
    """ONNX Runtime refuses a scale for each column there."""
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(3, 16, 24)).astype(np.float32)
    model = matrix_model(stack)
    values = rng.normal(size=(8, 16)).astype(np.float32)
    lowered = qdq.quantise(model, qdq.quantisable(model), activation_ranges(model, {"x": values}))
    found, exact = run(lowered, {"x": values}), run(model, {"x": values})
    assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


def test_an_int8_graph_draws_the_same_when_it_is_converted_to_opset_21(
    generator: onnx.ModelProto, feeds: Feeds
) -> None:
    lowered = qdq.quantise(generator, qdq.quantisable(generator), activation_ranges(generator, feeds))
    converted = onnx.version_converter.convert_version(lowered, 21)
    np.testing.assert_array_equal(pictures(converted, feeds), pictures(lowered, feeds))
