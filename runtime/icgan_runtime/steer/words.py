"""Words as numbers, by the library `tokenizers`, which no other file imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from icgan_runtime import files
from icgan_runtime.errors import BundleError, RequestError

I64 = NDArray[np.int64]

MAX_BYTES = 64 << 20  # of a tokenizer.json
MAX_TEXT = 10_000  # characters


def token_ids(text: str, tokenizer: str | Path, length: int | None) -> tuple[I64, I64]:
    """Numbers of a text's tokens [1, L] by a tokenizer.json, and 1 for each that is no padding [1, L].

    Padded or cut to `length` where that is given. Raises RequestError for a file that is none, and for a text
    of which nothing is known.
    """
    if not 0 < len(text) <= MAX_TEXT:
        raise RequestError("text", f"{len(text)} characters, expected 1..{MAX_TEXT}")
    try:
        data = files.read_bounded(Path(tokenizer), MAX_BYTES, str(tokenizer))
        read = Tokenizer.from_str(data.decode())
    except BundleError as error:
        raise RequestError("tokenizer", str(error)) from None
    except Exception as error:  # the library raises Exception itself
        said = " ".join(str(error).split())[:200]
        raise RequestError("tokenizer", f"{tokenizer}: no tokenizer.json of `tokenizers` ({said})") from None
    if length is not None:
        read.enable_truncation(length)
        padding = read.padding or {}
        read.enable_padding(
            length=length, pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]")
        )
    encoded = read.encode(text)
    if not any(encoded.attention_mask):
        raise RequestError("text", f"{text!r} holds no word that {tokenizer} knows")
    return np.array([encoded.ids], np.int64), np.array([encoded.attention_mask], np.int64)
