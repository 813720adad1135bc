"""The scripts of findings/: their form. What they say is checked by running them (`make findings`)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))
PIN = re.compile(r"[A-Za-z0-9_.\[\],-]+(?:==|@)\d[\w.]*")
INSTALLS = re.compile(r"\b(?:pip3?[\"']? (?:install|download)|npm[\"']? (?:install|i))\b(.*)")
OF_A_MACHINE = re.compile(r"/(?:home|root|Users|work|opt)/\w+")


def code(script: Path) -> str:
    """The lines that run: continued lines joined, comments left out."""
    text = script.read_text().replace("\\\n", " ")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
class TestAFinding:
    def test_it_opens_with_what_it_shows(self, script):
        first, comment = script.read_text().splitlines()[:2]
        assert first.startswith("#!")
        assert comment.startswith("# ")

    def test_it_can_be_started_and_stops_at_the_first_failure(self, script):
        assert os.access(script, os.X_OK)
        assert re.search(r"^set -[a-z]*e", code(script), re.MULTILINE)

    def test_it_works_in_a_temporary_folder_that_it_removes(self, script):
        assert "mktemp -d" in code(script)
        assert re.search(r"trap .*rm -rf", code(script))

    def test_it_pins_every_package(self, script):
        installed = INSTALLS.findall(code(script))
        assert installed, "no package is installed"
        for arguments in installed:
            words = re.split(r"[;&|]", arguments)[0].replace('"', " ").replace("'", " ").split()
            packages = [
                word
                for word in words
                if re.match(r"@?[A-Za-z]", word) and "$" not in word and "/" not in word[1:]
            ]
            assert [word for word in packages if not PIN.search(word)] == []

    def test_it_names_no_place_of_one_machine_and_no_code_of_ours(self, script):
        assert not OF_A_MACHINE.search(script.read_text())
        assert "icgan" not in code(script)
