import asyncio
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from icgan_runtime import images, load
from icgan_runtime.cli import main
from icgan_runtime.errors import RequestError, UnavailableError

PHOTO = Path(__file__).parents[1] / "golden" / "photo.jpg"


def test_percentiles_are_latencies_that_were_seen():
    row = load.summary([number / 1000 for number in range(1, 101)], seconds=10, n=8, errors=2)
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"]) == pytest.approx((50, 90, 99))
    assert (row["requests_per_second"], row["images_per_second"]) == (10, 80)
    assert (row["requests"], row["errors"]) == (100, 2)
    few = load.summary([0.003, 0.001, 0.002], seconds=1, n=1)
    assert (few["p50_ms"], few["p90_ms"], few["p99_ms"]) == pytest.approx((2, 3, 3))


def test_a_server_that_answers_nothing_is_all_errors():
    async def ask(n):
        raise UnavailableError("full")

    row = asyncio.run(load.poisson(ask, rate=1000, seconds=0.02))
    assert row["requests"] == 0
    assert row["errors"] > 0


def test_waiting_for_a_busy_server_counts_as_latency():
    turn = asyncio.Lock()

    async def ask(n):
        async with turn:
            await asyncio.sleep(0.005)

    row = asyncio.run(load.poisson(ask, rate=2000, seconds=0.02))  # ten times what it can answer
    assert row["p99_ms"] > 4 * 5


def test_saturation_keeps_every_client_busy():
    waiting = 0
    most = 0

    async def ask(n):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0)
        waiting -= 1

    asyncio.run(load.saturate(ask, 0.01, n=8, clients=3))
    assert most == 3


def test_a_bad_picture_is_refused_before_the_server_is_asked(tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    assert main(["bench", "--url", "grpc://localhost:1", str(bad)]) == 1
    assert "not a JPEG" in capsys.readouterr().err


def test_a_server_is_measured_under_the_four_scenarios(tiny_bundle):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    from tests.runtime.stand_in import StandIn

    lines: list[str] = []
    picture = PHOTO.read_bytes()
    with StandIn(tiny_bundle) as stand_in:
        report = load.measure(stand_in.http_url, picture, seconds=0.1, shares=(0.5,), progress=lines.append)
    assert list(report["scenarios"]) == ["SingleStream", "MultiStream", "Offline", "Server 50%"]
    assert (report["url"], report["model"], report["seconds"]) == (stand_in.http_url, "tiny", 0.1)
    for row, n in zip(report["scenarios"].values(), (1, 8, 8, 1), strict=True):
        assert row["images_per_second"] == pytest.approx(n * row["requests_per_second"])
        assert row["errors"] == 0
    assert all(
        report["scenarios"][name]["requests"] > 0 for name in ("SingleStream", "MultiStream", "Offline")
    )
    assert lines.pop(0) == f"route: triton server {stand_in.http_url}, HTTP (serves tiny)"
    assert lines[:3] == [f"{name}: 0.1 s" for name in ("SingleStream", "MultiStream", "Offline")]
    assert re.fullmatch(r"Server 50% of \d+\.\d requests/s: 0\.1 s", lines[3])
    assert "icgan_from_embedding" in stand_in.seen, "more than one sample a request"
    table = load.table(report).splitlines()
    assert [line.split()[0] for line in table] == [
        "scenario",
        "SingleStream",
        "MultiStream",
        "Offline",
        "Server",
    ]


def test_what_is_measured_is_asked_for_as_the_scenarios_say(monkeypatch):
    asked: list[int] = []
    pictures: set[bytes] = set()
    connected: list[object] = []
    reduced = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)

    class Pipe:
        model = SimpleNamespace(name="m", preprocessing=SimpleNamespace(size=4, crop="centre-short-side"))
        route = SimpleNamespace(to_json=lambda: {"backend": "triton"})

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            connected.append("closed")

        async def generate(self, picture, n):
            assert sorted(picture.reshape(-1, 3).tolist()) == sorted(reduced.reshape(-1, 3).tolist())
            pictures.add(picture.tobytes())
            asked.append(n)

    class Client:
        @staticmethod
        def connect(url, retries):
            connected.append((url, retries))
            return Pipe()

    runs: list[tuple[object, ...]] = []

    async def saturate(ask, seconds, n, clients=6):
        runs.append(("saturate", seconds, n, clients))
        await ask(n)
        return {"requests_per_second": 40.0}

    async def poisson(ask, rate, seconds):
        runs.append(("poisson", rate, seconds))
        return {}

    monkeypatch.setattr(load, "AsyncPipeline", Client)
    monkeypatch.setattr(load, "saturate", saturate)
    monkeypatch.setattr(load, "poisson", poisson)
    report = load.measure("grpc://here:1", images.encode(reduced))
    assert connected == [("grpc://here:1", 0), "closed"]
    assert asked == [1, 1, 8, 8, 1], "the first is not measured"
    assert len(pictures) == len(asked), "a server would compute one picture once for all that wait"
    assert runs == [
        ("saturate", 10, 1, 1),
        ("saturate", 10, 8, 1),
        ("saturate", 10, 8, 6),
        ("saturate", 2.5, 1, 6),
        ("poisson", 12, 10),
        ("poisson", 24, 10),
        ("poisson", 32, 10),
    ]
    assert report["route"] == {"backend": "triton"}
    assert list(report["scenarios"])[3:] == ["Server 30%", "Server 60%", "Server 80%"]


