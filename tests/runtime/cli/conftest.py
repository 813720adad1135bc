"""The command, run in this process."""

from __future__ import annotations

import pytest

from icgan_runtime.cli import main


@pytest.fixture
def icgan(capsys):
    """Runs a command; returns (status, stdout, stderr)."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run
