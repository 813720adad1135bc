"""A Triton server for one machine: start it on a model repository, watch it, stop it cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from icgan_runtime.errors import RequestError, ServiceError, UnavailableError
from icgan_runtime.marks.mark import KEY_VARIABLE, SOCKET_VARIABLE
from icgan_runtime.server.environment import Environment, assemble_backends

CONTROL_HEADER = "icgan-control"  # opens the restricted APIs of a server started here
LOOPBACK = "127.0.0.1"
GRACE_S = 5  # for the server to unload its models once no request is in flight

# What a request from anyone but the operator must not reach, in the server's own words.
RESTRICTED_APIS = "model-repository,logging,trace"

# "E1122 02:51:31.561161 9043 server.cc:241] " and what follows
_ERROR_LINE = re.compile(r"E\d{4} \S+ \d+ \S+\] ")

# What the server prints while all is well: its log, tables, and blank lines between them.
ORDINARY_LINE = re.compile(r"[EWIF]\d{4} |[+|]|\s*$")

# Past the proxies of the environment: they do not reach this machine's loopback, and would learn the key.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_UNLOADED = re.compile(r"successfully unloaded '(\w+)' version")


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    http: int
    grpc: int
    metrics: int


def free_ports() -> Ports:
    """Three ports nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(3)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True)
class ServerOptions:
    """How a server is started."""

    ports: Ports = field(default_factory=free_ports)
    host: str = LOOPBACK
    config_name: str | None = "cpu"  # <model>/configs/cpu.pbtxt where there is one, else config.pbtxt
    models: Sequence[str] = ("*",)  # loaded at start; others wait for an explicit load
    cache_mb: int = 0  # for answers of models with a response cache
    exit_timeout_s: int = 30  # how long requests in flight may take to finish after a stop
    control_key: str | None = None  # opens the restricted APIs; None: one that nobody else knows
    traces: str | None = None  # where an OpenTelemetry collector takes traces: http://host:4318/v1/traces
    trace_every: int = 1  # of so many requests one is traced
    sign_socket: Path | None = None  # where files are signed; the way to a key is then left to nobody