@pytest.mark.parametrize(
    ("seconds", "shares", "message"),
    [
        (0, (0.5,), "seconds: 0, expected more than 0"),
        (-1, (0.5,), "seconds: -1, expected more than 0"),
        (math.nan, (0.5,), "seconds: nan, expected more than 0"),
        (math.inf, (0.5,), "seconds: inf, expected more than 0"),
        (1, (), "shares: [], expected some, each more than 0"),
        (1, (0.5, 0), "shares: [0.5, 0], expected some, each more than 0"),
        (1, (-0.5,), "shares: [-0.5], expected some, each more than 0"),
    ],
)
def test_nothing_to_measure_is_refused(seconds, shares, message):
    with pytest.raises(RequestError) as caught:
        load.measure("grpc://localhost:1", b"", seconds=seconds, shares=shares)
    assert str(caught.value) == message


def test_requests_arrive_at_random_at_the_rate_and_one_by_one(monkeypatch):
    """Latency counts from when a request was due; the clock here moves only while somebody waits."""
    clock = SimpleNamespace(now=100.0)
    due: list[float] = []

    async def sleep(seconds):
        due.append(seconds)

    async def ask(n):
        assert n == 1
        clock.now += 0.5

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(load, "asyncio", SimpleNamespace(sleep=sleep, gather=asyncio.gather))
    row = asyncio.run(load.poisson(ask, rate=50, seconds=2))
    draw = random.Random(0)
    expected: list[float] = []
    while not expected or expected[-1] < 2:
        expected.append((expected[-1] if expected else 0) + draw.expovariate(50))
    assert row["requests"] == len(expected) == len(due)
    started_late = [max(0.0, moment - 0.5 * number) for number, moment in enumerate(expected)]
    assert due == pytest.approx(started_late)
    latencies = sorted(0.5 * (number + 1) - moment for number, moment in enumerate(expected))
    assert row["p50_ms"] == pytest.approx(1e3 * latencies[(len(latencies) - 1) // 2])
    assert row["requests_per_second"] == pytest.approx(len(expected) / (0.5 * len(expected)))


def test_clients_ask_until_the_time_is_over(monkeypatch):
    clock = SimpleNamespace(now=7.0)

    async def ask(n):
        assert n == 3
        clock.now += 0.25

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    row = asyncio.run(load.saturate(ask, 2, n=3, clients=1))
    assert (row["requests"], row["p50_ms"], row["p99_ms"]) == (8, 250, 250)
    assert (row["requests_per_second"], row["images_per_second"], row["errors"]) == (4, 12, 0)


def test_nothing_answered_is_zeros_and_the_table_says_so():
    row = load.summary([], seconds=2, n=8, errors=3)
    assert row == {
        "requests_per_second": 0,
        "images_per_second": 0,
        "p50_ms": 0,
        "p90_ms": 0,
        "p99_ms": 0,
        "requests": 0,
        "errors": 3,
    }
    other = {**row, "requests_per_second": 1234.56, "images_per_second": 9.87, "p50_ms": 1, "p90_ms": 22.222}
    assert load.table({"scenarios": {"Offline": row, "Server 30%": other}}).splitlines() == [
        "      scenario    req/s    img/s   p50 ms   p90 ms   p99 ms  errors",
        "       Offline      0.0      0.0     0.00     0.00     0.00       3",
        "    Server 30%   1234.6      9.9     1.00    22.22     0.00       3",
    ]
