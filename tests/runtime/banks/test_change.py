"""A bank that changes while others read it: what is promised stays, what is removed goes, ids come once."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.banks.change import Writer, add, remove
from icgan_runtime.banks.compact import compact
from icgan_runtime.bundle.changes import LOG_NAME, Changes
from icgan_runtime.bundle.living import open_living
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BundleError, IcganError, RequestError
from icgan_runtime.search.living import Followed
from icgan_runtime.verify import verify_bundle

WIDTH = 12
ROOT = Path(__file__).parents[3]


@pytest.fixture
def bundle(copy_bundle, tiny_bundle) -> Path:
    """20 instances with names, labels and thumbnails; free to be changed."""
    return copy_bundle(tiny_bundle)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Unit rows like no others."""
    found = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def put(path: Path, embeddings: np.ndarray, where: str = "", name: str = "") -> list[int]:
    """Add embeddings, one record; their ids."""
    told: list[int] = []

    def make(living) -> Changes:
        count = len(embeddings)
        ids = living.next_id + np.arange(count)
        told[:] = ids.tolist()
        thumbnails = np.repeat(living.base.thumbnails[:1], count, axis=0)
        return Changes(
            ids, embeddings, np.zeros(count, np.int64), (name,) * count, thumbnails, np.empty(0, np.int64)
        )

    with Writer(path, where) as writer:
        writer.change(make)
    return told


def take(path: Path, *ids: int, where: str = "") -> str:
    """Remove instances; the state since."""
    with Writer(path, where) as writer:
        return str(remove(writer, ids, [])[1])


def ids_of(path: Path, state: str | None = None, where: str = "") -> list[int]:
    living, log = open_living(Bundle.open(path), where, state)
    log.close()
    return living.bank().ids.tolist()


def test_what_is_added_is_found_and_what_is_removed_is_not(bundle):
    new = rows(3)
    followed = Followed(Bundle.open(bundle), "numpy", str(bundle))
    assert followed.search().bank.ids.tolist() == list(range(20))
    assert put(bundle, new) == [20, 21, 22]
    ids, scores = followed.search()(new, 1)
    assert (ids[:, 0].tolist(), scores[:, 0].round(4).tolist()) == ([20, 21, 22], [1, 1, 1])
    gone, state = remove(Writer(bundle), [21, 4], [])
    search = followed.search()
    assert (gone, str(search.bank.state)) == ((21, 4), str(state))
    ids, _ = search(new, 21)
    assert not {21, 4} & set(ids.ravel().tolist())
    assert search.bank.ids.tolist() == [*range(4), *range(5, 21), 22]


def test_ids_are_given_once_also_after_a_compaction_and_to_a_copy_without_the_log(bundle):
    assert put(bundle, rows(2)) == [20, 21]
    remove(Writer(bundle), [20, 21], [])
    assert put(bundle, rows(1)) == [22]
    remove(Writer(bundle), [22], [])
    compact(bundle)
    (bundle / LOG_NAME).unlink()  # as icgan pull brings it
    assert put(bundle, rows(1)) == [23]


def test_a_change_that_has_no_room_names_the_log_and_leaves_none_behind(bundle):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Writer(bundle) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may grow: a full disk, or a quota
        try:
            with pytest.raises(RequestError, match=rf"{LOG_NAME} cannot be written \("):
                remove(writer, [3], [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not (bundle / LOG_NAME).exists()
        remove(writer, [3], [])
    assert ids_of(bundle) == [0, 1, 2, *range(4, 20)]


def test_an_answer_names_the_state_and_that_state_answers_again(bundle):
    picture = np.full((9, 9, 3), 90, np.uint8)
    with Pipeline.load(bundle) as pipe:
        query = pipe.embed([picture])
    put(bundle, query)
    with Pipeline.load(bundle) as pipe:
        then = pipe.generate(picture, n=2, condition="nearest", seed=3)
        assert then.source.state == then.bank_state == str(pipe.bank.state)
    assert then.neighbours.ids[0] == 20
    remove(Writer(bundle), [20], [])
    with Pipeline.load(bundle) as pipe:
        now = pipe.generate(picture, n=2, condition="nearest", seed=3)
    assert (now.images != then.images).any()
    with Pipeline.load(bundle, state=then.bank_state) as pipe:
        again = pipe.generate(picture, n=2, condition="nearest", seed=3)
    np.testing.assert_array_equal(again.images, then.images)
    assert again.source == then.source
    compact(bundle)
    with Pipeline.load(bundle) as pipe:
        stored = pipe.generate(picture, n=2, condition="nearest", seed=3)
    np.testing.assert_array_equal(stored.images, now.images)
    assert stored.source == now.source, "a compaction is no change"
    with pytest.raises(RequestError, match=r"state: '1-.*' is none of this bank: .* cannot come back"):
        Pipeline.load(bundle, state=then.bank_state)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (0, "0"), (0.5, "0.5")])
