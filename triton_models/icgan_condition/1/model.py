"""Embeddings and neighbours of the distinct pictures, and the wishes of each row -> the generator's input.

Here U pictures become N rows: every tensor that comes from a picture is repeated for the rows that show it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RequestError
from icgan_runtime.refusals import to_wire
from icgan_runtime.rows import Rows, check_embedding
from icgan_runtime.search.novelty import SCORE_BUCKETS, outside_below

Array = NDArray[Any]
SCALARS = ("SEED", "SAMPLE", "TRUNCATION", "CONDITION")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = Bundle.open(f"{args['model_repository']}/{args['model_version']}")
        self.model = bundle.manifest.model
        self.bank = Bank.of_bundle(bundle)
        self.metrics = Metrics(outside_below(self.bank))
        self.max_rows = int(json.loads(args["model_config"])["parameters"]["max_rows"]["string_value"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            outputs = self._outputs(request)
        except RequestError as error:
            failure = pb_utils.TritonError(to_wire(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=failure)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])

    def _outputs(self, request: pb_utils.InferenceRequest) -> dict[str, Array]:
        scalars = {name.lower(): _tensor(request, name)[:, 0] for name in SCALARS}
        label = _tensor(request, "LABEL")[:, 0] if self.model.classes else None
        rows = Rows(**scalars, label=label)
        rows.check(self.model)
        embedding, ids, scores = (_tensor(request, name) for name in ("embedding", "ids", "scores"))
        check_embedding(embedding)
        row = self._row(request, len(embedding), len(rows.seed))
        if not len(embedding) == len(ids) == len(scores):
            raise RequestError("ids", f"{len(ids)} and {len(scores)} scores for {len(embedding)} pictures")
        if not np.isin(ids, self.bank.ids).all():
            raise RequestError("ids", "an instance that is not in the bank")
        if not np.isfinite(scores).all():  # one would spoil the metric for good
            raise RequestError("scores", "a number that is not finite")
        self.metrics.observe(scores[:, 0])
        embedding, ids = embedding[row], ids[row]
        outputs = {
            "noise": rows.noise(self.model),
            "conditioning": rows.conditioning(embedding, ids, self.bank),
            "EMBEDDING": embedding,
            "NEIGHBOUR_IDS": ids,
            "NEIGHBOUR_SCORES": scores[row],
        }
        if self.bank.labels is not None:
            outputs["NEIGHBOUR_LABELS"] = self.bank.labels[self.bank.rows(ids)]
        if label is not None:
            outputs["label"] = rows.labels(ids, self.bank)[:, None]
        return outputs

    def _row(self, request: pb_utils.InferenceRequest, pictures: int, rows: int) -> Array:
        """Which picture each row shows; checked, for this model can also be called on its own."""
        given = pb_utils.get_input_tensor_by_name(request, "ROW")
        row = np.arange(pictures) if given is None else given.as_numpy()[:, 0]
        if len(row) != rows or not 1 <= rows <= self.max_rows:
            raise RequestError("seed", f"{rows} rows for {len(row)} pictures, 1..{self.max_rows} are taken")
        if pictures > self.max_rows:
            raise RequestError("embedding", f"{pictures} rows, at most {self.max_rows} are taken")
        if row.min() < 0 or row.max() >= pictures:
            raise RequestError("row", f"{row.min()}..{row.max()}, expected 0..{pictures - 1}")
        return row


class Metrics:
    """How near the queries are to the bank, beside the server's own metrics."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        # kept: a metric dies with the family object it came from
        self.families = {
            "score": pb_utils.MetricFamily(
                name="icgan_nearest_score",
                description="Cosine similarity of each picture to its nearest stored instance",
                kind=pb_utils.MetricFamily.HISTOGRAM,
            ),
            "outside": pb_utils.MetricFamily(
                name="icgan_outside_bank_total",
                description="Pictures less similar to any stored instance than those are to each other",
                kind=pb_utils.MetricFamily.COUNTER,
            ),
        }
        self.score = self.families["score"].Metric(labels={}, buckets=list(SCORE_BUCKETS))
        self.outside = self.families["outside"].Metric(labels={})

    def observe(self, scores: Array) -> None:
        for score in scores:
            self.score.observe(float(score))
        outside = int((scores < self.limit).sum())
        if outside:  # a report waits for the server's answer under a lock that both share: no idle ones
            self.outside.increment(outside)


def _tensor(request: pb_utils.InferenceRequest, name: str) -> Array:
    """An input that the server gives with every request."""
    found = pb_utils.get_input_tensor_by_name(request, name)
    assert found is not None
    return found.as_numpy()
