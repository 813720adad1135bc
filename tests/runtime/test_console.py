"""What long work says of its progress."""

from __future__ import annotations

import io
import re

import pytest

from icgan_runtime.console import Parser, Progress, span


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_at_the_end_of_short_work():
    stream = io.StringIO()
    with Progress("synthesize", "variants", 3000, stream=stream) as progress:
        for _ in range(3):
            progress.advance(1000)
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(r"synthesize: 3,000 of 3,000 variants, [\d,.]+/s, 0 s left", line)


def test_work_that_was_done_before_does_not_count_for_the_rate():
    progress = Progress("synthesize", "variants", 100, done=90, stream=io.StringIO())
    assert progress.line() == "synthesize: 90 of 100 variants, 0.0/s"


def test_a_terminal_keeps_one_line_that_ends_when_the_work_does():
    stream = Terminal()
    with Progress("synthesize", "variants", 2, stream=stream) as progress:
        progress.advance(2)
    assert stream.getvalue().startswith("\r")
    assert stream.getvalue().endswith("0 s left\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7261, "2 h 1 min"), (200_000, "2 d 7 h")],
)
def test_a_length_of_time_has_its_two_largest_units(seconds, words):
    assert span(seconds) == words


def test_a_program_without_a_command_lists_those_that_there_are(capsys):
    parser = Parser(prog="icgan", description="example: icgan draw it\n\nDraws.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "draw", description="example: icgan draw it\n\nDraws it.", help="draw something"
    ).add_argument("what")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "draw something" in said
    assert said.endswith("icgan: say which COMMAND\n")
    with pytest.raises(SystemExit):
        parser.parse_args(["draw"])
    assert "the following arguments are required: what" in capsys.readouterr().err
