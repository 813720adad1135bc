#!/usr/bin/env bash
# Expected: a grey PNG whose header names one level as transparent (tRNS) has transparent pixels after Pillow's
# convert("RGBA"), at every bit depth, as browsers and the PNG specification have it.
# Instead: of 2- and 4-bit grey Pillow spreads the pixels over 0..255, but leaves the level in info["transparency"] as it
# is stored, so nothing becomes transparent; 16-bit grey ("I;16") and 16-bit colour ignore theirs, too. 1 and 8 bits work.
# Seen with Pillow 13.0.0. In practice: hidden pixels show their hidden grey. Multiply the level by 85 or 17 before
# converting, and compare 16-bit samples before they become bytes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6 2> "$work/log" || { cat "$work/log"; exit 2; }
"$work/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys
import zlib

import numpy as np
import PIL
from PIL import Image


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth):
    """Two grey pixels: one of the level that is transparent, and black."""
    row = {1: b"\x80", 2: b"\x40", 4: b"\x10", 8: b"\1\0", 16: struct.pack(">HH", 1000, 0)}[depth]
    key = struct.pack(">H", 1000 if depth == 16 else 1)
    header = struct.pack(">IIBBBBB", 2, 1, depth, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": key, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


print("Pillow", PIL.__version__)
alpha = {}
for depth in (1, 2, 4, 8, 16):
    picture = Image.open(io.BytesIO(png(depth)))
    level = picture.info["transparency"]
    alpha[depth] = np.asarray(picture.convert("RGBA"))[0, :, 3].tolist()
    print(f"{depth:2} bits: mode {picture.mode}, transparency {level}, alpha {alpha[depth]} (right: [0, 255])")
wrong = [depth for depth, found in alpha.items() if found != [0, 255]]
print("wrong at depths", wrong)
sys.exit(wrong != [2, 4, 16])
PYTHON
