"""The lookup graph, which finds the nearest instances of a bank, and the same in numpy to hold it against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from icgan_export.errors import ExportError
from icgan_export.lower import onnx_export
from icgan_export.lower.onnx_export import BATCH_AXIS, OPSET, finish

IR_VERSION = 10
_QUERIES_AT_ONCE = 16  # one score for each and every instance of a million: 64 MB


def fits_graph(embeddings: NDArray[np.float32]) -> bool:
    """Whether one ONNX file holds a bank of [M, D] embeddings and their ids: 250,000 × 2048 fit."""
    return embeddings.nbytes + 8 * len(embeddings) <= 0.999 * onnx_export.MAX_PROTOBUF_BYTES


def lookup_graph(
    embeddings: NDArray[np.float32], ids: NDArray[np.int64], neighbours: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """`embedding` [N, D] -> the k nearest of the bank: `ids` int64 and `scores` float32, both [N, k].

    Rows are unit vectors, so the inner product ranks as cosine and Euclidean distance do. TopK prefers the
    lower index among equals, and the bank is stored in ascending order of id: ties go to the smaller id.
    Raises ExportError for a row with NaN or infinity: TopK lets one hide the true neighbours of every query.
    """
    finite = np.isfinite(np.einsum("nd,nd->n", embeddings, embeddings))
    if not finite.all():
        raise ExportError(
            f"row {int(finite.argmin())} of the bank holds NaN or infinity: embed its picture again"
        )
    order = np.argsort(ids, kind="stable")
    bank = np.ascontiguousarray(embeddings[order].T)  # [D, M]
    nodes = [
        helper.make_node("MatMul", ["embedding", "bank"], ["similarity"], "compare"),
        helper.make_node(
            "TopK", ["similarity", "k"], ["scores", "positions"], "nearest", axis=-1, largest=1, sorted=1
        ),
        helper.make_node("Gather", ["bank_ids", "positions"], ["ids"], "name_them", axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [BATCH_AXIS, bank.shape[0]])],
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [BATCH_AXIS, neighbours]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [BATCH_AXIS, neighbours]),
        ],
        [
            numpy_helper.from_array(bank, "bank"),
            numpy_helper.from_array(ids[order], "bank_ids"),
            numpy_helper.from_array(np.array([neighbours], np.int64), "k"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return finish(model, metadata)


def nearest(
    bank: NDArray[np.float32], ids: NDArray[np.int64], queries: NDArray[np.float32], neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same in numpy, the reference for the graph: ids and scores [Q, k], ties to the smaller id."""
    found_ids = np.empty((len(queries), neighbours), np.int64)
    found_scores = np.empty((len(queries), neighbours), np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        for row, scores in enumerate(queries[start : start + _QUERIES_AT_ONCE] @ bank.T, start):
            last = np.partition(scores, len(scores) - neighbours)[len(scores) - neighbours]
            best = np.flatnonzero(scores >= last)  # with all that tie for the last place
            best = best[np.lexsort((ids[best], -scores[best]))[:neighbours]]
            found_ids[row], found_scores[row] = ids[best], scores[best]
    return found_ids, found_scores
