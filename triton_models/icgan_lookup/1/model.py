"""Embeddings -> ids and scores of the nearest instances, with faiss; all waiting requests in one search."""

from __future__ import annotations

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RequestError
from icgan_runtime.refusals import to_wire
from icgan_runtime.rows import check_embedding
from icgan_runtime.search.choose import choose_search

Embeddings = NDArray[np.float32]  # [N, D]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = Bundle.open(f"{args['model_repository']}/{args['model_version']}")
        self.k = bundle.manifest.bank.neighbours
        wanted = json.loads(args["model_config"])["parameters"]["search"]["string_value"]
        self.search = choose_search(Bank.of_bundle(bundle), wanted)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        parts = [_embedding(request) for request in requests]
        refusals = [_refusal(part) for part in parts]
        good = [part for part, refusal in zip(parts, refusals, strict=True) if refusal is None]
        found = iter(self._find(good) if good else ())
        return [next(found) if refusal is None else refusal for refusal in refusals]

    def _find(self, parts: list[Embeddings]) -> list[pb_utils.InferenceResponse]:
        ids, scores = self.search(np.concatenate(parts), self.k)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("ids", i), pb_utils.Tensor("scores", s)])
            for i, s in zip(np.split(ids, ends), np.split(scores, ends), strict=True)
        ]


def _embedding(request: pb_utils.InferenceRequest) -> Embeddings:
    found = pb_utils.get_input_tensor_by_name(request, "embedding")
    assert found is not None
    return found.as_numpy()


def _refusal(embedding: Embeddings) -> pb_utils.InferenceResponse | None:
    """Of one request alone: a search with a stranger's NaN in it would fail those beside it."""
    try:
        if embedding.ndim != 2:  # the server takes away the row axis of a request that says 0 rows
            raise RequestError("embedding", f"{list(embedding.shape)}, expected rows")
        check_embedding(embedding)
    except RequestError as error:
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(to_wire(error), pb_utils.TritonError.INVALID_ARG)
        )
    return None
