"""A client at a port where something else listens says so in one line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.errors import IcganError

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
pytest.importorskip("tritonclient.http", reason="pip install 'icgan[triton]'")
from tests.runtime.stand_in import StandIn


class Silent(BaseHTTPRequestHandler):
    """A program that answers every path with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def ports(tiny_bundle) -> Iterator[dict[str, int]]:
    """Ports by what listens there."""
    page = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=page.serve_forever, args=(0.01,), daemon=True).start()
    with StandIn(tiny_bundle) as stand_in:
        urls = {"grpc": stand_in.grpc_url, "http": stand_in.http_url}
        yield {"page": page.server_port} | {name: int(url.rpartition(":")[2]) for name, url in urls.items()}
    page.shutdown()
    page.server_close()


def connect(kind: str, url: str) -> None:
    async def wait() -> None:
        await AsyncPipeline.connect(url, retries=0)

    if kind == "blocking":
        Pipeline.connect(url, retries=0)
    else:
        asyncio.run(wait())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize(
    ("scheme", "port", "words"),
    [
        ("http", "grpc", "what answers there is no HTTP; a server's port for gRPC is another"),
        ("http", "page", "what answers there does not speak as a Triton server"),
        ("grpc", "http", "nothing there speaks gRPC; a server's port for HTTP is another"),
        ("grpc", "page", "nothing there speaks gRPC; a server's port for HTTP is another"),
    ],
)
def test_a_wrong_port_is_named_in_one_line(ports, kind, scheme, port, words):
    url = f"{scheme}://127.0.0.1:{ports[port]}"
    with pytest.raises(IcganError) as caught:
        connect(kind, url)
    assert str(caught.value).startswith(f"{url}: {words}")
    assert "\n" not in str(caught.value)
