"""Signed pictures as a reader of C2PA sees them that is not the SDK which signed them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime.marks.mark import Mark
from tests.edge.conftest import EXAMPLES, node

pytest.importorskip("c2pa")
from tests.runtime.marks.certificates import write_signer

SAMPLES = {"PNG": b"IDAT", "JPEG": b"\xff\xda"}  # pixels follow


@pytest.mark.parametrize("kind", SAMPLES)
def test_another_reader_finds_a_signed_file_valid_and_invalid_after_a_flipped_byte(
    kind, node_packages, tmp_path
):
    if not (EXAMPLES / "node_modules/@trustnxt/c2pa-ts").is_dir():
        pytest.skip("the reader is not installed: make examples/node_modules/.stamp")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    whole = Mark(None, write_signer(tmp_path)[0]).encode(pixels, kind)
    flipped = bytearray(whole)
    flipped[whole.find(SAMPLES[kind]) + 200] ^= 1
    for name, data in (("whole", whole), ("flipped", bytes(flipped))):
        (tmp_path / name).write_bytes(data)
    said = json.loads(node(Path(__file__).with_name("c2pa.mjs"), tmp_path / "whole", tmp_path / "flipped"))
    assert said[0] == {"valid": True, "failed": []}
    assert not said[1]["valid"]
    assert "assertion.dataHash.mismatch" in said[1]["failed"]
