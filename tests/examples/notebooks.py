"""Runs a notebook in a fresh kernel; as a program it stores the outputs again.

python -m tests.examples.notebooks examples/python/story.ipynb
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

import nbclient
import nbformat


def run(path: Path, **environment: str) -> nbformat.NotebookNode:
    """The notebook with its outputs; raises CellExecutionError with the cell and its traceback."""
    notebook = nbformat.read(path, as_version=4)
    with mock.patch.dict(os.environ, environment):
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return notebook


def store(path: Path) -> None:
    """Run a notebook and keep its outputs, of every picture only the JPEG: a tenth of the PNG."""
    notebook = run(path)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of this run
        for output in cell.get("outputs", ()):
            if "image/jpeg" in output.get("data", {}):
                del output["data"]["image/png"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    store(Path(sys.argv[1]))
