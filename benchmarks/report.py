"""What every benchmark leaves: a table for people, and JSON for programs as its last line and in a file.

Each says with which command, when, where and with which versions it was made.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name, as Linux gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores"


def about(program: str, libraries: Sequence[str] = (), where: str = "") -> dict[str, Any]:
    """How a report begins: command, date, machine (`where`, or this one) and versions of `libraries`."""
    return {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": where or machine(),
        "versions": {name: version(name) for name in libraries},
    }


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; ends with a newline."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def page(title: str, report: Mapping[str, Any], notes: str, body: str) -> str:
    """A report for people: title, command, when and where, what has to be known to read it, tables."""
    versions = [f"{name} {number}" for name, number in report["versions"].items()]
    made = ", ".join([report["date"], report["machine"], *versions])
    return f"# {title}\n\n    {report['command']}\n\n{made}. {notes}".rstrip() + f"\n\n{body}"


def leave(report: Mapping[str, Any], text: str, out: Path | None, name: str) -> None:
    """Show both forms, and write them into the folder `out` where there is one."""
    show(report, text)
    if out is not None:
        write(report, text, out, name)


def show(report: Mapping[str, Any], text: str) -> None:
    """Print both forms, the JSON as the last line."""
    print(text)
    print(json.dumps(report), flush=True)


def write(report: Mapping[str, Any], text: str, out: Path, name: str) -> None:
    """Both forms as NAME.md and NAME.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, "utf-8")
    (out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one measurement to a file of JSON lines, for what is measured over days."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def progress(line: str) -> None:
    """Say on stderr what is being measured."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
