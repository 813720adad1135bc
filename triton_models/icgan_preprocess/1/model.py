"""Pictures of a request -> the encoder's input, each distinct picture once, and which one each row shows."""

from __future__ import annotations

import json
import warnings

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.errors import RequestError
from icgan_runtime.refusals import to_wire

# Pillow warns of every odd value in a stranger's EXIF: thousands of lines of the log for one picture, each of
# which Python would also keep for ever.
warnings.filterwarnings("ignore", module="PIL")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        outputs = {tensor["name"]: tensor["dims"] for tensor in json.loads(args["model_config"])["output"]}
        self.size = int(outputs["image"][0])
        # kept: a metric dies with the family object it came from
        self.family = pb_utils.MetricFamily(
            name="icgan_decode_failures_total",
            description="Requests refused because a picture could not be decoded",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self.failures = self.family.Metric(labels={})

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        files = pb_utils.get_input_tensor_by_name(request, "IMAGE")
        pixels = pb_utils.get_input_tensor_by_name(request, "PIXELS")
        given = pixels if files is None else files
        if given is None or (files is not None and pixels is not None):
            return _refusal(RequestError("image", "give either IMAGE or PIXELS"))
        name, array = "PIXELS" if files is None else "IMAGE", given.as_numpy()
        if array.ndim != (4 if files is None else 2):
            # the server takes away the row axis of a request that says 0 rows
            return _refusal(RequestError(name, f"{list(array.shape)}, expected rows"))
        try:
            rows = array if files is None else [_raw(file) for file in array[:, 0]]
            first: dict[bytes, int] = {}  # picture -> its position among the distinct ones
            row = [first.setdefault(_key(picture), len(first)) for picture in rows]
            distinct = [rows[row.index(position)] for position in range(len(first))]
            prepared = np.stack([images.load(picture, self.size) for picture in distinct])
        except RequestError as error:
            self.failures.increment(1)
            return _refusal(error, name)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("image", prepared),
                pb_utils.Tensor("ROW", np.array(row, np.int64)[:, None]),
            ]
        )


def _key(picture: bytes | NDArray[np.uint8]) -> bytes:
    return picture if isinstance(picture, bytes) else picture.tobytes()


def _raw(file: bytes) -> bytes:
    """The bytes of a picture file, also when they came as text: JSON has no other way to carry them."""
    return file if images.sniff(file) else images.from_text(file) or file


def _refusal(error: RequestError, tensor: str | None = None) -> pb_utils.InferenceResponse:
    failure = pb_utils.TritonError(to_wire(error, tensor), pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(error=failure)
