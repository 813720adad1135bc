"""A served bank that changes: the next request sees what was acknowledged, without a restart."""

from __future__ import annotations

import io
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from icgan_runtime.banks.change import Writer, remove
from icgan_runtime.banks.compact import compact
from icgan_runtime.bundle.changes import LOG_NAME
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import IcganError, RepositoryError, UnavailableError
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.repository import add_release, write_repository
from tests import postgres
from tests.runtime.banks.test_change import put, rows, take
from tests.triton.conftest import quiet
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import Wire
from tests.triton.wire import rows as wire_rows

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def served(start, bundle):
    """The bundle, served with its changes."""
    server = start(bundle, changes="bundle")
    yield server
    server.stop()


def test_the_next_request_sees_what_was_added_removed_and_compacted(served, bundle):
    with Pipeline.connect(served.grpc_url) as pipe, Pipeline.load(bundle) as before:
        query = pipe.embed([PHOTO])
        first = pipe.generate(PHOTO, n=2, condition="nearest")
        assert first.bank_state == before.generate(PHOTO).bank_state
        assert first.bank_state.startswith("0-")
        for turn in range(5):
            (number,) = put(bundle, query, name=f"{turn}.png")
            near = pipe.nearest(PHOTO)[0]
            assert (near.ids[0], near.title(0)) == (20 + turn, f"{turn}.png")
            result = pipe.generate(PHOTO, n=2, condition="nearest")
            with Pipeline.load(bundle, state=result.bank_state) as local:
                expected = local.generate(PHOTO, n=2, condition="nearest")
            np.testing.assert_array_equal(result.images, expected.images)
            assert result.source.state == expected.source.state == result.bank_state
            _, state = remove(Writer(bundle), [number], [])
            near = pipe.nearest(PHOTO)[0]
            assert (number in near.ids, near.bank_state) == (False, str(state))
            if turn % 2:
                compact(bundle)
        after = pipe.generate(PHOTO, n=2, condition="nearest")
    np.testing.assert_array_equal(after.images, first.images)
    assert after.bank_state.startswith("10-")


def test_a_file_of_a_server_claims_the_state_that_drew_it_and_is_proved_by_it(served, bundle):
    with Pipeline.load(bundle) as local:
        put(bundle, local.embed([PHOTO]))
    with Wire(served, "grpc") as wire:
        asked = {"IMAGE": [PHOTO], **wire_rows(1, SEED=[7], CONDITION=[1]), "FORMAT": [b"image/png"]}
        answer = wire.ask("icgan_file", asked)
    file = answer["PICTURE"][0, 0]
    claim = read_marks(file).claim
    assert claim.source.state == answer["BANK_STATE"][0, 0].decode()
    assert claim.source.bank is None
    put(bundle, rows(1))
    with Pipeline.load(bundle, state=claim.source.state) as then:
        drawn = then.generate(PHOTO, seed=7, truncation=0.7, condition="nearest").images[0]
    with Image.open(io.BytesIO(file)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_clients_under_way_while_the_bank_changes_are_all_answered_in_some_state(served, bundle):
    with Pipeline.load(bundle) as local:
        query = local.embed([PHOTO])
    over, wrong = threading.Event(), []
    answered = threading.Semaphore(0)

    def client() -> None:
        with Pipeline.connect(served.grpc_url) as pipe:
            while not over.is_set():
                near = pipe.nearest(PHOTO)[0]
                number = int(near.bank_state.partition("-")[0])
                # even states: nothing of ours is in the bank; odd ones: the last that was added is nearest
                expected = 20 + number // 2
                if (near.ids[0] == expected) != bool(number % 2):
                    wrong.append((number, near.ids.tolist()))
                answered.release()

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(25):
        (number,) = put(bundle, query)
        answered.acquire()
        remove(Writer(bundle), [number], [])
        if turn % 8 == 7:
            compact(bundle)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_log_that_cannot_be_read_sends_requests_away_instead_of_showing_what_was_removed(served, bundle):
    put(bundle, rows(1))
    with Pipeline.connect(served.grpc_url, retries=0) as pipe:
        pipe.nearest(PHOTO)
        log = bundle / LOG_NAME
        whole = log.read_bytes()
        log.unlink()
        with pytest.raises(IcganError, match=r"bank/changes.log: is gone"):
            pipe.nearest(PHOTO)
        log.write_bytes(whole)
        assert 20 in pipe.nearest(PHOTO, k=5)[0].ids or pipe.nearest(PHOTO)[0].bank_state.startswith("1-")


def test_a_repository_that_would_leave_changes_out_is_not_written(bundle, tmp_path):
    put(bundle, rows(1))
    for options in (RepositoryOptions(), RepositoryOptions(changes="bundle", search="graph")):
        with pytest.raises(RepositoryError, match="has 1 changes of its bank that would be left out"):
            write_repository(bundle, tmp_path / "out", options, quiet)
    write_repository(bundle, tmp_path / "out", RepositoryOptions(changes="bundle"), quiet)
    compact(bundle)
    assert "icgan_condition" in add_release(bundle, tmp_path / "out", quiet)
    write_repository(bundle, tmp_path / "frozen", RepositoryOptions(), quiet)
    assert Bundle.open(tmp_path / "frozen" / "icgan_condition" / "1").manifest.bank.count == 21


def test_servers_that_share_a_database_see_what_was_added_anywhere(start, environment, bundle):
    """The stage runs in the server's own Python, which needs psycopg, too."""
    if postgres.programs() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'icgan[postgres]'")
    if subprocess.run([environment.python, "-c", "import psycopg"], capture_output=True).returncode:
        pytest.skip("no psycopg in the server's environment: pip install 'icgan[postgres]' there")
    with postgres.running() as database:
        servers = [start(bundle, changes=database.address) for _ in range(2)]
        pipes = [Pipeline.connect(server.grpc_url, retries=0) for server in servers]
        query = pipes[0].embed([PHOTO])
        put(bundle, query, database.address)
        found = [pipe.nearest(PHOTO)[0] for pipe in pipes]
        assert [near.ids[0] for near in found] == [20, 20]
        state = take(bundle, 20, where=database.address)
        assert [pipe.nearest(PHOTO)[0].bank_state for pipe in pipes] == [state, state]
        database.kill()
        for pipe in pipes:
            with pytest.raises(UnavailableError, match="the database of changes"):
                pipe.nearest(PHOTO)
        database.start()
        assert [pipe.nearest(PHOTO)[0].bank_state for pipe in pipes] == [state, state]
        for pipe, server in zip(pipes, servers, strict=True):
            pipe.close()
            server.stop()