def test_a_row_that_is_no_embedding_is_refused_by_its_number(bundle, tmp_path, value, said):
    bad = rows(5)
    bad[3] = 0
    bad[3, 0] = value
    np.save(tmp_path / "rows.npy", bad)
    with Pipeline.load(bundle) as pipe, pytest.raises(RequestError, match=f"row 3 of .* has length {said}, "):
        list(add(Writer(bundle), pipe, [str(tmp_path / "rows.npy")], None, "0"))
    assert ids_of(bundle) == list(range(20))
    assert not (bundle / LOG_NAME).exists()


def test_a_refused_removal_removes_nothing(bundle):
    with pytest.raises(RequestError, match="id: 99 is not in the bank"):
        remove(Writer(bundle), [3, 99], [])
    with pytest.raises(RequestError, match="16 of 20 instances cannot go: 5 have to stay"):
        remove(Writer(bundle), list(range(16)), [])
    with pytest.raises(RequestError, match=r"name: x\.png is not in the bank"):
        remove(Writer(bundle), [3], ["x.png"])
    assert ids_of(bundle) == list(range(20))
    remove(Writer(bundle), [3], [])
    with pytest.raises(RequestError, match="id: 3 is not in the bank"):
        remove(Writer(bundle), [3], [])


def test_the_same_command_again_adds_only_what_is_missing(bundle, tmp_path):
    new, names = rows(6), tmp_path / "names.txt"
    np.save(tmp_path / "few.npy", new[:4])
    np.save(tmp_path / "all.npy", new)
    with Pipeline.load(bundle) as pipe:
        names.write_text("".join(f"{number}.png\n" for number in range(4)))
        list(add(Writer(bundle), pipe, [str(tmp_path / "few.npy")], names, "0"))
        remove(Writer(bundle), [21], [])
        names.write_text("".join(f"{number}.png\n" for number in range(6)))
        (done,) = add(Writer(bundle), pipe, [str(tmp_path / "all.npy")], names, "0")
    assert (done.names, done.ids) == (("1.png", "4.png", "5.png"), (24, 25, 26))
    assert done.known == ("0.png", "2.png", "3.png")


ADDER = """
import sys
from tests.runtime.banks.test_change import put, rows
for number in range(int(sys.argv[2])):
    ids = put(sys.argv[1], rows(2, seed=int(sys.argv[3]) + number))
    print(*ids, flush=True)
"""


def adder(bundle: Path, times: int, seed: int) -> subprocess.Popen[str]:
    """A process that adds two rows at a time and prints their ids when they are promised."""
    code = "from pathlib import Path\n" + ADDER.replace("sys.argv[1]", "Path(sys.argv[1])")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(bundle), str(times), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_processes_that_add_at_once_while_the_bank_is_compacted_lose_nothing(bundle):
    processes = [adder(bundle, 30, seed) for seed in (1000, 2000)]
    over = threading.Event()

    def compactions() -> None:
        while not over.is_set():
            compact(bundle)

    thread = threading.Thread(target=compactions)
    thread.start()
    printed = [process.communicate()[0] for process in processes]
    over.set()
    thread.join()
    assert [process.returncode for process in processes] == [0, 0]
    promised = [int(word) for text in printed for word in text.split()]
    assert sorted(promised) == list(range(20, 140)), "each id once"
    living, _ = open_living(Bundle.open(bundle))
    bank = living.bank()
    assert bank.ids.tolist() == list(range(140))
    for text, seed in zip(printed, (1000, 2000), strict=True):
        for number, line in enumerate(text.splitlines()):
            held = bank.embeddings[bank.rows(np.array([int(word) for word in line.split()]))]
            np.testing.assert_array_equal(held, rows(2, seed + number))


