"""Generated pixels -> picture files, for clients that want something to look at."""

import base64

import numpy as np
import triton_python_backend_utils as pb_utils

from icgan_runtime import images
from icgan_runtime.chain import refuse_black_images
from icgan_runtime.errors import NumericsError, RequestError
from icgan_runtime.refusals import to_wire

# ";base64" as in a data URL: JSON cannot carry raw bytes
FORMATS = {f"image/{kind.lower()}": kind for kind in ("PNG", "JPEG", "WEBP")}


class TritonPythonModel:
    def execute(self, requests):
        return [_answer(request) for request in requests]


def _answer(request):
    generated = pb_utils.get_input_tensor_by_name(request, "GENERATED").as_numpy()
    wanted = pb_utils.get_input_tensor_by_name(request, "FORMAT").as_numpy()
    if generated.ndim != 4 or wanted.ndim != 2:
        # the server takes away the row axis of a request that says 0 rows
        return _refusal(f"{list(wanted.shape)}, expected rows")
    try:
        refuse_black_images("icgan_generator", generated)
    except NumericsError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
    pictures = []
    for pixels, name in zip(generated, wanted[:, 0], strict=True):
        kind, _, coding = name.decode(errors="replace").partition(";")
        if kind not in FORMATS or coding not in ("", "base64"):
            return _refusal(f"{name!r}, expected {', '.join(FORMATS)}, each also with ;base64")
        file = images.encode(pixels, FORMATS[kind])
        pictures.append(base64.b64encode(file) if coding else file)
    array = np.array(pictures, dtype=object)[:, None]
    return pb_utils.InferenceResponse([pb_utils.Tensor("PICTURE", array)])


def _refusal(problem):
    message = to_wire(RequestError("format", problem))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
