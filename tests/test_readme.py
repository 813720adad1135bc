"""The commands, links and make targets of the README and the training guide exist as written."""

import re
import shlex
from pathlib import Path

import pytest

import icgan_export.cli
import icgan_runtime.cli
import icgan_training.cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS = {
    "icgan": icgan_runtime.cli.build_parser,
    "icgan-train": icgan_training.cli.build_parser,
    "icgan-export": icgan_export.cli.build_parser,
}
PROGRAM = r"^ {4}(?:\.venv(?:-serve)?/bin/)?(icgan(?:-train|-export)? [^#\n]+)"
TRAINING = (ROOT / "docs" / "training.md").read_text()
COMMANDS = re.findall(PROGRAM, README + TRAINING, re.MULTILINE)
TARGETS = re.findall(r"(?:^ {4}|`)make ([a-z0-9-]+)", README, re.MULTILINE)
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
LINKS += [f"docs/{link}" for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TRAINING)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_understood(command):
    program, *arguments = shlex.split(command)
    PARSERS[program]().parse_args(arguments)  # exits on an argument that does not exist


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_a_documented_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).exists()


def test_the_readme_shows_every_program():
    assert {shlex.split(command)[0] for command in COMMANDS} == set(PARSERS)
