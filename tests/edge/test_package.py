"""The JavaScript package: packed, installed elsewhere, tested there, and used by a typed program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import icgan_runtime
from icgan_runtime import Pipeline
from tests.edge.conftest import EXAMPLES

PROGRAM = """\
import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";
import { Pipeline, type Request } from "icgan";

const read = async (name: string) => new Uint8Array(await readFile(`${process.argv[2]}/${name}`));
const pipeline: Pipeline = await Pipeline.load(ort, read);
const request: Request = { n: 2, seed: 5n, truncation: 0.7, condition: "query" };
const drawn: number[] = [];
for await (const { images } of pipeline.generate(pipeline.stored(3), request)) drawn.push(...images);
console.log(JSON.stringify({ drawn, nearest: pipeline.search(pipeline.stored(3))[0].id }));
await pipeline.release();
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(node_packages, tmp_path_factory) -> Path:
    """A project of somebody else, with the package installed as npm would."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("project")
    run("npm", "pack", "--pack-destination", folder, "--silent", cwd=EXAMPLES / "web")
    [packed] = folder.glob("icgan-*.tgz")
    modules = folder / "node_modules"
    modules.mkdir()
    shutil.unpack_archive(packed, modules)
    (modules / "package").rename(modules / "icgan")
    for entry in node_packages.iterdir():
        if entry.name != "icgan":
            (modules / entry.name).symlink_to(entry)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def test_its_version_is_the_python_packages(project):
    said = json.loads((project / "node_modules/icgan/package.json").read_text())
    assert icgan_runtime.__version__.startswith(said["version"])


def test_its_own_tests_pass_where_it_is_installed(project, labelled_bundle):
    package = project / "node_modules/icgan"
    script = json.loads((package / "package.json").read_text())["scripts"]["test"]
    printed = run(*script.split(), cwd=package, BUNDLE=str(labelled_bundle))
    counts = dict(re.findall(r"^\W*(tests|pass|fail|skipped) (\d+)$", printed, re.MULTILINE))
    assert counts["pass"] == counts["tests"] != "0", printed


def test_every_export_has_a_type_and_no_type_is_without_its_export(project):
    code = "import * as all from 'icgan'; console.log(Object.keys(all).sort().join());"
    exported = run("node", "--input-type=module", "-e", code, cwd=project).strip().split(",")
    types = (project / "node_modules/icgan/index.d.ts").read_text()
    assert sorted(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE)) == exported


def test_a_typed_program_compiles_and_draws_pythons_pictures(project, tiny_bundle):
    (project / "program.mts").write_text(PROGRAM)
    compiler = project / "node_modules/.bin/tsc"
    if not compiler.exists():
        pytest.skip("typescript is not installed: make test-edge")
    # Node's own types are no part of this: what is used of them is declared here
    (project / "node.d.ts").write_text(
        'declare module "node:fs/promises" { export function readFile(path: string): Promise<Uint8Array>; }\n'
        "declare const process: { argv: string[] };\ndeclare const console: { log(text: string): void };\n"
    )
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "--types", ""]
    run(compiler, *options, "program.mts", "node.d.ts", cwd=project)
    found = json.loads(run("node", "program.mjs", tiny_bundle, cwd=project))
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        expected = pipe.generate_from(pipe.bank.embeddings[3], n=2, seed=5, truncation=0.7).images
        assert found["nearest"] == pipe.bank.ids[3]
    assert np.abs(np.array(found["drawn"]) - expected.astype(int).ravel()).max() <= 1


def test_a_wrong_use_does_not_compile(project):
    compiler = project / "node_modules/.bin/tsc"
    if not compiler.exists():
        pytest.skip("typescript is not installed: make test-edge")
    wrong = 'import { noise } from "icgan";\nexport const z: Float32Array = noise(7, 0, 0.5, 8);\n'
    (project / "wrong.mts").write_text(wrong)
    command = [compiler, "--strict", "--module", "nodenext", "--target", "es2022", "--noEmit", "wrong.mts"]
    done = subprocess.run([str(part) for part in command], cwd=project, capture_output=True, text=True)
    assert "'number' is not assignable to parameter of type 'bigint'" in done.stdout
