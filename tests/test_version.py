"""The version is said in one place, and what stands elsewhere in words is kept equal to it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import icgan_runtime
import icgan_training

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")

ROOT = Path(__file__).parents[1]


def test_the_distribution_takes_its_version_from_the_runtime():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    path = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert path == Path(icgan_runtime.__file__)
    assert f'__version__ = "{icgan_runtime.__version__}"\n' in path.read_text()
    assert icgan_training.__version__ == icgan_runtime.__version__


def test_the_chart_deploys_the_image_of_this_version():
    chart = yaml.safe_load((ROOT / "deploy/helm/icgan/Chart.yaml").read_text())
    values = yaml.safe_load((ROOT / "deploy/helm/icgan/values.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == icgan_runtime.__version__
    assert values["image"] == f"icgan-triton:{icgan_runtime.__version__}"


@pytest.mark.parametrize("page", ["deploy/Dockerfile", "docs/serving.md"])
def test_who_builds_the_image_as_a_page_says_gets_the_one_that_the_chart_deploys(page):
    assert f"-t icgan-triton:{icgan_runtime.__version__} " in (ROOT / page).read_text()
