"""Traces of requests, as a collector of OpenTelemetry receives them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from icgan_runtime import Pipeline
from icgan_runtime.server.models import CANARY_MODEL
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import ServerOptions
from icgan_runtime.server.repository import write_repository
from icgan_runtime.server.serve_bundle import serve_repository
from tests.triton.conftest import quiet
from tests.triton.test_icgan import PHOTO

STAGES = ("icgan_preprocess", "icgan_encoder", "icgan_condition", "icgan_generator")


class Collector(http.server.ThreadingHTTPServer):
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[dict[str, Any]] = []
        self.came = threading.Condition()

    def wait_for(self, name: str, count: int) -> list[dict[str, Any]]:
        """All spans, once `count` of this name are there."""
        with self.came:
            assert self.came.wait_for(
                lambda: [span["name"] for span in self.spans].count(name) >= count, timeout=60
            ), [span["name"] for span in self.spans]
            return list(self.spans)


class Receiver(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.came:
            for resource in sent["resourceSpans"]:
                attributes = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
                assert attributes["service.name"] == {"stringValue": "icgan"}
                for scope in resource["scopeSpans"]:
                    self.server.spans += scope["spans"]
            self.server.came.notify_all()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True).start()
        yield collector
        collector.shutdown()


def test_every_stage_of_a_request_is_in_the_callers_trace_and_the_watchdogs_requests_are_in_none(
    environment, collector, tiny_bundle, tmp_path
):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    write_repository(tiny_bundle, tmp_path / "repository", RepositoryOptions(), quiet)
    options = ServerOptions(traces=f"http://127.0.0.1:{collector.server_port}/v1/traces")
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{caller}-01"}
    with serve_repository(tmp_path / "repository", options, "error", quiet) as server:
        canary = json.loads((server.repository / "canary.json").read_text())
        server.call(f"v2/models/{CANARY_MODEL}/generate", canary)
        with Pipeline.connect(server.http_url, headers=headers, prepare="server") as pipe:
            pipe.generate(PHOTO, n=2)
        spans = collector.wait_for("icgan", 1)
    assert CANARY_MODEL not in {span["name"] for span in spans}
    by_name = {span["name"]: span for span in spans if span["traceId"] == trace}
    assert {"InferRequest", "icgan", *STAGES} <= set(by_name)
    assert by_name["InferRequest"]["parentSpanId"] == caller
    for name in STAGES:
        assert by_name[name]["parentSpanId"] == by_name["icgan"]["spanId"]
        assert int(by_name[name]["endTimeUnixNano"]) > int(by_name[name]["startTimeUnixNano"])
    starts = [int(by_name[name]["startTimeUnixNano"]) for name in STAGES]
    assert starts == sorted(starts)
