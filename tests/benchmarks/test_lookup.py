"""The comparison of lookups: what its recall is measured by is always there."""

import importlib
import sys

import pytest

lookup = importlib.import_module("benchmarks.lookup")


def test_forms_without_the_exact_search_are_refused_before_anything_is_grown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lookup", "--data", str(tmp_path), "--forms", "faiss-ivf", "graph"])
    with pytest.raises(SystemExit):
        lookup.main()
    assert "faiss must be among them" in capsys.readouterr().err
