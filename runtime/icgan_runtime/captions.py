"""Words on sheets: a few short lines below a picture, and one below a strip of pictures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

U8 = NDArray[np.uint8]

CELL = 112  # pixels: the least width of a picture with words below it
LINE = 15  # pixels of height
_SIZE = 11  # of the letters
_CUT = "…"
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "ß": "ss", "æ": "ae", "ø": "o"}
)


def below(pictures: U8 | Sequence[U8], lines: Sequence[Sequence[str]]) -> U8:
    """Pictures [n, S, S, 3], each with its `lines` of text below: uint8 [n, H, W, 3], all of one size.

    Small pictures are enlarged by whole pixels, so that the words have room.
    """
    stack = np.asarray(pictures)
    factor = max(1, math.ceil(CELL / stack.shape[2]))
    stack = stack.repeat(factor, axis=1).repeat(factor, axis=2)
    height = LINE * max(len(each) for each in lines)
    words = np.stack([_strip(each, stack.shape[2], height) for each in lines])
    return np.concatenate([stack, words], axis=1)


def under(sheet: U8, text: str) -> U8:
    """A sheet [H, W, 3] with one line of text under it."""
    return np.concatenate([sheet, _strip([text], sheet.shape[1], LINE)], axis=0)


def _strip(lines: Sequence[str], width: int, height: int) -> U8:
    """Lines of text in black on white, cut where too long: paths at the front, for their end says more."""
    font = ImageFont.load_default(_SIZE)
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        shown = whole = _plain(" ".join(line.split()))
        is_path = "/" in whole and " " not in whole
        while whole and draw.textlength(shown, font=font) > width - 2:
            whole = whole[1:] if is_path else whole[:-1]
            shown = _CUT + whole if is_path else whole + _CUT
        draw.text((1, number * LINE), shown, fill="black", font=font)
    return np.asarray(strip)


def _plain(text: str) -> str:
    """Text in the letters that Pillow's own font has: without accents, and ? for those of other scripts.

    The font would draw every one of them as the same empty box.
    """
    parts = unicodedata.normalize("NFKD", text.translate(_PLAIN).replace(_CUT, "..."))
    return "".join(
        letter if letter.isascii() else "?" for letter in parts if not unicodedata.combining(letter)
    )
