from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from icgan_runtime.bundle.onnx_file import describe_onnx
from icgan_runtime.errors import BundleError


@pytest.fixture
def proto(tiny_bundle) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "generator.onnx")


def test_a_file_is_described_as_the_onnx_package_sees_it(tiny_bundle):
    for path in sorted(Path(tiny_bundle).glob("*.onnx")):
        proto, found = onnx.load(path), describe_onnx(path.read_bytes(), path.name)
        assert found.bytes == path.stat().st_size
        assert found.opsets == {item.domain: item.version for item in proto.opset_import}
        assert found.metadata == {item.key: item.value for item in proto.metadata_props}
        assert sum(found.operators.values()) == len(proto.graph.node)
        assert set(found.operators) == {node.op_type for node in proto.graph.node}
        assert found.parameters == sum(numpy_helper.to_array(item).size for item in proto.graph.initializer)


def test_operators_of_inner_graphs_functions_and_other_domains_are_counted(proto):
    branch = helper.make_graph([helper.make_node("Sin", [], ["y"])], "branch", [], [])
    proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    proto.graph.node.append(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))
    proto.functions.append(
        helper.make_function(
            "ours", "f", ["a"], ["b"], [helper.make_node("Cos", ["a"], ["b"])], proto.opset_import
        )
    )
    found = describe_onnx(proto.SerializeToString(), "x.onnx").operators
    assert (found["Sin"], found["If"], found["com.microsoft.Gelu"], found["Cos"]) == (2, 1, 1, 1)


def external(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def test_weights_in_other_files_are_refused_wherever_they_hide(proto):
    inner = helper.make_graph([helper.make_node("Sin", [], ["y"])], "branch", [], [], [external()])
    places = numpy_helper.from_array(np.zeros(1, np.int64))
    sparse = helper.make_sparse_tensor(external(), places, [4])
    elsewhere = helper.make_sparse_tensor(numpy_helper.from_array(np.zeros(1, np.float32)), external(), [4])
    several = helper.make_node("Sin", [], ["c"], several=[sparse])
    function = helper.make_function("ours", "f", [], ["b"], [helper.make_node("Cos", ["a"], ["b"])], [])
    function.attribute_proto.append(helper.make_attribute("value", external()))
    hidden = [
        lambda copy: copy.graph.initializer.append(external()),
        lambda copy: copy.graph.node.append(helper.make_node("Constant", [], ["c"], value=external())),
        lambda copy: copy.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner)),
        lambda copy: copy.graph.sparse_initializer.append(sparse),
        lambda copy: copy.graph.sparse_initializer.append(elsewhere),
        lambda copy: copy.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse)),
        lambda copy: copy.graph.node.append(several),
        lambda copy: copy.functions.append(function),
    ]
    for hide in hidden:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        hide(copy)
        with pytest.raises(
            BundleError, match=r"x\.onnx: not a readable ONNX model \(it keeps tensors in other files\)"
        ):
            describe_onnx(copy.SerializeToString(), "x.onnx")


@pytest.mark.parametrize("data", [b"", b"\x00", b"text", b"\x08\x09", b"\xff" * 40, b"\x3a\x7f", b"\x3a\x00"])
def test_what_is_not_onnx_is_refused(data):
    with pytest.raises(BundleError, match=r"x\.onnx: not a"):
        describe_onnx(data, "x.onnx")


def test_graphs_nested_without_end_are_refused():
    graph = helper.make_graph([helper.make_node("Sin", [], ["y"])], "leaf", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "outer", [], [])
    with pytest.raises(
        BundleError, match=r"^x\.onnx: not a readable ONNX model \(graphs are nested too deeply\)$"
    ):
        describe_onnx(helper.make_model(graph).SerializeToString(), "x.onnx")


