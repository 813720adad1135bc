import argparse
import json
import os
import subprocess
import sys

import pytest

import icgan_runtime
from icgan_export import cli
from tests.models.make_models import make_bundle

COMMANDS = ["bundle", "onnx", "engine", "verify", "triton"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_opens_with_an_example_that_parses_and_says_what_the_command_does(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    example, usage, summary, _ = capsys.readouterr().out.split("\n\n", 3)
    program, *arguments = example.removeprefix("example: ").split()
    assert program == "icgan-export"
    assert callable(cli.build_parser().parse_args(arguments).run)
    assert usage.startswith(f"usage: icgan-export {name} ")
    assert summary.endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained(name):
    (commands,) = (a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert [action.dest for action in commands.choices[name]._actions if not action.help] == []


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"icgan-export {icgan_runtime.__version__}\n"


@pytest.mark.parametrize("library", ["torch", "safetensors", "tqdm", "onnx"])
def test_a_library_that_is_not_installed_is_one_line_with_the_command(library):
    code = f"""
import sys
sys.modules[{library!r}] = None
from icgan_export.cli import main
sys.exit(main(["bundle", "runs/mine", "--out", "bundles/mine"]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 1
    assert done.stderr == f"icgan-export: {library} is not installed: pip install 'icgan[export]'\n"


def test_a_strangers_text_does_not_reach_the_terminal_as_commands(tmp_path, capsys):
    bundle = make_bundle(tmp_path / "tiny")
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"]["\x1b[2J"] = "no entry"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["triton", str(bundle), "--out", str(tmp_path / "repository")]) == 1
    assert "manifest.files.\\u001b[2J: expected an object" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_nothing(tmp_path):
    """`icgan-export triton … | head -1`, but with nobody there from the beginning."""
    bundle, repository = make_bundle(tmp_path / "tiny"), tmp_path / "repository"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "icgan_export", "triton", bundle, "--out", repository],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(write)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert (repository / "icgan.json").exists()
