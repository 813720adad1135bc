"""Pictures of a request -> the encoder's input, each distinct picture once, with the rows that show it."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import images
from icgan_runtime.errors import RequestError
from icgan_runtime.server.stage import Requests

# Pillow warns of every odd value in a stranger's EXIF: thousands of lines of the log for one picture, each of
# which Python would also keep for ever.
warnings.filterwarnings("ignore", module="PIL")

# Decoding yields the processor to the stages after it: a flood of large photos delays nobody else's rows.
NICENESS = 5

# Of 16 MB, which Pillow keeps for the next picture: new memory costs a large photo as much as its decoding.
KEPT_BLOCKS = 8

Picture = bytes | NDArray[np.uint8]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        outputs = {tensor["name"]: tensor["dims"] for tensor in config["output"]}
        self.size = int(outputs["image"][0])
        parameters = {name: int(each["string_value"]) for name, each in config["parameters"].items()}
        self.classes = parameters["classes"]
        self.prepared = Prepared(self.size, parameters["kept_pictures"])
        self.requests = Requests(pb_utils)
        # kept: a metric dies with the family object it came from
        self.family = pb_utils.MetricFamily(
            name="icgan_decode_failures_total",
            description="Requests refused because a picture could not be decoded",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self.failures = self.family.Metric(labels={})
        os.nice(NICENESS)
        Image.core.set_blocks_max(KEPT_BLOCKS)  # type: ignore[attr-defined]

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> Any:
        files, pixels = (self.requests.tensor(request, name) for name in ("IMAGE", "PIXELS"))
        given = pixels if files is None else files
        if given is None or (files is not None and pixels is not None):
            return self.requests.refusal(RequestError("image", "give either IMAGE or PIXELS"))
        name = "PIXELS" if files is None else "IMAGE"
        if given.ndim != (4 if files is None else 2):
            # the server takes away the row axis of a request that says 0 rows
            return self.requests.refusal(RequestError(name, f"{list(given.shape)}, expected rows"))
        try:
            rows = self.requests.rows(request, self.classes)  # before a picture costs anything
        except RequestError as error:
            return self.requests.refusal(error)
        try:
            distinct, picture = distinct_pictures(given if files is None else raw_files(given[:, 0]))
            prepared = [self.prepared(each) for each in distinct]
        except RequestError as error:
            self.failures.increment(1)
            return self.requests.refusal(error, name)
        packed = np.array(rows.pack(picture, len(distinct)), dtype=object)[:, None]
        image = prepared[0][None] if len(prepared) == 1 else np.stack(prepared)
        return self.requests.answer({"image": image, "rows": packed})


class Prepared:
    """Prepares pictures for the encoder, and keeps the last `count` by the hash of their files."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self.kept: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()

    def __call__(self, picture: Picture) -> NDArray[np.uint8]:
        if not self.count or not isinstance(picture, bytes):
            return images.load(picture, self.size)
        key = hashlib.blake2b(picture, digest_size=32).digest()
        found = self.kept.pop(key, None)
        self.kept[key] = found = images.load(picture, self.size) if found is None else found
        if len(self.kept) > self.count:
            self.kept.popitem(last=False)
        return found


def distinct_pictures(rows: Sequence[Picture] | NDArray[np.uint8]) -> tuple[list[Picture], NDArray[np.int64]]:
    """The different ones in the order in which they come, and which one each row shows."""
    if len(rows) == 1:
        return [rows[0]], np.zeros(1, np.int64)
    first: dict[bytes, int] = {}  # picture -> its position among the distinct ones
    row = [first.setdefault(each if isinstance(each, bytes) else each.tobytes(), len(first)) for each in rows]
    return [rows[row.index(position)] for position in range(len(first))], np.array(row, np.int64)


def raw_files(column: NDArray[np.object_]) -> list[bytes]:
    """The file of each row; an empty one after the first shows what the row before it does."""
    found: list[bytes] = []
    for file in column:
        found.append(found[-1] if found and not file else _raw(file))
    return found


def _raw(file: bytes) -> bytes:
    """The bytes of a picture file, also when they came as text: JSON has no other way to carry them."""
    return file if images.sniff(file) else images.from_text(file) or file
