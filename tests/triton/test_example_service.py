"""examples/python/service.py on a real web server, in front of the real Triton server."""

from __future__ import annotations

import io
import json
import runpy
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from icgan_runtime import Pipeline
from icgan_runtime.marks.mark import read_marks

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples/photos/oranges.jpg"
Post = Callable[..., tuple[int, str, bytes]]


class Announcing(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
def post(server, monkeypatch_session) -> Iterator[Post]:
    """Returns a function that posts a body to the service: status, content type and content."""
    monkeypatch_session.setenv("ICGAN_URL", server.grpc_url)
    app = runpy.run_path(str(ROOT / "examples/python/service.py"))["app"]
    web = Announcing(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=web.run)
    thread.start()
    assert web.ready.wait(60)
    port = web.servers[0].sockets[0].getsockname()[1]

    def post(path: str, body: bytes) -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body) as answer:
                return answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.headers["content-type"], refusal.read()

    yield post
    web.should_exit = True
    thread.join()


def test_a_picture_in_the_body_comes_back_as_a_sheet(post, tiny_bundle):
    status, kind, png = post("/generate?n=3&seed=5", PHOTO.read_bytes())
    assert (status, kind) == (200, "image/png")
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, n=3, seed=5, truncation=0.7).sheet()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), expected)
    marks = read_marks(png)
    assert marks.generated
    assert marks.claim is not None
    assert (marks.claim.seed, marks.claim.n, marks.claim.sheet.columns) == (5, 3, 2)


def test_neighbours_are_json(post, tiny_bundle):
    status, kind, answer = post("/search", PHOTO.read_bytes())
    assert (status, kind) == (200, "application/json")
    found = json.loads(answer)
    with Pipeline.load(tiny_bundle) as pipe:
        near = pipe.nearest(PHOTO)[0]
    assert found["ids"] == near.ids.tolist()
    assert found["scores"] == pytest.approx(near.scores.tolist(), abs=1e-6)
    assert (tuple(found["names"]), found["outside"]) == (near.names, near.outside)


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("n=3", b"no picture", "picture"),
        ("n=many", PHOTO.read_bytes(), "n"),
        ("n=17", PHOTO.read_bytes(), "n"),
        ("truncation=3", PHOTO.read_bytes(), "truncation"),
    ],
    ids=["no picture", "no number", "too many", "out of range"],
)
def test_a_bad_request_names_its_field(post, query, body, field):
    status, _, answer = post(f"/generate?{query}", body)
    assert (status, json.loads(answer)["error"].partition(":")[0]) == (422, field)


def test_a_body_that_is_too_large_is_refused_before_the_server_sees_it(post):
    status, _, answer = post("/search", bytes(17 << 20))
    assert (status, json.loads(answer)["error"]) == (422, "picture: more than 16777216 bytes")
