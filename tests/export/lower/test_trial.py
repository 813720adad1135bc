"""What a lower precision is judged on, with graphs small enough to know the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from icgan_export.lower import trial
from icgan_export.lower.precision import MARGIN
from icgan_runtime.backends.ort import OrtSession


def pictures_of(matrix: NDArray[np.float32]) -> onnx.ModelProto:
    """noise [N, 3] @ matrix, as pictures [N, 3, 1, 1]: a generator without bytes."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["noise", "w"], ["flat"], "product"),
            helper.make_node("Reshape", ["flat", "shape"], ["image"], "turn"),
        ],
        "generator",
        [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 1, 1])],
        [
            numpy_helper.from_array(matrix, "w"),
            numpy_helper.from_array(np.array([-1, 3, 1, 1], np.int64), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def rows_run(monkeypatch) -> list[int]:
    """How many rows each run of a graph had."""
    seen: list[int] = []
    run = OrtSession.run

    def counted(self: OrtSession, feeds: Any) -> Any:
        seen.append(len(next(iter(feeds.values()))))
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", counted)
    return seen


def test_a_graph_is_given_up_at_its_first_rows_where_no_further_rows_can_save_it(rows_run):
    exact = pictures_of(np.eye(3, dtype=np.float32))
    judged = trial.picture_trial({"noise": np.ones((32, 3), np.float32)}, exact)
    assert sum(rows_run) == 32
    rows_run.clear()
    assert judged.loss(pictures_of(np.eye(3, dtype=np.float32) * 2), "int8") > MARGIN
    assert sum(rows_run) == trial.PART_ROWS
    rows_run.clear()
    assert judged.loss(exact, "int8") == 0
    assert sum(rows_run) == 32, "a graph that is taken was looked at on every row"


def test_the_loss_is_the_share_of_the_bound_over_all_rows():
    exact = pictures_of(np.eye(3, dtype=np.float32))
    noise = np.zeros((32, 3), np.float32)
    noise[31] = 1  # the only row that is drawn wrongly comes last
    judged = trial.picture_trial({"noise": noise}, exact)
    error = 0.05**2 / 32
    allowed = 4 * 10 ** (-trial.INT8_PSNR / 10)
    found = judged.loss(pictures_of(np.eye(3, dtype=np.float32) * 1.05), "int8")
    assert found == pytest.approx(error / allowed, rel=1e-3)


def test_an_encoder_is_as_good_as_its_worst_row_and_no_row_after_a_bad_one_is_asked(rows_run):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 4)).astype(np.float32)

    def encoder(scale: float) -> onnx.ModelProto:
        changed = matrix.copy()
        changed[:, 0] *= scale
        nodes = [
            helper.make_node("Cast", ["image"], ["x"], "cast", to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], "mean", keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["embedding"], "product"),
        ]
        graph = helper.make_graph(
            nodes,
            "encoder",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 2, 2, 3])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4])],
            [
                numpy_helper.from_array(changed, "w"),
                numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            ],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    pictures = rng.integers(0, 256, (20, 2, 2, 3), dtype=np.uint8)
    embeddings = trial.embeddings(encoder(1), pictures)
    judged = trial.encoder_trial(pictures, embeddings, encoder(1))
    rows_run.clear()
    assert judged.loss(encoder(1), "int8") == pytest.approx(0, abs=1e-4)
    assert sum(rows_run) == 20
    rows_run.clear()
    assert judged.loss(encoder(5), "int8") > MARGIN
    assert sum(rows_run) == trial.PART_ROWS
