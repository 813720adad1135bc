"""The commands, links and make targets of the README, the guides and the model cards exist as written."""

import json
import re
import shlex
import tokenize
from pathlib import Path

import pytest

import icgan_export.cli
import icgan_runtime.cli
import icgan_training.cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS = {
    "icgan": icgan_runtime.cli.parse,
    "icgan-train": lambda words: icgan_training.cli.build_parser().parse_args(words),
    "icgan-export": lambda words: icgan_export.cli.build_parser().parse_args(words),
}
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("*/README.md"),
    *ROOT.glob("models/*/README.md"),
]
PROGRAM = r"^ {4}(?:\.venv(?:-serve)?/bin/)?(icgan(?:-train|-export)? [^#\n]+)"
COMMANDS = sorted({line for page in PAGES for line in re.findall(PROGRAM, page.read_text(), re.MULTILINE)})
TARGET = r"(?:^ {4}|`)make ((?:[a-z0-9-]+ ?)+)"  # make one two
TARGETS = {
    name
    for page in PAGES
    for names in re.findall(TARGET, page.read_text(), re.MULTILINE)
    for name in names.split()
}
LINKS = [
    (page.parent / link).resolve().relative_to(ROOT)
    for page in PAGES
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_understood(command):
    program, *arguments = shlex.split(command)
    PARSERS[program](arguments)  # exits on an argument that does not exist


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_a_documented_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).exists()


IDIOMS = r"\b(?:told|tam(?:e|ed|es)|heard|sheds? load|at hand|in hand)\b|what \w+ \w+ stands|halves of c"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_idioms_that_cost_readers_of_a_second_language(page):
    found = re.findall(rf"[^\n]*(?:{IDIOMS})[^\n]*", page.read_text())
    assert found == [], "see the glossary for the field's words"


@pytest.mark.parametrize("folder", ["benchmarks", "export", "runtime", "training", "triton_models"])
def test_comments_and_docstrings_have_no_such_idioms_either(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                prose = token.type == tokenize.COMMENT or token.string.startswith('"""')
                if prose and (idiom := re.search(IDIOMS, token.string)):
                    found.append(f"{path.relative_to(ROOT)}:{token.start[0]} {idiom[0]}")
    assert found == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name)
def test_a_guide_links_the_glossary_and_has_no_list_of_words_of_its_own(page):
    text = page.read_text()
    assert page.name == "glossary.md" or "glossary.md)" in text
    assert "words of this page" not in text.lower()


def test_the_readme_shows_every_program():
    shown = re.findall(PROGRAM, README, re.MULTILINE)
    assert {shlex.split(command)[0] for command in shown} == set(PARSERS)


@pytest.mark.parametrize("model", ["cifar10", "demo"])
def test_a_model_card_gives_the_scores_that_were_measured(model):
    folder = ROOT / "models" / model
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    row = [f"{scores['fid']:.1f}", f"{scores['kid']:.4f} ± {scores['kid_deviation']:.4f}"]
    names = ("precision", "recall", "density", "coverage", "lpips_diversity")
    row += [f"{scores[name]:.3f}" for name in names]
    assert f"| {' | '.join(row)} |" in (folder / "README.md").read_text()
