"""How a server's stages refuse a request, and how a client reads that: `FIELD: problem` on the wire.

A field has the name of the wire's tensor in capitals; where the API calls it otherwise, the table says so.
"""

from __future__ import annotations

import re

from icgan_runtime.errors import DecodeError, RequestError

# Both tensors carry what the API calls a picture: its file, or its pixels.
_PICTURES = ("IMAGE", "PIXELS")

# What a stage says of a model that has too much to do; a queue of the server's own says the other.
OVERLOAD = re.compile("has no room for more requests|Exceeds maximum queue size")
_REFUSAL = re.compile(r"^(?:in ensemble '\w+', )?([A-Z_]+): (.*)$", re.DOTALL)


def to_wire(error: RequestError, tensor: str | None = None) -> str:
    """What a stage answers; `tensor` is the input at fault where the error's field does not say."""
    return f"{(tensor or error.field).upper()}: {error.problem}"


def no_room(model: str) -> str:
    """What a stage answers that may hand nothing more to `model`."""
    return f"{model} has no room for more requests now, try again later"


def from_wire(message: str) -> RequestError:
    """The error that a stage meant, in the words of the API."""
    found = _REFUSAL.match(message)
    if found is None:
        return RequestError("request", message)
    tensor, problem = found.groups()
    return DecodeError(problem) if tensor in _PICTURES else RequestError(tensor.lower(), problem)
