"""Clients and what stands before servers: an nginx with a private CA, client certificates, tokens and limits,
a proxy of the environment, a balancer that forgets idle connections. The server is the stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.errors import DeadlineError, IcganError, ServiceError, UnavailableError

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
pytest.importorskip("tritonclient.http", reason="pip install 'icgan[triton]'")
from icgan_runtime.client import triton
from tests.processes import listens, wait_until
from tests.runtime.stand_in import StandIn

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
TOKEN = {"Authorization": "Bearer secret"}
CONFIGURATION = """\
daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
  ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;
  server {{
    listen 127.0.0.1:{open} ssl; listen 127.0.0.1:{grpc} ssl http2;
    if ($http_authorization != "Bearer secret") {{ return 401; }}
    location / {{ proxy_pass {http_url}; }}
    location /inference. {{ grpc_pass {grpc_url}; }}
    location /small/ {{ client_max_body_size 100; proxy_pass {http_url}/; }}
    location /down/ {{ proxy_pass http://127.0.0.1:1/; }}
    location /late/ {{ return 504; }}
    location /page/ {{ return 500 "<head><style>p {{}}</style></head><p>no&nbsp;such\\nplace</p>"; }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """A private authority, and one certificate by it for both ends."""
    ca, server = folder / "ca", folder / "server"
    key = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout")
    run("openssl", "req", "-x509", "-subj", "/CN=icgan test", *key, f"{ca}.key", "-out", f"{ca}.pem")
    run("openssl", "req", "-subj", "/CN=localhost", *key, f"{server}.key", "-out", f"{server}.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    by = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-extfile", folder / "names")
    run("openssl", "x509", "-req", "-in", f"{server}.csr", *by, "-out", f"{server}.pem")


@pytest.fixture(scope="module")
def stand_in(tiny_bundle) -> Iterator[StandIn]:
    with StandIn(tiny_bundle) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def gateway(stand_in, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Addresses of an nginx that speaks TLS, wants our certificate and a token."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not both installed")
    folder = tmp_path_factory.mktemp("gateway")
    make_certificates(folder)
    ports = {"open": free_port(), "grpc": free_port()}
    urls = {"http_url": stand_in.http_url, "grpc_url": stand_in.grpc_url}
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, **ports, **urls))
    command = [program, "-c", folder / "nginx.conf", "-e", folder / "errors", "-g", "master_process off;"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_until(lambda: process.poll() is not None or listens(ports["grpc"]))
        if process.poll() is not None:
            pytest.skip(f"this nginx does not start: {process.stderr.read().decode()}")
        keys = {"certificate": folder / "server.pem", "key": folder / "server.key"}
        yield {
            "grpc": f"grpcs://localhost:{ports['grpc']}",
            "http": f"https://localhost:{ports['open']}",
            "options": {"ca": folder / "ca.pem", **keys, "headers": TOKEN},
        }
        process.terminate()


def generate(kind: str, url: str, **options: Any) -> np.ndarray:
    if kind == "blocking":
        with Pipeline.connect(url, **options) as pipe:
            return pipe.generate(PICTURE, n=2).images

    async def ask() -> np.ndarray:
        async with AsyncPipeline.connect(url, **options) as pipe:
            return (await pipe.generate(PICTURE, n=2)).images

    return asyncio.run(ask())


kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])
protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@kinds
@protocols
def test_a_gateway_with_a_private_authority_our_certificate_and_a_token_is_passed(
    kind, protocol, gateway, stand_in
):
    images = generate(kind, gateway[protocol], **gateway["options"])
    np.testing.assert_array_equal(images, stand_in.pipe.generate(PICTURE, n=2).images)


@kinds
@protocols
@pytest.mark.parametrize("missing", ["ca", "certificate", "headers"])
def test_without_one_of_them_the_connection_fails_with_one_line(kind, protocol, missing, gateway):
    options = {name: value for name, value in gateway["options"].items() if name != missing}
    if missing == "certificate":
        del options["key"]
    with pytest.raises(ServiceError) as caught:
        generate(kind, gateway[protocol], **options, retries=0, timeout_s=5)
    assert "\n" not in str(caught.value)
    assert gateway[protocol] in str(caught.value)


@kinds
@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/down", UnavailableError, r"status 502 from what stands before the server \(502 Bad Gateway nginx"),
        ("/late", DeadlineError, "status 504 from what stands before the server"),
        ("/page", ServiceError, r"status 500 from what stands before the server \(no&nbsp;such place\)$"),
    ],
)
def test_what_a_proxy_answers_in_the_servers_place_is_one_line_with_address_and_status(
    kind, path, error, words, gateway
):
    with pytest.raises(error, match=words) as caught:
        generate(kind, gateway["http"] + path, **gateway["options"], retries=0)
    assert str(caught.value).startswith(gateway["http"] + path)
    assert "\n" not in str(caught.value)


@kinds
def test_a_request_that_is_too_large_for_a_proxy_says_so(kind, gateway):
    with pytest.raises(ServiceError, match="; the request is larger than is allowed on the way"):
        generate(kind, gateway["http"] + "/small", **gateway["options"])


@kinds
@protocols
@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy", "all_proxy"])
def test_this_machine_is_reached_past_the_proxies_of_the_environment(
    kind, protocol, variable, stand_in, monkeypatch
):
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert len(generate(kind, stand_in.url(protocol), retries=0)) == 2


class Balancer:
    """Forwards connections until `forget()`: then it swallows what comes over those it has."""

    def __init__(self, target: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self.listener = socket.create_server((host, port))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        self.sockets: list[socket.socket] = []
        self.forgotten = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Of the connections there are now; new ones are forwarded."""
        self.forgotten.set()
        self.forgotten = threading.Event()

    def close(self) -> None:
        self.listener.close()
        for each in self.sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            try:
                theirs = socket.create_connection(self.target)
            except OSError:  # what it forwards to is gone
                ours.close()
                continue
            self.sockets += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(source, sink, self.forgotten), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, forgotten: threading.Event) -> None:
        with contextlib.suppress(OSError):  # a process that is killed resets its connections
            while data := source.recv(65536):
                if not forgotten.is_set():
                    sink.sendall(data)
        if not forgotten.is_set():
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def balancer(stand_in, protocol) -> Iterator[Balancer]:
    balancer = Balancer(stand_in.url(protocol))
    yield balancer
    balancer.close()


@protocols
@kinds
def test_the_request_after_a_missed_deadline_works(kind, protocol, balancer):
    url = f"{protocol}://127.0.0.1:{balancer.port}"
    if kind == "blocking":
        with Pipeline.connect(url, timeout_s=1) as pipe:
            pipe.generate(PICTURE)
            balancer.forget()
            with pytest.raises(IcganError) if protocol == "grpc" else contextlib.suppress(IcganError):
                pipe.generate(PICTURE)  # HTTP may have opened another connection, on which it works
            assert len(pipe.generate(PICTURE).images) == 1
        return

    async def ask() -> None:
        async with AsyncPipeline.connect(url, timeout_s=1) as pipe:
            await pipe.generate(PICTURE)
            balancer.forget()
            with pytest.raises(IcganError):
                await pipe.generate(PICTURE)
            assert len((await pipe.generate(PICTURE)).images) == 1

    asyncio.run(ask())


@protocols
@kinds
def test_a_connection_that_was_idle_for_long_is_not_trusted(kind, protocol, balancer, monkeypatch):
    """The first request after silence works at once, whatever became of the connection."""
    url = f"{protocol}://127.0.0.1:{balancer.port}"
    if kind == "blocking":
        with Pipeline.connect(url, timeout_s=20) as pipe:
            pipe.generate(PICTURE)
            before = balancer.connections
            pipe.generate(PICTURE)
            assert balancer.connections <= before + (protocol == "http")  # of another thread
            balancer.forget()
            monkeypatch.setattr(triton, "IDLE_S", 0)
            assert len(pipe.generate(PICTURE).images) == 1
        return

    async def ask() -> None:
        async with AsyncPipeline.connect(url, timeout_s=20) as pipe:
            await pipe.generate(PICTURE)
            before = balancer.connections
            await pipe.generate(PICTURE)
            assert balancer.connections == before
            balancer.forget()
            monkeypatch.setattr(triton, "IDLE_S", 0)
            assert len((await pipe.generate(PICTURE)).images) == 1

    asyncio.run(ask())


@kinds
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n<html>Log in</html>\n",
            ServiceError,
            "does not speak",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", ServiceError, "does not speak"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ServiceError, "does not speak"),
        (b"\0\0\x18\x04\0\0\0\0\0\0\x04\0@", UnavailableError, r"Expected HTTP/"),  # a port for gRPC
    ],
)
def test_what_is_no_server_at_all_is_one_line(kind, answer, error, words):
    """A page for logging in, of status 200; a port for metrics, or for the other protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as connection:
                        connection.recv(1 << 16)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(error, match=words) as caught:
            generate(kind, url, retries=0, timeout_s=20)
        assert str(caught.value).startswith(url)
        assert "\n" not in str(caught.value)
        listener.shutdown(socket.SHUT_RDWR)