@given(data=st.data())
def test_bytes_changed_at_random_are_described_or_refused(tiny_bundle, data):
    changed = bytearray((tiny_bundle / "encoder.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert describe_onnx(bytes(changed), "x.onnx").operators
    except BundleError as error:
        assert error.file == "x.onnx"  # noqa: PT017


def parameters(tensor: bytes) -> int:
    """Of a model with one node and this initializer, put together field by field."""
    graph = field(1, field(4, b"Identity")) + field(5, tensor)
    return describe_onnx(field(7, graph), "x.onnx").parameters


def field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def test_parameters_are_counted_however_the_dimensions_are_written():
    scalar, large = b"", b"\xac\x02"  # 300 takes two bytes
    assert parameters(scalar) == 1
    assert parameters(b"\x08\x03\x08\x04" + b"\x08" + large) == 3 * 4 * 300  # one by one
    assert parameters(field(1, b"\x03\x04" + large)) == 3 * 4 * 300  # packed
    tensor = numpy_helper.from_array(np.zeros((3, 2, 1), np.float32), "w")
    assert parameters(tensor.SerializeToString()) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_a_tensor_of_more_elements_than_any_file_holds_is_refused(packed):
    def sides(*logarithms: int) -> bytes:
        written = [b"\x80" * (n // 7) + bytes([1 << n % 7]) for n in logarithms]
        return field(1, b"".join(written)) if packed else b"".join(b"\x08" + side for side in written)

    assert parameters(sides(35, 5)) == 1 << 40
    with pytest.raises(BundleError, match="a tensor is too large"):
        parameters(sides(35, 5, 1))


def test_a_tensor_may_say_that_it_is_here_but_not_that_it_is_elsewhere():
    assert parameters(b"\x70\x00") == 1
    with pytest.raises(BundleError, match="it keeps tensors in other files"):
        parameters(b"\x70\x01")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x3b", "wire type 3"),
        (b"\x3a\x05\x00", "it ends too early"),
        (b"\x38\x01", "a number where a message should be"),
        (b"\x3a" + b"\xff" * 10, "a number is too long"),
        (b"\xba\x80\x80\x80\x10\x00", "a field number is too large"),  # field 7 to those who drop bit 32
        (b"\x3a\x80", "index out of bounds on dimension 1"),
    ],
)
def test_a_file_that_is_not_protobuf_says_why(data, reason):
    with pytest.raises(BundleError) as caught:
        describe_onnx(data, "x.onnx")
    assert str(caught.value) == f"x.onnx: not a readable ONNX model ({reason})"


def test_weights_inside_branches_are_parameters_too():
    tensor = numpy_helper.from_array(np.zeros((3, 2), np.float32), "w")
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "branch", [], [], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [], [], [tensor])
    assert describe_onnx(helper.make_model(graph).SerializeToString(), "x.onnx").parameters == 3 * 6


def test_the_values_of_sparse_weights_are_parameters_too():
    values = numpy_helper.from_array(np.ones(3, np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(3)), [100])
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], [], sparse_initializer=[sparse])
    assert describe_onnx(helper.make_model(graph).SerializeToString(), "x.onnx").parameters == 3


def test_the_version_of_every_domain_is_told():
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", [], [])
    opsets = {"": 18, "com.microsoft": 1, "ai.onnx.ml": 300}
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(name, version) for name, version in opsets.items()]
    )
    assert describe_onnx(model.SerializeToString(), "x.onnx").opsets == opsets


def test_fixed_width_fields_are_passed_over():
    model = b"\x0d1234" + b"\x1112345678" + field(7, field(1, field(4, b"Sin")))
    assert describe_onnx(model, "x.onnx").operators == {"Sin": 1}


def test_a_file_with_two_graphs_or_none_is_no_model():
    graph = field(7, field(1, field(4, b"Sin")))
    assert describe_onnx(graph, "x.onnx").bytes == len(graph)
    for data in (graph + graph, b""):
        with pytest.raises(BundleError) as caught:
            describe_onnx(data, "x.onnx")
        assert str(caught.value) == "x.onnx: not an ONNX model: it holds no graph"
