"""An HTTP service of your own in front of a Triton server: Starlette and `AsyncPipeline`.

    icgan serve bundles/demo                                         # the server: http 8000, grpc 8001
    ICGAN_URL=grpc://localhost:8001 uvicorn --app-dir examples/python service:app --port 9000
    curl -sf --data-binary @photo.jpg 'http://localhost:9000/generate?n=4&seed=1' > sheet.png

One connection serves all requests: while one waits for the server, others are read and answered. What a
caller did wrong is answered with status 422 and the field's name, what the server could not do with 503.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from icgan_runtime import AsyncPipeline
from icgan_runtime.errors import RequestError, ServiceError

MAX_BYTES = 16 << 20  # of a picture
MAX_PICTURES = 16  # of one answer


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The connection, for as long as the service runs."""
    url = os.environ.get("ICGAN_URL", "grpc://localhost:8001")
    async with AsyncPipeline.connect(url) as app.state.pipe:
        yield


async def generate(request: Request) -> Response:
    """POST /generate?n=4&seed=0&truncation=0.7: the body is a picture file, the answer a PNG sheet."""
    n = number(request, "n", 4, int)
    if n > MAX_PICTURES:
        raise RequestError("n", f"{n}, expected 1..{MAX_PICTURES}")
    pipe: AsyncPipeline = request.app.state.pipe
    result = await pipe.generate(
        await body(request),
        n=n,
        seed=number(request, "seed", 0, int),
        truncation=number(request, "truncation", 0.7, float),
    )
    # marked as generated, and signed where ICGAN_SIGN_KEY or ICGAN_SIGN_SOCKET says by what
    return Response(result.encode(), media_type="image/png")


async def search(request: Request) -> Response:
    """POST /search: the instances nearest to the picture in the body, and whether none is like it."""
    pipe: AsyncPipeline = request.app.state.pipe
    near = (await pipe.nearest(await body(request)))[0]
    found = {"ids": near.ids.tolist(), "scores": near.scores.tolist(), "names": near.names}
    return JSONResponse({**found, "outside": near.outside})


async def body(request: Request) -> bytes:
    """The body, refused before it is held whole when it is too large."""
    held = bytearray()
    async for part in request.stream():
        held += part
        if len(held) > MAX_BYTES:
            raise RequestError("picture", f"more than {MAX_BYTES} bytes")
    return bytes(held)


def number(request: Request, name: str, default, kind):
    """A query parameter as a number."""
    text = request.query_params.get(name, default)
    try:
        return kind(text)
    except ValueError:
        raise RequestError(name, f"{text!r}, expected a number") from None


async def refuse(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422 if isinstance(error, RequestError) else 503)


app = Starlette(
    routes=[Route("/generate", generate, methods=["POST"]), Route("/search", search, methods=["POST"])],
    exception_handlers={RequestError: refuse, ServiceError: refuse},
    lifespan=lifespan,
)
