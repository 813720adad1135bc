"""`make docs`: the site builds without a warning, loads nothing from elsewhere, leaves no code out."""

from __future__ import annotations

import argparse
import ast
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icgan_export.cli
import icgan_runtime.cli
import icgan_training.cli
from icgan_runtime import AsyncPipeline, Pipeline, Result

ROOT = Path(__file__).parents[2]
PARSERS = {
    "icgan": icgan_runtime.cli.build_parser(),
    "icgan-train": icgan_training.cli.build_parser(),
    "icgan-export": icgan_export.cli.build_parser(),
}
FOREIGN = (  # what a browser would load by itself; a link to follow is none
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)\s*=\s*[\"']?(?:https?:)?//",
    r"<link\b[^>]*\bhref\s*=\s*[\"']?(?:https?:)?//",
    r"@import\s+[\"'](?:https?:)?//",
    r"url\(\s*[\"']?(?:https?:)?//",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def words(page: Path) -> str:
    """What a reader sees of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_no_page_loads_anything_from_elsewhere(site):
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    found = {
        (path.relative_to(site).as_posix(), match[0])
        for path in files
        for pattern in FOREIGN
        for match in re.finditer(pattern, path.read_text())
    }
    assert found == set()


@pytest.mark.parametrize("program", PARSERS)
def test_the_reference_has_every_command_and_option(site, program):
    text = words(site / "reference" / program / "index.html")
    (commands,) = (a for a in PARSERS[program]._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert f"{program} {name}" in text
        for action in command._actions:
            assert all(option in text for option in action.option_strings)


@pytest.mark.parametrize("kind", [Pipeline, AsyncPipeline, Result], ids=lambda kind: kind.__name__)
def test_the_reference_has_every_public_method(site, kind):
    page = (site / "reference/python/index.html").read_text()
    public = [name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))]
    missing = [name for name in public if f"{kind.__module__}.{kind.__name__}.{name}" not in page]
    assert missing == []


def test_the_reference_of_the_code_has_every_public_function_and_class(site):
    pages = "".join(page.read_text() for page in (site / "reference").rglob("index.html"))
    missing = set()
    for folder in ("runtime", "training", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            if path.stem.startswith("__") or ".cli" in module:
                continue
            for node in ast.parse(path.read_text()).body:
                name = getattr(node, "name", "_")  # of a function or class
                if not name.startswith("_") and f'id="{module}.{name}"' not in pages:
                    missing.add(f"{module}.{name}")
    assert missing == set()


def test_every_file_of_the_packages_says_what_it_is_for(site):
    text = words(site / "reference/files/index.html")
    for folder in ("runtime", "training", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.stem == "__init__" or path.name in text
    assert (
        re.findall(
            r"<td><code>([^<]+)</code></td>\s*<td></td>", (site / "reference/files/index.html").read_text()
        )
        == []
    )
