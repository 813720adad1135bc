"""What mkdocs needs to make a site of this repository: pages where they lie, references out of the code.

Paths of the site are those of the repository, so a link that works there works here too.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

import icgan_export.cli
import icgan_runtime.cli
import icgan_training.cli

ROOT = Path(__file__).parents[2]
PAGES = (
    "*.md",
    "docs/*.md",
    "docs/reports/*.md",
    "*/README.md",
    "models/*/README.md",
    "examples/*/README.md",
)
BESIDE_PAGES = ("docs/images/*", "docs/site/*.css", "benchmarks/results/**/*", "LICENSE")
PROGRAMS = {
    "icgan": icgan_runtime.cli.build_parser,
    "icgan-train": icgan_training.cli.build_parser,
    "icgan-export": icgan_export.cli.build_parser,
}
PACKAGES = {
    name: ROOT / name.removeprefix("icgan_") / name
    for name in ("icgan_runtime", "icgan_training", "icgan_export")
}


LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!https?:)(?P<path>[^)#\s]+)\)")
WEIGHTS = (".safetensors", ".onnx")  # too large to copy: their links become plain text


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The reference of the code, a page for each wing, after the reference that is written for users."""
    pages = [{name_of(wing): code_uri(wing)} for folder in PACKAGES.values() for wing in wings(folder)]
    at = next(i for i, section in enumerate(config.nav) if "Reference" in section)
    config.nav.insert(at + 1, {"Code": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the repository, what they show and cite, and the generated ones."""
    found = Files([file for file in files if file.src_uri.startswith(("css/", "js/", "img/"))])
    code = set()
    for path in sorted({path for pattern in (*PAGES, *BESIDE_PAGES) for path in ROOT.glob(pattern)}):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            found.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
        if path.suffix == ".md":
            code |= {
                (path.parent / link).resolve() for _, link in LINK.findall(path.read_text()) if is_code(link)
            }
    for name, text in (*generated(), *(item for path in sorted(code) for item in code_page(path))):
        found.append(File.generated(config, name, content=text))
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to folders lead to a list of their files, those to code to a page that shows it."""
    here = ROOT / Path(page.file.src_uri).parent

    def to_page(link: re.Match[str]) -> str:
        text, path = link["text"], link["path"]
        if path.endswith(WEIGHTS):
            return text
        if (here / path).is_dir():
            return f"[{text}]({path.rstrip('/')}/index.md)"
        return f"[{text}]({path}.md)" if is_code(path) else link[0]

    return LINK.sub(to_page, markdown)


def is_code(link: str) -> bool:
    return link.endswith((".py", ".ipynb", ".sh"))


def code_page(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A page that shows a file of code; of a notebook its cells, with their pictures as files."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix != ".ipynb":
        yield f"{name}.md", f"# {path.name}\n\n`{name}`\n\n```python\n{path.read_text()}\n```\n"
        return
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            elif "image/jpeg" in output["data"]:
                picture = f"{path.stem}-{len(parts)}.jpg"
                yield f"{path.parent.relative_to(ROOT)}/{picture}", b64decode(output["data"]["image/jpeg"])
                parts.append(f"![output of the cell above]({picture})")
    yield f"{name}.md", "\n\n".join(parts) + "\n"


def generated() -> Iterator[tuple[str, str]]:
    """Name and text of every page that no one writes."""
    yield "reference/python.md", python_page()
    yield "reference/errors.md", "# Errors\n\n::: icgan_runtime.errors\n"
    for folder in PACKAGES.values():
        for wing in wings(folder):
            yield code_uri(wing), wing_page(wing)
    for program, build in PROGRAMS.items():
        yield f"reference/{program}.md", program_page(program, build())
    yield "reference/files.md", files_page()
    yield "docs/site/code.css", HtmlFormatter(style="tango").get_style_defs(".highlight")
    for folder in sorted(path for path in (ROOT / "benchmarks/results").rglob("*") if path.is_dir()):
        names = sorted(path.name for path in folder.iterdir())
        listed = "\n".join(f"- [{name}]({name})" for name in names)
        yield f"{folder.relative_to(ROOT).as_posix()}/index.md", f"# {folder.name}\n\n{listed}\n"


def python_page() -> str:
    """What `icgan_runtime` offers to applications, in the order of its __all__."""
    tree = ast.parse((PACKAGES["icgan_runtime"] / "__init__.py").read_text())
    homes = {
        alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    first = ["Pipeline", "AsyncPipeline", "Result"]  # what a newcomer looks for
    names = [*first, *sorted(set(homes) - {*first, "IcganError"})]
    about = ast.get_docstring(tree) or ""
    return "\n\n".join(["# Python", about, *(f"::: {homes[name]}" for name in names)]) + "\n"


def program_page(program: str, parser: argparse.ArgumentParser) -> str:
    """One program: every command with its example, usage and options."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = [f"# {program}\n", described(parser)]
    for name, command in commands.choices.items():
        parts += [f"## {program} {name}\n", described(command), usage(command)]
        parts += [options(group) for group in command._action_groups if group._group_actions]
    return "\n".join(parts)


def described(parser: argparse.ArgumentParser) -> str:
    """A description: its first part is the example."""
    example, _, text = (parser.description or "").partition("\n\n")
    return f"{text}\n\n```sh\n{example.removeprefix('example: ')}\n```\n"


def usage(parser: argparse.ArgumentParser) -> str:
    """The usage as `--help` prints it, in lines that fit the page."""
    os.environ["COLUMNS"] = "110"
    return f"```text\n{parser.format_usage().removeprefix('usage: ').rstrip()}\n```\n"


def options(group: argparse._ArgumentGroup) -> str:
    """A group of arguments as a table."""
    rows = [f"**{(group.title or '').capitalize()}**\n", "| argument | meaning |", "|---|---|"]
    formatter = argparse.HelpFormatter("")
    for action in group._group_actions:
        default = action.dest if action.option_strings else action.metavar or action.dest
        value = "" if action.nargs == 0 else formatter._format_args(action, str(default).upper())
        name = " ".join([", ".join(action.option_strings), value]).strip().replace("|", "\\|")
        text = formatter._expand_help(action).replace("|", "\\|") if action.help else ""
        if action.help != argparse.SUPPRESS:
            rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows) + "\n"


def wings(folder: Path) -> list[Path]:
    """A package's folder and those of its wings."""
    return [
        folder,
        *sorted(path.parent for path in folder.glob("*/**/__init__.py") if path.parent.name != "cli"),
    ]


def name_of(wing: Path) -> str:
    """`icgan_runtime` or `icgan_runtime.bundle`."""
    return ".".join(wing.relative_to(ROOT).parts[1:])


def code_uri(wing: Path) -> str:
    return f"reference/code/{name_of(wing)}.md"


def wing_page(wing: Path) -> str:
    """Every public function and class of a wing's files."""
    names = [path.stem for path in sorted(wing.glob("*.py")) if path.stem not in ("__init__", "__main__")]
    return "\n\n".join([f"# {name_of(wing)}", *(f"::: {name_of(wing)}.{name}" for name in names)]) + "\n"


def first_line(docstring: str) -> str:
    """The first line, as a cell of a table."""
    return docstring.partition("\n")[0].replace("|", "\\|")


def files_page() -> str:
    """Every file of the three packages with the first line of its docstring."""
    intro = "What each file is for, wing by wing. [Architecture](../docs/architecture.md) says more."
    parts = ["# Every file\n", f"{intro}\n"]
    for folder in PACKAGES.values():
        parts.append(f"## {folder.name}\n")
        for wing in [*wings(folder), folder / "cli"]:
            if wing != folder:
                title = name_of(wing) if wing.name == "cli" else f"[{name_of(wing)}](code/{name_of(wing)}.md)"
                parts.append(f"### {title}\n")
            about = ast.get_docstring(ast.parse((wing / "__init__.py").read_text())) or ""
            parts += [first_line(about) + "\n", "| file | what |", "|---|---|"]
            for path in sorted(wing.glob("*.py")):
                if path.stem != "__init__":
                    text = ast.get_docstring(ast.parse(path.read_text())) or ""
                    parts.append(f"| `{path.name}` | {first_line(text)} |")
            parts.append("")
    return "\n".join(parts)
