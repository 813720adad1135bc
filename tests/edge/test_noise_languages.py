"""The noise of the JavaScript and C++ examples against the golden vectors of docs/noise.md."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests/golden/noise.json"
HERE = Path(__file__).parent


def from_javascript(_folder: Path) -> list[dict[str, Any]]:
    command = ["node", str(HERE / "noise_vectors.mjs"), str(VECTORS)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def from_cpp(folder: Path) -> list[dict[str, Any]]:
    program = folder / "noise_vectors"
    build = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "examples/cpp")]
    subprocess.run([*build, str(HERE / "noise_vectors.cpp"), "-o", str(program)], check=True)
    cases = json.loads(VECTORS.read_text())
    lines = [
        f"{case['seed']} {case['sample']} {case['truncation'] or 'inf'} {len(case['words'])} "
        f"{len(case['draw_rank'])} {' '.join(case['draw_rank'])}\n"
        for case in cases
    ]
    printed = subprocess.run(
        [program], input="".join(lines), check=True, capture_output=True, text=True
    ).stdout
    found = []
    for case, line in zip(cases, printed.splitlines(), strict=True):
        count, fields = len(case["words"]), line.split()
        found.append(
            {
                "words": fields[:count],
                "z": [float(z) for z in fields[count : 2 * count]],
                "noise": [float(z) for z in fields[2 * count : 3 * count]],
                "draw_rank": dict(zip(case["draw_rank"], map(int, fields[3 * count :]), strict=True)),
            }
        )
    return found


@pytest.mark.parametrize(("needs", "compute"), [("node", from_javascript), ("g++", from_cpp)])
def test_every_language_gives_the_golden_noise(needs, compute, tmp_path):
    if shutil.which(needs) is None:
        pytest.skip(f"{needs} is not installed")
    expected = json.loads(VECTORS.read_text())
    for case, found in zip(expected, compute(tmp_path), strict=True):
        assert found["words"] == case["words"]
        assert np.abs(np.subtract(found["z"], case["z"])).max() <= 1e-12
        np.testing.assert_allclose(found["noise"], np.float32(case["z"]), rtol=2**-23, atol=0)
        assert found["draw_rank"] == case["draw_rank"]
