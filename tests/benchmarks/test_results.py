"""benchmarks/results holds what pages cite, and nothing else."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")]


def kept() -> list[str]:
    """The files of the folder, without what a benchmark may have left there unnoticed."""
    command = ["git", "ls-files", "benchmarks/results"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        return [path.relative_to(ROOT).as_posix() for path in sorted(RESULTS.rglob("*")) if path.is_file()]
    return done.stdout.splitlines()


def test_every_result_is_cited_by_a_page():
    """By a link to the file, or to the folder it lies in."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    folder = RESULTS.relative_to(ROOT).as_posix()
    places = {file: {file, file.rpartition("/")[0]} - {folder} for file in kept()}
    assert [file for file, known in places.items() if not any(f"{place})" in text for place in known)] == []
