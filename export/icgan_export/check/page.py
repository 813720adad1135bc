"""The result of a verification as one HTML page: the table, and the pictures side by side."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from icgan_export.check.verify import Report
from icgan_export.lower.compare import Comparison
from icgan_export.lower.half import LARGEST_HALF
from icgan_runtime import images, sheets
from icgan_runtime.verify import psnr

SHOWN = 8  # pictures of each precision
GAIN = 16  # of the differences, which are invisible otherwise
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; text-align: left }
td:nth-child(4), td:nth-child(5) { font-variant-numeric: tabular-nums }
.missed { color: #b00020; font-weight: 600 }
img { max-width: 100%; min-width: 60%; image-rendering: pixelated }
"""


def verification_page(report: Report) -> str:
    """The whole page; nothing is loaded from elsewhere."""
    verdict = "every bound holds" if report.passed else f"{len(report.failures)} bounds missed"
    title = f"{report.bundle}: {verdict}"
    rows = "".join(_row(comparison) for comparison in report.comparisons)
    sections = "".join(
        f"<h2>{html.escape(precision)}: {psnr(drawn, report.reference):.1f} dB</h2>"
        f'<img alt="torch, {html.escape(precision)} and their difference" '
        f'src="data:image/png;base64,{_sheet(report.reference, drawn)}">'
        for precision, drawn in report.drawn.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        "<table><tr><th>stage</th><th>precision</th><th>what</th><th>value</th><th>bound</th></tr>"
        f"{rows}</table>"
        "<p>Below: what torch draws in float32, what the whole chain of the bundle draws from the same "
        f"picture and noise, and their difference times {GAIN} around grey.</p>{sections}"
        f"{''.join(_activations(file, found) for file, found in report.activations.items())}</html>\n"
    )


def _activations(file: str, found: Mapping[str, float]) -> str:
    """Every activation of an FP16 graph against the largest number of FP16."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{largest:.4g}</td><td>{largest / LARGEST_HALF:.3%}</td>"
        f'<td><meter max="{LARGEST_HALF:.0f}" value="{largest:.6g}"></meter></td></tr>'
        for name, largest in found.items()
    )
    most = max(found.values(), default=0.0)
    return (
        f"<h2>{html.escape(file)}: activations reach {most:.4g}, FP16 ends at {LARGEST_HALF:.0f}</h2>"
        f"<details><summary>{len(found)} activations, in the order of the graph</summary>"
        "<table><tr><th>activation</th><th>largest</th><th>of FP16</th><th></th></tr>"
        f"{rows}</table></details>"
    )


def _row(found: Comparison) -> str:
    bound = "" if found.bound is None else f"{'≥' if found.at_least else '≤'} {found.bound:g}"
    cells = (found.stage, found.precision, found.what, f"{found.value:.4g}", bound)
    mark = "" if found.passed else ' class="missed"'
    return f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _sheet(reference: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> str:
    """Three rows as a PNG in base64."""
    count = min(SHOWN, len(reference))
    wanted, found = reference[:count].astype(int), drawn[:count].astype(int)
    difference = np.clip(128 + GAIN * (found - wanted), 0, 255)
    sheet = sheets.grid(np.concatenate([wanted, found, difference]).astype(np.uint8), columns=count)
    return base64.b64encode(images.encode(sheet)).decode()
