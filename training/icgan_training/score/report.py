"""An evaluation as files: JSON for programs, one HTML page and the sample sheets for people."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime.files import atomic_file
from icgan_training.data.grid import write_grid
from icgan_training.score.evaluate import Evaluation

NAMES = {
    "fid": "FID ↓",
    "kid": "KID ↓",
    "is": "Inception Score ↑",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
    "authenticity": "samples that are no copy (authenticity) ↑",
    "authenticity_of_real": "the same of real pictures left out",
    "lpips_diversity": "LPIPS between samples of one instance ↑",
    "similarity": "similarity to the instance ↑",
    "similarity_other": "similarity to another instance",
    "similarity_neighbour": "similarity of a real neighbour to the instance",
    "own_is_nearer": "own instance nearer than another ↑",
    "label_followed": "samples of the label they were given ↑",
    "label_of_instance": "samples of the label of their instance",
    "label_of_real": "real pictures whose label is recognised",
}
SHEETS = {
    "samples": "Left the instance, right samples conditioned on it.",
    "labels": "Left the instance, on top a real picture of each class: a column is given the label of that "
    "class, and the samples of a row share their noise.",
    "copies": "The samples that come closest to a real picture, closest first; below each that picture.",
}
"""The sample sheets by the name of their file, and what they show."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
td:nth-child(2) { font-variant-numeric: tabular-nums }
img { max-width: 100%; image-rendering: pixelated }
"""


def format_score(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def score_lines(evaluation: Evaluation) -> list[tuple[str, str]]:
    """(name, value) of every score, deviations folded into their score."""
    lines = []
    for key, value in evaluation.scores.items():
        if "_deviation" in key:
            continue
        base, _, network = key.partition("_") if key not in NAMES else (key, "", "")
        deviation = evaluation.scores.get(key.replace(base, f"{base}_deviation", 1))
        text = format_score(value) + ("" if deviation is None else f" ± {format_score(deviation)}")
        lines.append((NAMES.get(base, base) + (f" ({network})" if network else ""), text))
    return lines


def setting_lines(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What was evaluated, and how: (name, value), as people read them."""
    return [(name.replace("_", " "), _plain(value)) for name, value in evaluation.parameters.items()]


def to_html(evaluation: Evaluation, title: str, sheets: Mapping[str, NDArray[np.uint8]]) -> str:
    """The whole page, sample sheets included; each is called one of `SHEETS`."""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in evaluation.notes)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{_table(score_lines(evaluation))}{notes}"
        f"<h2>Settings</h2>{_table(setting_lines(evaluation))}"
        f"{''.join(_sheet(name, sheet) for name, sheet in sheets.items())}</html>\n"
    )


def _sheet(name: str, sheet: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<h2>{name.capitalize()}</h2><p>{SHEETS[name]}</p>"
        f'<img alt="instances and {name}" src="data:image/png;base64,{picture}">'
    )


def _plain(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _table(rows: list[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def write_report(
    evaluation: Evaluation, title: str, sheets: Mapping[str, NDArray[np.uint8]], folder: Path
) -> None:
    """`evaluation.json`, `evaluation.html` and a PNG for each sheet in `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("evaluation.json", evaluation.to_json()),
        ("evaluation.html", to_html(evaluation, title, sheets)),
    ):
        with atomic_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    for name, sheet in sheets.items():
        write_grid(folder / f"{name}.png", sheet)
