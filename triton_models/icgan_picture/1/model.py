"""Generated pixels -> picture files, for clients that want something to look at.

All requests that wait are taken in together: threads make their files, and what is too much is sent away.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from icgan_runtime.bundle.strict_json import from_json
from icgan_runtime.chain import refuse_black_images
from icgan_runtime.errors import NumericsError, RequestError
from icgan_runtime.marks.claim import SINGLE, VERSION, Claim, Source
from icgan_runtime.marks.mark import Mark, find_signer
from icgan_runtime.rows import CONDITIONS, OWN_LABEL
from icgan_runtime.server.gate import Workers, weight
from icgan_runtime.server.stage import Requests, keep_to_the_end

# ";base64" as in a data URL: JSON cannot carry raw bytes
FORMATS = {f"image/{kind.lower()}": kind for kind in ("PNG", "JPEG", "WEBP")}

# Making files yields the processor to what is drawn next.
NICENESS = 5


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        find_signer()  # a key that cannot sign ends the start, not every request
        self.requests = Requests(pb_utils)
        folder = Path(args["model_repository"], args["model_version"])
        self.source: Source = from_json(Source, json.loads((folder / "source.json").read_bytes()), "source")
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: int(each["string_value"]) for name, each in given.items()}
        self.classes, self.max_rows = parameters["classes"], parameters["max_rows"]
        self.workers = Workers(parameters["threads"], parameters["max_queue"], NICENESS)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        begun = [self._begin(request) for request in requests]
        self.requests.report()
        return [each.result() if isinstance(each, Future) else each for each in begun]

    def finalize(self) -> None:
        self.workers.close()
        keep_to_the_end(self)

    def _begin(self, request: pb_utils.InferenceRequest) -> Any:
        """A thread's answer to come, or at once that there is no room."""
        if not self.workers.has_room:
            return self.requests.shed("icgan_picture")

        def work() -> Any:
            try:
                return _answer(request, self.requests, self._claims(request))
            except RequestError as error:
                return self.requests.refusal(error)
            except Exception as error:  # of one request alone: those beside it are answered
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

        rows = len(self.requests.given(request, "GENERATED"))
        return self.workers.submit(weight(rows, self.max_rows), work)

    def _claims(self, request: pb_utils.InferenceRequest) -> list[Claim] | None:
        """What each file says of its origin; None for a request of pixels alone."""
        if self.requests.tensor(request, "SEED") is None:
            return None
        rows = self.requests.rows(request, self.classes)
        labels = np.full(len(rows.seed), OWN_LABEL) if rows.label is None else rows.label
        source = self._source(request)
        return [
            Claim(
                version=VERSION,
                source=source,
                seed=int(rows.seed[row]),
                first=int(rows.sample[row]),
                n=1,
                truncation=None if np.isinf(rows.truncation[row]) else float(rows.truncation[row]),
                condition=CONDITIONS[rows.condition[row]],
                label=None if labels[row] == OWN_LABEL else int(labels[row]),
                sheet=SINGLE,
                embedding_sha256=None,
                embedding=None,
            )
            for row in range(len(rows.seed))
        ]

    def _source(self, request: pb_utils.InferenceRequest) -> Source:
        """What drew the images: the bundle, with its bank as it was served or as it has become since."""
        states = self.requests.tensor(request, "state")
        state = None if states is None else states[0, 0].decode(errors="replace")
        if state is None or state.startswith("0-") or state == self.source.state:
            return self.source
        return replace(self.source, bank=None, state=state)


def _answer(request: pb_utils.InferenceRequest, requests: Requests, claims: list[Claim] | None) -> Any:
    generated, wanted = (requests.given(request, name) for name in ("GENERATED", "FORMAT"))
    if generated.ndim != 4 or wanted.ndim != 2:
        # the server takes away the row axis of a request that says 0 rows
        return requests.refusal(RequestError("format", f"{list(wanted.shape)}, expected rows"))
    try:
        refuse_black_images("icgan_generator", generated)
    except NumericsError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
    if claims is not None and len(claims) != len(generated):
        return requests.refusal(RequestError("seed", f"{len(claims)} rows of {len(generated)} images"))
    pictures = []
    of_each: list[Claim | None] = list(claims) if claims else [None] * len(generated)
    for pixels, name, claim in zip(generated, wanted[:, 0], of_each, strict=True):
        kind, _, coding = name.decode(errors="replace").partition(";")
        if kind not in FORMATS or coding not in ("", "base64"):
            expected = f"{', '.join(FORMATS)}, each also with ;base64"
            return requests.refusal(RequestError("format", f"{name!r}, expected {expected}"))
        file = Mark(claim).encode(pixels, FORMATS[kind])
        pictures.append(base64.b64encode(file) if coding else file)
    array = np.array(pictures, dtype=object)[:, None]
    return pb_utils.InferenceResponse([pb_utils.Tensor("PICTURE", array)])
