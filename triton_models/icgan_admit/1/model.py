"""Picture files -> the same files, or UNAVAILABLE at once where there is no room for them.

The stage behind, icgan_preprocess, takes in all that waits and is away until it is decoded: what comes
meanwhile would learn only then that there is no room. This one is never away.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime.server.gate import Gate, shared_marks
from icgan_runtime.server.photos import PROBE_ID, load_of_files, photo_room
from icgan_runtime.server.stage import Requests, keep_to_the_end


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: int(each["string_value"]) for name, each in config["parameters"].items()}
        self.size, self.classes = parameters["size"], parameters["classes"]
        self.room = parameters["max_queue"]
        self.requests = Requests(pb_utils)
        probe = self.requests.probe(
            args["model_repository"], "icgan_preprocess", "image", self._probe_rows, PROBE_ID
        )
        room = photo_room(parameters["decoders"], self.room)
        self.decoding = Gate(room, probe, shared_marks("icgan_preprocess"))  # which says what it has done
        # counted by icgan_preprocess, which hands over to the encoder
        self.encoding = shared_marks("icgan_encoder")

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        answers = [self._answer(request) for request in requests]
        self.requests.report()
        return answers

    def finalize(self) -> None:
        self.decoding.close()
        self.encoding.close()
        keep_to_the_end(self)

    def _answer(self, request: pb_utils.InferenceRequest) -> Any:
        if self.encoding.unconfirmed >= self.room:
            return self.requests.shed("icgan_encoder")
        tensor = pb_utils.get_input_tensor_by_name(request, "IMAGE")
        assert tensor is not None
        load = load_of_files(tensor.as_numpy().ravel().tolist())
        if load:
            if not self.decoding.has_room:
                return self.requests.shed("icgan_preprocess")
            self.decoding.enter(load)
        return pb_utils.InferenceResponse([tensor])

    def _probe_rows(self) -> dict[str, NDArray[Any]]:
        """A row of which nothing is computed."""
        row: dict[str, NDArray[Any]] = {
            "PIXELS": np.zeros((1, self.size, self.size, 3), np.uint8),
            "SEED": np.zeros((1, 1), np.int64),
            "SAMPLE": np.zeros((1, 1), np.int64),
            "TRUNCATION": np.ones((1, 1), np.float32),
            "CONDITION": np.zeros((1, 1), np.int32),
        }
        return row | ({"LABEL": np.zeros((1, 1), np.int64)} if self.classes else {})
