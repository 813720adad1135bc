"""Generated pixels -> picture files, for clients that want something to look at."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from icgan_runtime.chain import refuse_black_images
from icgan_runtime.errors import NumericsError, RequestError
from icgan_runtime.marks.mark import Mark, find_signer
from icgan_runtime.server.stage import Requests

# ";base64" as in a data URL: JSON cannot carry raw bytes
FORMATS = {f"image/{kind.lower()}": kind for kind in ("PNG", "JPEG", "WEBP")}

# This stage sees pixels alone: files say that they are generated, not from which seed.
MARK = Mark(None)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        find_signer()  # a key that cannot sign ends the start, not every request
        self.requests = Requests(pb_utils)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [_answer(request, self.requests) for request in requests]


def _answer(request: pb_utils.InferenceRequest, requests: Requests) -> Any:
    generated, wanted = (requests.given(request, name) for name in ("GENERATED", "FORMAT"))
    if generated.ndim != 4 or wanted.ndim != 2:
        # the server takes away the row axis of a request that says 0 rows
        return requests.refusal(RequestError("format", f"{list(wanted.shape)}, expected rows"))
    try:
        refuse_black_images("icgan_generator", generated)
    except NumericsError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
    pictures = []
    for pixels, name in zip(generated, wanted[:, 0], strict=True):
        kind, _, coding = name.decode(errors="replace").partition(";")
        if kind not in FORMATS or coding not in ("", "base64"):
            expected = f"{', '.join(FORMATS)}, each also with ;base64"
            return requests.refusal(RequestError("format", f"{name!r}, expected {expected}"))
        file = MARK.encode(pixels, FORMATS[kind])
        pictures.append(base64.b64encode(file) if coding else file)
    array = np.array(pictures, dtype=object)[:, None]
    return pb_utils.InferenceResponse([pb_utils.Tensor("PICTURE", array)])
