"""The noise of the JavaScript, C++, Kotlin and Swift examples against the golden vectors of docs/noise.md."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
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
    return from_lines([program])


def from_kotlin(folder: Path) -> list[dict[str, Any]]:
    program = folder / "noise_vectors.jar"
    sources = [ROOT / "examples/kotlin/Noise.kt", HERE / "noise_vectors.kt"]
    command: list[str | Path] = [
        "bash",
        str(kotlin_compiler()),
        "-Werror",
        *sources,
        "-include-runtime",
        "-d",
        program,
    ]
    quick = os.environ | {"JAVA_OPTS": "-XX:TieredStopAtLevel=1"}  # no time for a better compiler of itself
    subprocess.run(command, check=True, env=quick)
    return from_lines(["java", "-cp", program, "Noise_vectorsKt"])


def from_swift(folder: Path) -> list[dict[str, Any]]:
    program = folder / "noise_vectors"
    sources = [ROOT / "examples/swift/Noise.swift", HERE / "noise_vectors.swift"]
    build: list[str | Path] = [
        "swiftc",
        "-parse-as-library",
        "-warnings-as-errors",
        "-module-cache-path",
        folder / "modules",
    ]
    subprocess.run([*build, *sources, "-o", program], check=True)
    return from_lines([program])


def kotlin_compiler() -> Path | None:
    """The one of this machine, or what `install.sh` brings."""
    brought = ROOT / "examples/kotlin/compiler/node_modules/kotlin-compiler/bin/kotlinc"
    found = shutil.which("kotlinc")
    return Path(found) if found else brought if brought.exists() else None


def from_lines(command: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What a program prints that is given a line for each case: words, doubles, floats, ranks."""
    cases = json.loads(VECTORS.read_text())
    lines = [
        f"{case['seed']} {case['sample']} {case['truncation'] or 'inf'} {len(case['words'])} "
        f"{len(case['draw_rank'])} {' '.join(case['draw_rank'])}\n"
        for case in cases
    ]
    printed = subprocess.run(command, input="".join(lines), check=True, capture_output=True, text=True).stdout
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


LANGUAGES = {
    "node": (lambda: shutil.which("node"), from_javascript),
    "g++": (lambda: shutil.which("g++"), from_cpp),
    "kotlinc with a Java runtime": (lambda: shutil.which("java") and kotlin_compiler(), from_kotlin),
    "swiftc": (lambda: shutil.which("swiftc"), from_swift),
}


@pytest.mark.parametrize("needs", LANGUAGES)
def test_every_language_gives_the_golden_noise(needs, tmp_path):
    is_there, compute = LANGUAGES[needs]
    if not is_there():
        pytest.skip(f"{needs} is not installed")
    expected = json.loads(VECTORS.read_text())
    for case, found in zip(expected, compute(tmp_path), strict=True):
        assert found["words"] == case["words"]
        assert np.abs(np.subtract(found["z"], case["z"])).max() <= 1e-12
        np.testing.assert_allclose(found["noise"], np.float32(case["z"]), rtol=2**-23, atol=0)
        assert found["draw_rank"] == case["draw_rank"]