class Server:
    """A running tritonserver in explicit model-control mode; a context manager that stops it.

    `forward` receives every line the server logs. The last lines are kept for error messages.
    """

    def __init__(
        self,
        repository: Path,
        environment: Environment,
        options: ServerOptions | None = None,
        forward: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.options = options or ServerOptions()
        self.repository = repository
        _refuse_taken_ports(self.options)
        self._environment = environment
        self._forward = forward
        self._last_lines: deque[str] = deque(maxlen=200)
        self._idle = threading.Event()  # after a stop: no request is in flight any more
        self._log_changed = threading.Condition()
        self._unloaded: set[str] = set()  # models, as the log reports them
        self._token = self.options.control_key or secrets.token_urlsafe(24)
        self._scratch = Path(tempfile.mkdtemp(prefix="icgan-serve-"))
        try:
            self._process = subprocess.Popen(
                self._command(),
                env=_variables(environment, self.options.sign_socket) | {"TMPDIR": str(self._scratch)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone: we decide when the server stops
            )
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        self._reader = threading.Thread(target=self._read_log, name="tritonserver log", daemon=True)
        self._reader.start()

    @property
    def http_url(self) -> str:
        """`http://host:port`, as `Pipeline.connect` takes it."""
        return f"http://{self.options.host}:{self.options.ports.http}"

    @property
    def grpc_url(self) -> str:
        """`grpc://host:port`, as `Pipeline.connect` takes it."""
        return f"grpc://{self.options.host}:{self.options.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus scrapes."""
        return f"http://{self.options.host}:{self.options.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """The server's process id; its Python processes are its children."""
        return self._process.pid

    def wait_until_ready(self, timeout_s: float = 120) -> None:
        """Return once every model answers; ServiceError with the server's own words when it cannot start."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._clear_up()
                raise ServiceError(f"tritonserver {_end(self._process.returncode)}: {self._complaint()}")
            try:
                self.call("v2/health/ready", timeout_s=1)
            except ServiceError:
                time.sleep(0.05)
            else:
                return
        raise ServiceError(f"tritonserver was not ready after {timeout_s:g} s: {self._complaint()}")

    def call(self, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float = 30) -> bytes:
        """GET `path`, or POST `body` as JSON, allowed to use the restricted APIs. ServiceError if refused."""
        request = urllib.request.Request(
            f"{self.http_url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={CONTROL_HEADER: self._token},
        )
        try:
            with _DIRECTLY.open(request, timeout=timeout_s) as response:
                data: bytes = response.read()
                return data
        except urllib.error.HTTPError as error:
            raise ServiceError(f"{path}: {error.code} {_reason(error.read())}") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut short
            raise UnavailableError(f"{path}: {error}") from None

    def load(self, model: str) -> None:
        """Load `model`, or load it again when its files have changed."""
        self.call(f"v2/repository/models/{model}/load", {}, timeout_s=120)

    def unload(self, model: str) -> None:
        """Unload `model`; requests in flight finish first."""
        self.call(f"v2/repository/models/{model}/unload", {}, timeout_s=120)

    def wait(self) -> NoReturn:
        """Wait until the server ends by itself: ServiceError, for nobody asked it to."""
        status = self._process.wait()
        self._clear_up()
        raise ServiceError(f"tritonserver {_end(status)}{self._last_words()}")

    def stop(self) -> None:
        """Refuse new requests, let those in flight finish, end the server and its Python processes."""
        if self._process.poll() is None:
            self._drain()
            self._process.terminate()
            self._idle.wait(self.options.exit_timeout_s)
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:  # it waits in vain for a Python process that was killed
                self._process.kill()
                self._process.wait()
        self._clear_up()
        for region in Path("/dev/shm").glob(f"{self._scratch.name}*"):  # left by killed processes
            region.unlink(missing_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def stages(self) -> dict[int, str | None]:
        """The server's Python processes: process id -> model, None for a process that has died.

        UnavailableError when the server itself has ended.
        """
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            raise UnavailableError("tritonserver has ended") from None
        found: dict[int, str | None] = {}
        for child in children:
            try:
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            except OSError:  # gone since
                continue
            # "<stub> <repository>/<model>/<version>/<file> ..."; the server does not clear up after the dead
            found[int(child)] = Path(words[1]).parent.parent.name if len(words) > 1 else None
        return found

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _clear_up(self) -> None:
        """End the Python processes that a server leaves which goes while it loads, and read its last words.

        They would wait for it for ever, and hold its log open: where that has ended nobody is left, and the
        server's number may have become that of somebody else's processes.
        """
        if self._reader.is_alive():
            with contextlib.suppress(ProcessLookupError):  # the usual case: the last lines are still read
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join()

    def _drain(self) -> None:
        """Unload the ensembles and wait until their requests in flight are answered.

        Asked to end at once, the server would stop the composing models first, and refuse the remaining steps
        of the ensemble requests it is in the middle of.
        """
        configs = self.repository.glob("*/config.pbtxt")
        ensembles = {path.parent.name for path in configs if 'platform: "ensemble"' in path.read_text()}
        self._unloaded.clear()
        with contextlib.suppress(ServiceError):  # a server that cannot do this has nothing to finish
            for name in ensembles:
                self.unload(name)
            with self._log_changed:
                self._log_changed.wait_for(
                    lambda: ensembles <= self._unloaded or self._idle.is_set(), self.options.exit_timeout_s
                )

    def _command(self) -> list[str]:
        options = self.options
        # who is on this machine may pass pictures through memory, nobody else may have it mapped
        apis = RESTRICTED_APIS if options.host == LOOPBACK else f"{RESTRICTED_APIS},shared-memory"
        restricted = f"{apis}:{CONTROL_HEADER}={self._token}"
        command = [str(self._environment.server / "bin" / "tritonserver"), "--disable-auto-complete-config"]
        flags: dict[str, object] = {
            "model-repository": self.repository,
            "backend-directory": assemble_backends(self._environment, self._scratch / "backends"),
            "cache-directory": self._environment.server / "caches",
            "http-address": options.host,
            "http-port": options.ports.http,
            "grpc-address": options.host,
            "grpc-port": options.ports.grpc,
            "metrics-address": options.host,
            "metrics-port": options.ports.metrics,
            "http-restricted-api": restricted,
            "grpc-restricted-protocol": restricted,
            "model-control-mode": "explicit",
            "exit-timeout-secs": options.exit_timeout_s,
            "allow-gpu-metrics": "false",
        }
        if options.traces:
            opentelemetry = (f"url={options.traces}", "resource=service.name=icgan")
            settings = ["mode=opentelemetry", "level=TIMESTAMPS", f"rate={options.trace_every}"]
            settings += [f"opentelemetry,{setting}" for setting in opentelemetry]
            command += [f"--trace-config={setting}" for setting in settings]
        if options.cache_mb:
            flags["cache-config"] = f"local,size={options.cache_mb << 20}"
        if options.config_name:
            flags["model-config-name"] = options.config_name
        command += [f"--{name}={value}" for name, value in flags.items()]
        for backend in ("python", "onnxruntime"):  # names of shared memory apart from other servers'
            command.append(f"--backend-config={backend},shm-region-prefix-name={self._scratch.name}-")
        return command + [f"--load-model={model}" for model in options.models]

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if "Found 0 model versions that have in-flight inferences" in line:
                    self._idle.set()
                if gone := _UNLOADED.search(line):
                    with self._log_changed:
                        self._unloaded.add(gone[1])
                        self._log_changed.notify_all()
                self._last_lines.append(line.rstrip("\n"))
                self._forward(line.rstrip("\n"))
        with self._log_changed:
            self._idle.set()
            self._log_changed.notify_all()

    def _complaint(self) -> str:
        """The line that tells most about a failed start."""
        lines = list(self._last_lines)
        # no CUDA driver is normal here, and the last line only says that some model failed
        errors = [line for line in lines if _ERROR_LINE.match(line) and "CudaDriverHelper" not in line]
        return _ERROR_LINE.sub("", errors[0] if errors else lines[-1] if lines else "it said nothing")

    def _last_words(self) -> str:
        """What a server said that crashed: the first line after its last ordinary one, if there is any."""
        lines = [line for line in self._last_lines if line.strip()]
        ordinary = [number for number, line in enumerate(lines) if ORDINARY_LINE.match(line)]
        crash = lines[ordinary[-1] + 1 if ordinary else 0 :]
        return f": {crash[0].strip()}" if crash else ""


def _variables(environment: Environment, sign_socket: Path | None) -> dict[str, str]:
    """Under which the server starts, and with it every stage: a socket to sign through in place of a key."""
    variables = environment.variables()
    if sign_socket is not None:
        variables.pop(KEY_VARIABLE, None)
        variables[SOCKET_VARIABLE] = str(sign_socket)
    return variables


def _end(status: int) -> str:
    """How a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    hint = " (out of memory?)" if status == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{hint}"


def _refuse_taken_ports(options: ServerOptions) -> None:
    """Raise ServiceError for a port somebody else listens on: its readiness would pass for ours.

    RequestError for a number that is no port.
    """
    seen: dict[int, str] = {}
    for name, port in dataclasses.asdict(options.ports).items():
        if not 1 <= port <= 65535:
            raise RequestError(f"{name}-port", f"{port}, expected 1..65535")
        if port in seen:
            raise RequestError(f"{name}-port", f"{port} is the {seen[port]}-port, too; choose another one")
        seen[port] = name
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            try:
                attempt.bind((options.host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ServiceError(f"cannot listen on {options.host}:{port} ({error.strerror})") from None
                taken = f"port {port} of {options.host} is taken by another program; choose another one"
                raise ServiceError(taken) from None


def _reason(body: bytes) -> str:
    """The server's own words in an error response."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
