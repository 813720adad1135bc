"""All commands of `icgan-train`: their help and options; mistakes in one line, bugs with their traceback."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

import icgan_runtime
from icgan_runtime.console import say
from icgan_training import cli
from icgan_training.errors import DataError


def subcommands():
    parser = cli.build_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


COMMANDS = ("fetch", "prepare", "neighbours", "fit", "evaluate", "convert", "mark")


def test_the_commands_are_the_documented_ones():
    assert set(subcommands()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_opens_with_an_example_that_parses(name):
    example = subcommands()[name].format_help().splitlines()[0]
    program, *arguments = example.removeprefix("example: ").split()
    assert program == "icgan-train"
    assert callable(cli.build_parser().parse_args(arguments).run)


@pytest.mark.parametrize("name", ["fetch", "prepare", "neighbours", "fit", "evaluate", "convert"])
def test_every_argument_is_explained(name):
    assert [action.dest for action in subcommands()[name]._actions if not action.help] == []


def test_the_version_is_the_distributions(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"icgan-train {icgan_runtime.__version__}\n"


def test_a_reader_that_has_seen_enough_ends_nothing():
    """`icgan-train fit --list | head -1`, but with nobody there from the beginning."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "icgan_training", "fit", "--list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_strangers_text_does_not_reach_the_terminal_as_commands(encoder_file, tmp_path, capsys):
    table = tmp_path / "list.csv"
    table.write_text("a\x1b[2J\x9b2J,label\n")
    command = ["prepare", str(table), "--encoder", str(encoder_file), "--resolution", "8"]
    assert cli.main([*command, "--neighbours", "1", "--out", str(tmp_path / "out")]) == 1
    say("\udcff\x1b[2J\tb")
    said = capsys.readouterr()
    assert "has the columns a\\u001b[2J\\u009b2J, label; a column `path` is needed" in said.err
    assert said.out == "\\udcff\\u001b[2J\tb\n"


def test_a_name_that_is_no_text_is_said_in_escapes(capfd):
    say(os.fsdecode(b"runs/\xff is ready"))
    assert capfd.readouterr().out == "runs/\\udcff is ready\n"


def test_a_users_mistake_is_one_line_and_status_1(monkeypatch, capsys):
    def mistake(_):
        raise DataError("there are no pictures in nowhere")

    monkeypatch.setattr(cli.convert, "run", mistake)
    assert cli.main(["convert", "x", "--out", "y"]) == 1
    assert capsys.readouterr().err == "icgan-train: there are no pictures in nowhere\n"


def test_a_full_disk_is_one_line_that_names_the_file(monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/log.jsonl")

    monkeypatch.setattr(cli.convert, "run", full)
    assert cli.main(["convert", "x", "--out", "y"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device: 'runs/a/log.jsonl'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["prepare", "fit"])
def test_an_output_below_a_file_is_one_line(command, make_prepared, encoder_file, tmp_path, capsys):
    data, out = make_prepared(), tmp_path / "file" / "out"
    (tmp_path / "file").touch()
    arguments = {
        "prepare": [data, "--resolution", 32, "--encoder", encoder_file, "--neighbours", 3],
        "fit": [data, "--preset", "tiny", "--images", 8],
    }[command]
    assert cli.main([command, *map(str, arguments), "--out", str(out)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("icgan-train: ")
    assert str(tmp_path / "file") in error


@pytest.mark.parametrize(("text", "count"), [("400000", 400_000), ("400k", 400_000), ("2.5M", 2_500_000)])
def test_numbers_of_pictures_may_be_written_short(text, count):
    assert cli.build_parser().parse_args(["fit", "d", "--images", text]).images == count


@pytest.mark.parametrize("text", ["many", "inf", "nan", "k", ""])
def test_what_is_no_number_of_pictures_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["fit", "data", "--preset", "tiny", "--images", text])
    assert f"{text!r} is not a number as 400000, 400k or 2.5M" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["fit d --images", "prepare d --exact-up-to", "evaluate r --samples"])
def test_a_negative_number_of_pictures_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*option.split(), "-3"])
    assert f"argument {option.split()[-1]}: -3 is negative" in capsys.readouterr().err


@pytest.fixture
def as_torchrun_starts_it(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {
        "WORLD_SIZE": "1",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, value)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("command", ["prepare", "fit"])
def test_a_process_that_fails_does_not_wait_for_the_others_to_leave(
    command, as_torchrun_starts_it, make_prepared, tmp_path, capsys
):
    # with nccl, leaving waits for processes that wait for this one: the error was never told
    arguments = {
        "prepare": ["--resolution", "8", "--encoder", "resnet50", "--out", str(tmp_path)],
        "fit": ["--preset", "tiny", "--set", "neighbours=9", "--out", str(tmp_path / "run")],
    }[command]
    assert cli.main([command, str(make_prepared()), *arguments]) == 1
    assert "\nicgan-train: " in "\n" + capsys.readouterr().err
    assert dist.is_initialized()


def test_a_process_that_ends_well_leaves(as_torchrun_starts_it, make_prepared, tmp_path):
    arguments = ["--preset", "tiny", "--precision", "float32", "--out", str(tmp_path / "run")]
    assert cli.main(["fit", str(make_prepared()), *arguments]) == 0
    assert not dist.is_initialized()


@pytest.mark.parametrize("library", ["torch", "safetensors", "tqdm"])
def test_a_library_that_is_not_installed_is_one_line_with_the_command(library):
    code = f"""
import sys
sys.modules[{library!r}] = None
from icgan_training.cli import main
sys.exit(main(["prepare", "photos", "--resolution", "64", "--encoder", "resnet50", "--out", "data"]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 1
    assert done.stderr == f"icgan-train: {library} is not installed: pip install 'icgan[train]'\n"


def test_a_missing_file_that_nobody_expected_is_a_bug(monkeypatch):
    def missing(_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "ours")

    monkeypatch.setattr(cli.convert, "run", missing)
    with pytest.raises(FileNotFoundError):
        cli.main(["convert", "x", "--out", "y"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli.convert, "run", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["convert", "x", "--out", "y"])


def test_an_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["tran"])
    assert stop.value.code == 2
    assert "tran" in capsys.readouterr().err
