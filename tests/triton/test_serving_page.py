"""README.md and docs/serving.md: what they tell a user of plain HTTP to type can be pasted."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from tests.triton.conftest import ROOT
from tests.triton.test_icgan import PHOTO


def run_pasted(page: str, port: int, folder: Path, photo: bytes = PHOTO) -> subprocess.CompletedProcess[str]:
    """Run the page's only shell block beside photo.jpg."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    [command] = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (folder / "photo.jpg").write_bytes(photo)
    command = command.replace("localhost:8000", f"127.0.0.1:{port}")
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)


def paste(page: str, server, folder: Path) -> None:
    done = run_pasted(page, server.options.ports.http, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_a_pasted_command_that_fails_shows_the_servers_words(server, page, tmp_path):
    done = run_pasted(page, server.options.ports.http, tmp_path, b"no picture")
    assert done.returncode == 1
    assert "IMAGE" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_pasted(page, 1, tmp_path)
    assert done.returncode == 1
    assert "connect to 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_readmes_curl_command_works_as_pasted(server, tiny_bundle, tmp_path):
    paste("README.md", server, tmp_path)
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, truncation=0.7).images[0]
    picture = Image.open(io.BytesIO((tmp_path / "generated.png").read_bytes()))
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_the_pages_kserve_request_works_as_pasted(server, tiny_bundle, tmp_path):
    paste("docs/serving.md", server, tmp_path)
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, n=2, truncation=0.7).images
    with Image.open(tmp_path / "0.png") as first, Image.open(tmp_path / "1.jpg") as second:
        np.testing.assert_array_equal(np.asarray(first), expected[0])
        assert (second.format, second.size) == ("JPEG", expected.shape[2:0:-1])


def test_the_changelog_names_the_version_of_the_embedded_server(server):
    with urllib.request.urlopen(f"{server.http_url}/v2") as answer:
        version = json.load(answer)["version"]
    assert f"Triton {version} " in (ROOT / "CHANGELOG.md").read_text()
