"""The licence of the pictures, as somebody left it beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icgan_export.source.instances import choose_instances
from icgan_export.source.runs import read_run


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run directory of its own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("data", "licence"),
    [
        (b"\xef\xbb\xbfMIT License\r\n\r\nCopyright", "MIT License"),  # as Windows writes it
        ("\n  CC\u00a0BY\t4.0 \x1b[0m".encode(), "CC BY 4.0 [0m"),
        (b"", "LicenseRef-unstated"),
        (b" \n\n", "LicenseRef-unstated"),
    ],
)
def test_the_licence_beside_pictures_is_text_that_a_manifest_takes(run, data, licence):
    """What is not printable is refused when the bundle is read, after all the work."""
    pictures = run / "instances"
    (pictures / "LICENSE").write_bytes(data)
    found = choose_instances(read_run(run), pictures, 2, 1)
    assert found.licence == licence
    assert found.licence.isprintable()