def test_what_was_promised_before_a_kill_is_there(bundle):
    for turn in range(4):
        process = adder(bundle, 10_000, 10_000 * turn)
        lines = [process.stdout.readline() for _ in range(3 + turn)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        whole = [line for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n")]
        promised = {int(word) for line in whole for word in line.split()}
        held = ids_of(bundle)
        assert promised <= set(held)
        assert len(set(held)) == len(held)
        assert len(held) % 2 == 0, "both rows of a record, or none"


def test_a_compaction_takes_the_bytes_of_what_was_removed_from_the_disk(bundle):
    new = rows(2)
    put(bundle, new, name="secret person.png")
    before = np.load(bundle / "bank" / "embeddings.npy")[7]
    remove(Writer(bundle), [20, 7], [])
    named = b"007.png"

    def found(needle: bytes) -> list[str]:
        return [
            str(path) for path in bundle.parent.rglob("*") if path.is_file() and needle in path.read_bytes()
        ]

    assert found(new[0].tobytes())
    compact(bundle)
    for gone in (new[0].tobytes(), before.tobytes(), named):
        assert found(gone) == []
    assert found(new[1].tobytes()), "what stays is there"
    assert all(check.passed for check in verify_bundle(Bundle.open(bundle)))
    assert ids_of(bundle) == [number for number in range(22) if number not in (7, 20)]
    assert compact(bundle) is None
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_who_follows_a_bundle_goes_on_through_its_compaction(bundle):
    followed = Followed(Bundle.open(bundle), "numpy", str(bundle))
    put(bundle, rows(1))
    followed.search()
    compact(bundle)
    new = rows(1, seed=5)
    put(bundle, new)
    assert followed.search()(new, 1)[0][0, 0] == 21
    put(bundle, rows(1, seed=6))
    remove(Writer(bundle), [2], [])
    compact(bundle)  # which holds what it has not seen
    search = followed.search()
    assert 2 not in search.bank.ids
    assert search.bank.ids.tolist() == ids_of(bundle)


def test_a_damaged_log_is_refused_and_one_that_was_cut_short_goes_on(bundle):
    log = bundle / LOG_NAME
    put(bundle, rows(1))
    first = log.stat().st_size
    put(bundle, rows(1, seed=1))
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    assert ids_of(bundle) == list(range(21)), "the second was never promised"
    log.write_bytes(whole[:first] + b"\0" * 4096)  # as a power cut may leave it
    assert ids_of(bundle) == list(range(21))
    assert put(bundle, rows(1, seed=2)) == [21]
    assert ids_of(bundle) == list(range(22))
    begins = whole.index(b"\n") + 1
    for place in (begins + 1, begins + 30, first - 40):
        broken = bytearray(whole)
        broken[place] ^= 1
        log.write_bytes(broken)
        with pytest.raises(
            BundleError, match=r"bank/changes.log: is damaged at byte \d+: take it from a backup"
        ):
            ids_of(bundle)
        with pytest.raises(BundleError, match="is damaged"):
            put(bundle, rows(1))
        assert log.read_bytes() == bytes(broken), "nothing that was promised is thrown away"


def test_a_log_of_another_bank_is_refused(bundle, tiny_bundle, bare_bundle, tmp_path):
    put(bundle, rows(1))
    other = tmp_path / "other"
    shutil.copytree(bare_bundle, other)
    shutil.copy(bundle / LOG_NAME, other / LOG_NAME)
    with pytest.raises(IcganError, match="is the log of another bank"):
        Pipeline.load(other)


def test_a_record_that_nobody_of_ours_wrote_is_refused(bundle):
    """With right hashes, as whoever can write into the folder can make them."""
    bad = rows(2)
    bad[1] = np.nan
    nothing, none = np.zeros(0, np.int64), np.zeros((0, WIDTH), np.float32)
    for ids, embeddings, removed in (([20, 21], bad, nothing), ([3], rows(1), nothing), ([], none, [55])):
        count = len(ids)
        living, log = open_living(Bundle.open(bundle))
        side = living.shape.thumbnail_size
        assert side is not None
        made = Changes(
            np.array(ids, np.int64),
            embeddings,
            np.zeros(count, np.int64),
            ("",) * count,
            np.zeros((count, side, side, 3), np.uint8),
            np.array(removed, np.int64),
        )
        log.append(living.state, functools.partial(lambda made, _: made, made))
        with pytest.raises(BundleError, match=r"bank/changes.log: (adds|gives|removes)"):
            open_living(Bundle.open(bundle))
        (bundle / LOG_NAME).unlink()
