"""CONTRIBUTING.md and docs/architecture.md name files, functions and wings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PACKAGES = ("runtime/icgan_runtime", "training/icgan_training", "export/icgan_export")
EXAMPLES = re.findall(r"\[`(\w+)`\]\(([\w/.]+\.py)\)", CONTRIBUTING)


@pytest.mark.parametrize(("name", "path"), EXAMPLES)
def test_an_example_is_where_the_page_says(name, path):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_there_are_examples():
    assert len(EXAMPLES) > 8


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+[\w.]*)`", CONTRIBUTING))))
def test_a_named_path_exists(path):
    assert (ROOT / path).exists() or any((ROOT / package / path).exists() for package in PACKAGES)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:\w+/)*\w+\.py)`", ARCHITECTURE)) - {"1/model.py"})
)
def test_a_file_on_the_way_of_a_picture_or_bundle_exists(path):
    places = [ROOT, *(ROOT / package for package in PACKAGES), *(ROOT / PACKAGES[2] / "rewrite",)]
    assert any((place / path).exists() for place in places)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests/golden").glob("make_*.py")), ids=lambda path: path.stem
)
def test_the_page_says_where_a_golden_file_comes_from(path):
    assert f"`tests/golden/{path.name}`" in CONTRIBUTING


@pytest.mark.parametrize("package", PACKAGES)
def test_every_wing_has_its_line(package):
    wings = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert wings <= set(re.findall(r"`(\w+)/`", ARCHITECTURE))
