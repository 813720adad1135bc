"""What every benchmark leaves."""

import json
from importlib.metadata import version

from benchmarks.report import about, leave, page, table


def test_a_report_says_with_which_command_where_and_with_what_it_was_made(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x.py", "--weights", "my run"])
    report = about("benchmarks.x", ["numpy"], where="a GPU")
    assert report["command"] == "python -m benchmarks.x --weights 'my run'"
    assert report["machine"] == "a GPU"
    assert report["versions"] == {"numpy": version("numpy")}
    text = page("Title", report, "Notes.", "Tables")
    assert text.splitlines()[0] == "# Title"
    assert f"{report['date']}, a GPU, numpy {version('numpy')}. Notes." in text
    assert "cores" in about("benchmarks.x")["machine"]


def test_the_last_line_is_json_and_both_forms_are_written(tmp_path, capsys):
    report = {"rows": [1, 2]}
    leave(report, "# Title\n\n| a |\n", tmp_path / "new", "speed")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report
    assert json.loads((tmp_path / "new" / "speed.json").read_text()) == report
    assert (tmp_path / "new" / "speed.md").read_text() == "# Title\n\n| a |\n"


def test_a_table_is_markdown():
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n"
