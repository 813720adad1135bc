"""A bank's changes in a real PostgreSQL: what several servers share, and what a killed database has kept."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from icgan_runtime.banks.compact import compact
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BundleError, MissingExtraError, RequestError, UnavailableError
from icgan_runtime.search.living import Followed
from tests import postgres
from tests.runtime.banks.test_change import ids_of, put, rows, take

pytest.importorskip("psycopg", reason="pip install 'icgan[postgres]'")


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Database]:
    """A server of its own; without PostgreSQL the tests are skipped."""
    if postgres.programs() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with postgres.running() as database:
        yield database


@pytest.fixture
def bundle(database, copy_bundle, tiny_bundle) -> Path:
    """A bundle whose changes nobody has made yet."""
    import psycopg

    with psycopg.connect(database.address, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS icgan_banks, icgan_changes")
    return copy_bundle(tiny_bundle)


@pytest.fixture
def follow(database) -> Iterator[Callable[[Path], Followed]]:
    """Returns a function that follows a bundle's bank as a server does."""
    with ExitStack() as opened:

        def follow(path: Path) -> Followed:
            found = Followed(Bundle.open(path), "numpy", database.address)
            opened.callback(found.close)
            return found

        yield follow


def test_servers_on_copies_of_a_bundle_see_what_any_of_them_was_told(database, bundle, tmp_path, follow):
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    servers = [follow(path) for path in (bundle, other)]
    new = rows(2)
    assert put(bundle, new, database.address) == [20, 21]
    for server in servers:
        assert server.search()(new, 1)[0][:, 0].tolist() == [20, 21]
    state = take(other, 20, 3, where=database.address)
    for server in servers:
        search = server.search()
        assert str(search.bank.state) == state
        assert not {20, 3} & set(search(new, 19)[0].ravel().tolist())
    assert put(other, rows(1, seed=9), database.address) == [22]


def _add(arguments: tuple[Path, str, int]) -> list[int]:
    path, address, seed = arguments
    return [number for turn in range(15) for number in put(path, rows(2, seed + turn), address)]


def test_writers_at_once_give_each_id_once(database, bundle):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_add, [(bundle, database.address, 100 * place) for place in range(3)])
    assert sorted(number for each in found for number in each) == list(range(20, 110))
    assert ids_of(bundle, where=database.address) == list(range(110))


def test_what_a_killed_database_acknowledged_is_there_and_servers_go_on(database, bundle, follow):
    server = follow(bundle)
    put(bundle, rows(1), database.address)
    server.search()
    database.kill()
    with pytest.raises(UnavailableError, match="the database of changes: "):
        server.search()
    with pytest.raises(UnavailableError):
        put(bundle, rows(1), database.address)
    database.start()
    assert server.search().bank.ids.tolist() == list(range(21))
    put(bundle, rows(1, seed=1), database.address)
    assert server.search().bank.ids.tolist() == list(range(22))


def test_a_compaction_keeps_changes_for_older_releases_until_it_is_told_to_forget(
    database, bundle, tmp_path, follow
):
    older = Path(shutil.copytree(bundle, tmp_path / "older"))
    new = rows(2)
    put(bundle, new, database.address)
    take(bundle, 21, where=database.address)
    assert compact(bundle, database.address, keep=True) is not None
    served = follow(older)
    put(bundle, rows(1, seed=3), database.address)
    ids = [number for number in range(23) if number != 21]
    assert served.search().bank.ids.tolist() == ids, "of an older release, whose log begins before"
    assert ids_of(bundle, where=database.address) == ids
    assert database.files_with(new[1].tobytes()), "as test_... needs something to find"
    compact(bundle, database.address)
    put(bundle, rows(1, seed=4), database.address)
    assert ids_of(bundle, where=database.address) == [*ids, 23]
    with pytest.raises(BundleError, match=r"begins at change \d+, after state 0-.*: compacted since"):
        ids_of(older, where=database.address)
    remains = [name for name in database.files_with(new[1].tobytes()) if "pg_wal" not in name]
    assert remains == [], "but for the write-ahead log, which PostgreSQL overwrites in time"


def test_an_address_of_something_else_is_refused(bundle, monkeypatch):
    with pytest.raises(RequestError, match="changes: 'mysql://a/b', expected postgresql://HOST/DATABASE"):
        ids_of(bundle, where="mysql://a/b")
    monkeypatch.setitem(__import__("sys").modules, "icgan_runtime.bundle.shared_log", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'icgan\[postgres\]'"):
        ids_of(bundle, where="postgresql://a/b")
