"""The page of a proof: the picture, its drawing and their difference, in one HTML file with all it needs."""

from __future__ import annotations

import base64
import html
import json

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.origin.prove import Verdict

U8 = NDArray[np.uint8]

MAX_DRAWINGS = 64
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "img{width:192px;image-rendering:pixelated;border:1px solid #888}"
    "figure{display:inline-block;margin:.5rem}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}"
)


def render(name: str, verdict: Verdict) -> bytes:
    """The page for a file called `name`."""
    report = verdict.to_json()
    rows = []
    for drawing in verdict.drawings[:MAX_DRAWINGS]:
        difference = np.abs(drawing.picture.astype(np.int16) - drawing.drawn.astype(np.int16))
        louder = np.clip(difference * 8, 0, 255).astype(np.uint8)
        shown = (
            (drawing.picture, "the file"),
            (drawing.drawn, "drawn again"),
            (louder, f"difference, 8 times; at most {drawing.difference}"),
        )
        rows.append("<div>" + "".join(_figure(picture, words) for picture, words in shown) + "</div>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in verdict.notes)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(verdict.verdict)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(verdict.verdict)}</h1><p>{html.escape(name)}</p>"
        f"<ul>{notes}</ul>{''.join(rows)}<pre>{html.escape(json.dumps(report, indent=1))}</pre></html>\n"
    )
    return page.encode("utf-8", "backslashreplace")


def _figure(picture: U8, words: str) -> str:
    data = base64.b64encode(images.encode(picture)).decode()
    return (
        f'<figure><img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )
