"""A stranger's ONNX network as one graph of one form: `pixels` [N, 3, S, S] -> `feature` [N, D], float32.

Only what the chosen output depends on is kept; the batch is made free, the side is fixed, many vectors become
one, shapes become known. None of it changes what is computed: `onnx_encoder.py` compares it with the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
import onnxscript.optimizer
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from icgan_training.errors import WeightsError
from icgan_training.integrity import inside
from icgan_training.networks.onnx_batch import free_batch
from icgan_training.networks.onnx_constants import Evaluate, constants_folded

PIXELS, FEATURE = "pixels", "feature"
BATCH_AXIS = "N"
OPSET, IR_VERSION = 18, 8  # at least: precisions below float32 are spelt in it
LARGEST = (1 << 31) - 1  # bytes of one ONNX file
INSIDE = "net/"  # before the names that a file's author chose

# What an encoder cannot have, and why not.
REFUSED = dict.fromkeys(
    ("NonZero", "NonMaxSuppression", "Unique", "Compress"),
    "gives as many numbers as a picture makes it: an encoder gives equally many for every picture",
)
REFUSED |= dict.fromkeys(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
    "draws lots: export the network in eval mode",
)
REFUSED |= dict.fromkeys(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
     "ConvInteger", "MatMulInteger"),
    "is of a quantised network: give the float32 file, icgan-export bundle --precision makes it smaller",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """What of a file makes the chosen output."""

    model: ModelProto
    pixels: str  # its one input
    output: str
    channels_last: bool  # [N, S, S, 3]
    batch: int | None  # rows, where they are fixed
    side: int | None  # pixels, where it is fixed


def read_graph(path: Path) -> ModelProto:
    """The file with its external weights inside. Raises WeightsError."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except Exception as error:  # protobuf's, or what a damaged file leads to
        raise WeightsError(f"{path} is no ONNX file, or is damaged") from error
    if not model.graph.node:
        raise WeightsError(f"{path} is no ONNX file, or has no network in it")
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            _check_location(
                path, {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
            )
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise WeightsError(f"the weights beside {path} are damaged or too short: copy them again") from error
    if model.ByteSize() > LARGEST:
        raise WeightsError(
            f"{path} has {model.ByteSize()} bytes with its weights; a bundle's file holds {LARGEST}"
        )
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check_location(path: Path, location: str) -> None:
    """Raise WeightsError for weights that are missing, or anywhere but in the folder of `path`."""
    if Path(location).is_absolute() or ".." in Path(location).parts or not location:
        raise WeightsError(
            f"{path} names its weights {location!r}, outside its folder: save it again, its weights beside it"
        )
    try:
        inside(path.parent, location)
    except ValueError as error:
        raise WeightsError(
            f"{path} has its weights in {location}, which {error}: copy it beside the file"
        ) from error


def _tensors(model: ModelProto) -> list[TensorProto]:
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    return [
        *model.graph.initializer,
        *(attribute.t for attribute in attributes if attribute.type == AttributeProto.TENSOR),
        *(tensor for attribute in attributes for tensor in attribute.tensors),
    ]


def cut(model: ModelProto, output: str | None, path: Path) -> Part:
    """What makes `output`, the only one where none is named. Raises WeightsError for what is no encoder."""
    name = _choose_output(model.graph, output, path)
    part = ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    needed, kept = {name}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del graph.node[:], graph.output[:], graph.initializer[:], graph.input[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.output.extend(value for value in model.graph.output if value.name == name)
    constants = {tensor.name for tensor in graph.initializer}
    graph.input.extend(
        value for value in model.graph.input if value.name in needed and value.name not in constants
    )
    _check_operators(part, path)
    return _look(part, name, path)


def _choose_output(graph: GraphProto, output: str | None, path: Path) -> str:
    words = [value.name for value in (*graph.input, *graph.output)]
    words += [word for node in graph.node for word in (node.op_type, node.domain, *node.input, *node.output)]
    # protobuf gives bytes where a name is no UTF-8
    if not all(isinstance(word, str) and word.isprintable() for word in words):
        raise WeightsError(f"{path} has names that cannot be printed: it is damaged")
    known = {value.name: _shape(value) for value in graph.output}
    listed = ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in known.items())
    if output is None and len(known) > 1:
        raise WeightsError(f"{path} has several outputs: name one with --encoder-output, of {listed}")
    if output is not None and output not in known:
        raise WeightsError(f"--encoder-output {output}: {path} has {listed}")
    return output or next(iter(known), "")


def _check_operators(model: ModelProto, path: Path) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise WeightsError(
                f"{path} has the operator {node.domain}.{node.op_type}, which is not ONNX's own: export it"
                " without the optimisations of one runtime"
            )
        node.domain = ""
        if any(
            attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise WeightsError(
                f"{path} has the operator {node.op_type}, which decides as it runs: export it with"
                " torch.onnx.export(dynamo=True), or simplify it with onnxslim"
            )
        if node.op_type in REFUSED:
            raise WeightsError(f"{path} has the operator {node.op_type}, which {REFUSED[node.op_type]}")
    for tensor in _tensors(model):
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise WeightsError(
                f"{path} has weights of {TensorProto.DataType.Name(tensor.data_type).lower()}: give the"
                " float32 file, icgan-export bundle --precision makes it smaller"
            )


def _look(part: ModelProto, output: str, path: Path) -> Part:
    """The one input, and how pictures lie in it. Raises WeightsError where it takes no picture."""
    listed = ", ".join(f"{value.name} [{', '.join(map(str, _shape(value)))}]" for value in part.graph.input)
    if len(part.graph.input) != 1:
        found = f"of {listed}" if listed else "of nothing that is given to it"
        raise WeightsError(
            f"{path} makes {output} {found}: an encoder takes one picture; choose another --encoder-output,"
            " or export the part that sees pictures"
        )
    value = part.graph.input[0]
    kind, shape = value.type.tensor_type.elem_type, _shape(value)
    if kind != TensorProto.FLOAT or len(shape) != 4:
        of = next(
            (name for name, number in TensorProto.DataType.items() if number == kind), "no type"
        ).lower()
        raise WeightsError(
            f"{path} takes {listed} of {of}, pictures are [N, 3, S, S] or [N, S, S, 3] of float: export it so"
        )
    last = shape[3] == 3 and shape[1] != 3
    channels, sides = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    if isinstance(channels, int) and channels != 3:
        raise WeightsError(
            f"{path} takes {listed}, of {channels} channels: pictures have three, red, green, blue"
        )
    fixed = {size for size in sides if isinstance(size, int)}
    if len(fixed) > 1:
        raise WeightsError(f"{path} takes {listed}: pictures are square here, choose another encoder")
    batch = shape[0] if isinstance(shape[0], int) else None
    return Part(part, value.name, output, last, batch, fixed.pop() if fixed else None)


def _shape(value: ValueInfoProto) -> list[int | str]:
    """Sizes, or the names of those that are free."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def canonical(
    part: Part, side: int, rank: int, tokens: str | None, width: int, path: Path, evaluate: Evaluate
) -> bytes:
    """The graph that encoder files hold, for pictures of one side.

    rank: of the output; tokens: how it becomes one vector, "first", "mean", or None where it is one already.
    evaluate: runs a graph without inputs. Raises WeightsError where a graph of that form cannot be made.
    """
    model = ModelProto()
    model.CopyFrom(part.model)
    _set_input(model.graph, part, side, part.batch or BATCH_AXIS)
    try:
        if part.batch is not None:
            model = constants_folded(model, evaluate)
            free_batch(model, part.batch)
            _set_input(model.graph, part, side, BATCH_AXIS)
        model = _upgraded(onnx.compose.add_prefix(model, INSIDE))
        _put_ends(model.graph, part, side, rank, tokens, width)
        model = _bare(constants_folded(model, evaluate))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises many kinds, all of them about this graph
        why = (str(error).strip().splitlines() or [repr(error)])[0][:200]
        fixed = f"its batch is fixed at {part.batch}, " if part.batch is not None else ""
        raise WeightsError(
            f"{path} cannot be taken as it is ({fixed}{why}): export it with opset {OPSET} and a free batch"
        ) from error
    _check_known(model, path)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _set_input(graph: GraphProto, part: Part, side: int, batch: int | str) -> None:
    shape: list[str | int | None] = [batch, 3, side, side]
    if part.channels_last:
        shape = [batch, side, side, 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(part.pixels, TensorProto.FLOAT, shape))
    del graph.value_info[:]


def _upgraded(model: ModelProto) -> ModelProto:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model if opset >= OPSET else onnx.version_converter.convert_version(model, OPSET)


def _put_ends(graph: GraphProto, part: Part, side: int, rank: int, tokens: str | None, width: int) -> None:
    """`pixels` before the network's own input, `feature` behind its output."""
    given, found = f"{INSIDE}{part.pixels}", f"{INSIDE}{part.output}"
    before = helper.make_node("Identity", [PIXELS], [given])
    if part.channels_last:
        before = helper.make_node("Transpose", [PIXELS], [given], perm=[0, 2, 3, 1])

    def constant(name: str, values: int | Sequence[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    if tokens == "first":
        behind = helper.make_node("Gather", [found, constant("first", 0)], [FEATURE], axis=1)
    elif tokens == "mean":
        axes = constant("places", [1] if rank == 3 else [2, 3])
        behind = helper.make_node("ReduceMean", [found, axes], [FEATURE], keepdims=0)
    else:
        kind = "Identity" if rank == 2 else "Flatten"
        behind = helper.make_node(kind, [found], [FEATURE])
    nodes = [before, *graph.node, behind]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, [BATCH_AXIS, 3, side, side]))
    graph.output.append(helper.make_tensor_value_info(FEATURE, TensorProto.FLOAT, [BATCH_AXIS, width]))


def _bare(model: ModelProto) -> ModelProto:
    """The same network, nothing left of who made the file."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:]
    bare = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    for item in (*bare.graph.node, *bare.graph.initializer, *bare.graph.input, *bare.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    bare.graph.name, bare.graph.doc_string = "encoder", ""
    return bare


def _check_known(model: ModelProto, path: Path) -> None:
    """Raise WeightsError unless every shape is known once the batch is."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(onnxscript.optimizer.optimize(fixed), data_prop=True).graph
    known = {v.name for v in inferred.value_info if all(isinstance(size, int) for size in _shape(v))}
    known |= {v.name for v in inferred.output}
    for node in inferred.node:
        missing = [name for name in node.output if name and name not in known]
        if missing:
            raise WeightsError(
                f"{path}: how many numbers {node.op_type} {missing[0].removeprefix(INSIDE)} gives is not"
                " known before it runs: export it for pictures of one size"
            )


def check_stored(data: bytes, side: int, width: int, path: Path) -> None:
    """Raise WeightsError unless `data` is a graph as `canonical` makes it, for pictures of one side."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's
        raise WeightsError(f"{path}: its graph is damaged: prepare with the ONNX file again") from error
    _check_operators(model, path)
    ends = [(value.name, _shape(value)) for value in (*model.graph.input, *model.graph.output)]
    wanted = [(PIXELS, [BATCH_AXIS, 3, side, side]), (FEATURE, [BATCH_AXIS, width])]
    if ends != wanted or any(uses_external_data(tensor) for tensor in _tensors(model)):
        raise WeightsError(f"{path}: its graph is {ends}, expected {wanted}, all weights inside")
