"""Picture files in the page and in Python: which way is up, transparency, colours, to the last bit."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import images
from icgan_runtime.reader import colour, orientation
from tests.edge.conftest import node
from tests.picture_files import ADOBE_RGB, DISPLAY_P3, ORIENTED, SRGB, chunk, encoded, photo, png, profile

HERE = Path(__file__).parent
SIZE = 48
RGB = photo((90, 61))
ALPHA = RGB.convert("RGBA")
ALPHA.putalpha(Image.linear_gradient("L").resize(RGB.size))
FOLLOWED = [name for name in ORIENTED if not name.startswith(("TIFF", "HEIC"))]  # what Chromium decodes


def sixteen_bits(*key: int) -> bytes:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 1 << 16, (9, 9, len(key)), np.uint16)
    samples[:4] = key
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    return png(9, 9, rows, 16, 0 if len(key) == 1 else 2, transparent)


def shallow_grey() -> bytes:
    return png(4, 4, (b"\0" + b"\x5f\x0e") * 4, 4, 0, chunk(b"tRNS", struct.pack(">H", 5)))


WIDE = {"P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "sRGB": SRGB}
SAME: dict[str, bytes] = {
    **{f"{name} {said}": ORIENTED[name][1](RGB, said) for name in FOLLOWED for said in range(1, 9)},
    **{
        f"{kind} in {name}": encoded(RGB, kind, icc_profile=profile(*space))
        for kind in ("JPEG", "PNG", "WEBP", "AVIF")
        for name, space in WIDE.items()
    },
    **{f"{kind}, transparent": encoded(ALPHA, kind) for kind in ("PNG", "WEBP")},
    "PNG, grey of 16 bits with a transparent level": sixteen_bits(3000),
    "PNG, 16 bits with a transparent colour": sixteen_bits(3000, 40000, 7),
    "PNG, grey of 4 bits with a transparent level": shallow_grey(),
    "PNG, palette": encoded(RGB.quantize(17), "PNG", transparency=3),
    "GIF": encoded(RGB, "GIF"),
    "BMP": encoded(RGB, "BMP"),
    "JPEG, grey": encoded(RGB.convert("L"), "JPEG"),
    "JPEG, progressive": encoded(RGB, "JPEG", progressive=True),
    "JPEG of several pictures": encoded(RGB, "MPO", save_all=True, append_images=[RGB.rotate(180)]),
}


def written(folder: Path, files: dict[str, bytes]) -> list[str]:
    paths = [folder / str(number) for number in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def seen(node_packages, tmp_path_factory) -> dict[str, Any]:
    """What the page's code makes of every file in Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    files = SAME | {
        "TIFF": encoded(RGB, "TIFF"),
        "text": b"Dear all",
        "cut": encoded(RGB, "WEBP")[:300],
        "AVIF, transparent": encoded(ALPHA, "AVIF"),
    }
    told = {"files": written(tmp_path_factory.mktemp("files"), files), "size": SIZE, "chromium": chromium}
    return dict(zip(files, json.loads(node(HERE / "decode.mjs", json.dumps(told))), strict=True))


def pixels(text: str, side: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(side, side, 3)


@pytest.mark.parametrize("name", SAME)
def test_a_file_gives_the_same_bytes_in_chromium_and_in_python(name, seen):
    assert "error" not in seen[name], seen[name]
    np.testing.assert_array_equal(pixels(seen[name]["pixels"], SIZE), images.decode(SAME[name], SIZE))


def test_half_transparent_avif_is_known_to_differ_in_chromium(seen):
    difference = pixels(seen["AVIF, transparent"]["pixels"], SIZE) - images.decode(
        encoded(ALPHA, "AVIF"), SIZE
    ).astype(int)
    assert np.abs(difference).max() <= 24


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("TIFF", "This TIFF file is damaged, or of a kind that this browser does not decode. Try a JPEG"),
        ("cut", "This WebP file is damaged, or of a kind that this browser does not decode. Try a JPEG"),
        ("text", "This file cannot be read as a picture. Try a JPEG, PNG, WebP, GIF, BMP or AVIF."),
    ],
)
def test_what_the_browser_cannot_decode_is_called_by_its_name(seen, name, sentence):
    assert seen[name]["error"].startswith(sentence)


def test_node_reads_orientation_and_profile_of_every_container_as_python_does(node_packages, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "pixels").write_bytes(colours.tobytes())
    said: dict[str, tuple[bytes, int, bytes | None]] = {
        f"{name} {turn}": (write(RGB, turn), turn if counts and "container" not in name else 1, None)
        for name, (_, write, counts) in ORIENTED.items()
        if not name.startswith(("TIFF", "HEIC"))
        for turn in (1, 6, 8)
    }
    for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        for name, space in WIDE.items():
            wide = profile(*space)
            said[f"{kind} {name}"] = (encoded(RGB, kind, icc_profile=wide), 1, wide)
    files = written(tmp_path, {name: data for name, (data, _, _) in said.items()})
    told = {"files": files, "pixels": str(tmp_path / "pixels")}
    for (name, (_, turn, said_wide)), found in zip(
        said.items(), json.loads(node(HERE / "decode.mjs", json.dumps(told))), strict=True
    ):
        assert found["orientation"] == turn, name
        expected = colours if said_wide is None else colour.to_srgb(colours, said_wide)
        np.testing.assert_array_equal(pixels(found["pixels"], 64), expected, err_msg=name)
    assert orientation.of_exif(None) == 1
