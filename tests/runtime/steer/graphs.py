"""Tiny scorers as ONNX files, built with onnx.helper, and a tokenizer of a few words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS = ["[PAD]", "[UNK]", "red", "green", "blue", "a", "picture"]


def _save(path: Path, nodes, inputs, outputs, constants=(), metadata=()) -> Path:
    held = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return path


def redness_of_pixels(path: Path, width: int = 1) -> Path:
    """uint8 [N, H, W, 3] -> [N, width]: mean red less mean blue, in grey levels."""
    weight = np.repeat(np.array([[1], [0], [-1]], np.float32), width, axis=1)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["score"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", width])
    constants = {"axes": np.array([1, 2]), "weight": weight}
    return _save(path, nodes, [image], [score], constants)


def means_of_pixels(path: Path) -> Path:
    """uint8 [N, H, W, 3] -> features [N, 3]: the mean of each channel in grey levels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["features"], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])
    return _save(path, nodes, [image], [features], {"axes": np.array([1, 2])})


def mean_of_floats(path: Path, side: int | str = 4, name: str = "score", metadata=(), batch="N") -> Path:
    """float32 [N, 3, side, side] -> [N, 3]: the mean of each channel as the graph sees it."""
    nodes = [helper.make_node("ReduceMean", ["pixels", "axes"], [name], keepdims=0)]
    image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, side, side])
    score = helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3])
    return _save(path, nodes, [image], [score], {"axes": np.array([2, 3])}, metadata)


def colour_words(path: Path, width: int = 3) -> Path:
    """input_ids [N, L] -> text_embeds [N, width]: the sum of the words' colours, nothing for other words."""
    table = np.zeros((len(WORDS), width), np.float32)
    table[2:5] = 2 * np.eye(3, width) - 1 / 2
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["text_embeds"], keepdims=0),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "L"])
    embeds = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["N", width])
    return _save(path, nodes, [ids], [embeds], {"table": table, "axes": np.array([1])})


def tokenizer(path: Path) -> Path:
    """A tokenizer.json that splits at spaces."""
    model = {
        "type": "WordLevel",
        "vocab": {word: number for number, word in enumerate(WORDS)},
        "unk_token": "[UNK]",
    }
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"},
                "post_processor": None,
                "decoder": None,
                "model": model,
            }
        )
    )
    return path
