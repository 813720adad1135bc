import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icgan_runtime.cli import main
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import SINGLE, VERSION, Claim, Source
from icgan_runtime.origin.ledger import START, append, verify

CLAIM = Claim(VERSION, Source("m", "1", "0" * 64), 1, 0, 1, 1.0, "query", None, SINGLE, None, (0.5,))


@pytest.fixture
def ledger(tmp_path) -> Path:
    path = tmp_path / "log" / "generated.jsonl"
    for number in range(4):
        append(path, CLAIM, bytes([number]))
    return path


def test_a_ledger_that_nobody_touched_is_whole(ledger):
    report = verify(ledger)
    assert (report.lines, report.broken, report.torn) == (4, None, False)
    assert main(["ledger", str(ledger)]) == 0


def test_lines_hold_no_embedding(ledger):
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert all(line["claim"]["embedding"] is None for line in lines)
    assert lines[0]["before"] == START


@pytest.mark.parametrize("change", ["edited", "removed", "swapped", "put in"])
def test_a_changed_ledger_is_broken_where_it_was_changed(ledger, change, capsys):
    lines = ledger.read_text().splitlines(keepends=True)
    if change == "edited":
        lines[1] = lines[1].replace('"seed":1', '"seed":2')
    elif change == "removed":
        del lines[1]
    elif change == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines.insert(2, lines[1])
    ledger.write_text("".join(lines))
    assert verify(ledger).broken in (2, 3)
    assert main(["ledger", str(ledger)]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_a_line_cut_short_by_a_kill_is_replaced_by_the_next(ledger):
    ledger.write_bytes(ledger.read_bytes()[:-30])
    assert verify(ledger).torn
    append(ledger, CLAIM, b"again")
    report = verify(ledger)
    assert (report.lines, report.broken, report.torn) == (4, None, False)


def test_a_writer_killed_at_work_leaves_a_ledger_that_goes_on(tmp_path):
    path = tmp_path / "generated.jsonl"
    code = (
        "import sys; sys.path.insert(0, 'runtime')\n"
        "from tests.runtime.origin.test_ledger import CLAIM, append, Path\n"
        f"while True: append(Path({str(path)!r}), CLAIM, b'x'); print('.', flush=True)"
    )
    root = Path(__file__).parents[3]
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    for _ in range(5):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    append(path, CLAIM, b"after")
    report = verify(path)
    assert report.lines >= 6
    assert report.broken is None


def test_another_file_is_not_written_into(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n")
    with pytest.raises(RequestError, match="no ledger"):
        append(path, CLAIM, b"x")
    assert path.read_text() == "shopping list\n"
