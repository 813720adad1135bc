"""A graph that was exported for a fixed number of pictures, made to take any.

Shapes that begin with it take it from what they reshape; constants that are put beside pictures, as a class
token is, are repeated for each. Whatever else depends on it shows when the graph is compared with the file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper


def free_batch(model: ModelProto, batch: int) -> None:
    """Change a graph of `batch` rows into one of any, in place; its constants are weights.

    The shape of its input is left to the caller.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    pictures = {value.name for value in model.graph.input}  # what depends on them
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        of_pictures = [name for name in node.input if name in pictures]
        if of_pictures:
            pictures |= set(node.output)
        if of_pictures and node.op_type == "Reshape" and shapes.get(node.input[0], [])[:1] == [batch]:
            _take_rows(model.graph, node, batch)
        if of_pictures and node.op_type == "Concat":
            nodes += _repeat_constants(model.graph, node, of_pictures, shapes)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _take_rows(graph: GraphProto, node: NodeProto, batch: int) -> None:
    """Let a Reshape to [batch, ...] keep the rows that it is given."""
    weight = next((tensor for tensor in graph.initializer if tensor.name == node.input[1]), None)
    shape = np.zeros(0) if weight is None else numpy_helper.to_array(weight)
    if shape[:1] != [batch] or (shape == 0).any():
        return
    name = f"{node.output[0]}.shape"
    graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
    node.input[1] = name
    for attribute in node.attribute:
        if attribute.name == "allowzero":
            attribute.i = 0  # as the exporter of torch writes it, a 0 would be no rows at all


def _repeat_constants(
    graph: GraphProto, node: NodeProto, pictures: list[str], shapes: dict[str, list[int]]
) -> list[NodeProto]:
    """The nodes that give each constant of one row, put beside `pictures`, as many rows as those have."""
    picture = pictures[0]
    axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
    rank = len(shapes.get(picture, []))
    made: list[NodeProto] = []
    for index, name in enumerate(node.input):
        if name in pictures or rank < 2 or axis % rank == 0 or shapes.get(name, [])[:1] != [1]:
            continue
        start = f"{node.output[0]}.{index}"

        def weight(suffix: str, values: list[int], start: str = start) -> str:
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{start}.{suffix}"))
            return f"{start}.{suffix}"

        ones = weight("ones", [1] * (rank - 1))
        made += [
            helper.make_node("Shape", [picture], [f"{start}.of"]),
            helper.make_node("Gather", [f"{start}.of", weight("first", [0])], [f"{start}.rows"], axis=0),
            helper.make_node("Concat", [f"{start}.rows", ones], [f"{start}.to"], axis=0),
            helper.make_node("Expand", [name, f"{start}.to"], [f"{start}.repeated"]),
        ]
        node.input[index] = f"{start}.repeated"
    return made
