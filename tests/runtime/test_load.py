import asyncio

import pytest

from icgan_runtime import load
from icgan_runtime.cli import main
from icgan_runtime.errors import RequestError, UnavailableError


def test_percentiles_are_latencies_that_were_seen():
    row = load.summary([number / 1000 for number in range(1, 101)], seconds=10, n=8, errors=2)
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"]) == pytest.approx((51, 91, 100))
    assert (row["requests_per_second"], row["images_per_second"]) == (10, 80)
    assert (row["requests"], row["errors"]) == (100, 2)


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


def test_no_time_to_measure_is_refused():
    with pytest.raises(RequestError, match="0 s at shares"):
        load.measure("grpc://localhost:1", b"", seconds=0)


def test_a_bad_picture_is_refused_before_the_server_is_asked(tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    assert main(["bench", "--url", "grpc://localhost:1", str(bad)]) == 1
    assert "not a JPEG" in capsys.readouterr().err
