"""`icgan-train evaluate`: settings that no score can be made of."""

from __future__ import annotations

import pytest

from icgan_training import cli


def test_an_evaluation_is_asked_for_as_the_other_programs_are(tmp_path, capsys):
    """A list may have spaces, and no truncation has a name."""
    flags = ["--metrics", "fid, kid,", "--truncation", "none"]
    assert cli.main(["evaluate", str(tmp_path), *flags]) == 1
    assert "is not a run with a generator" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", str(tmp_path), "--truncation", "much"])
    assert "'much' is neither a number in (0, 1] nor none" in capsys.readouterr().err
