"""Training on machines that come and go: torchrun with a range of nodes, as docs/training.md says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser as torchrun_arguments

from icgan_training.networks.presets import PRESETS
from tests.processes import children, wait_until
from tests.training.conftest import make_prepared  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[3]
IMAGES, TICK = 480, 40


def node(data: Path, run: Path, port: int, host: bool, log: Path) -> subprocess.Popen[bytes]:
    """One machine of one or two, with a process of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "training"]
    command += ["--rdzv-conf", f"is_host={int(host)},last_call_timeout=5", "--max-restarts", "3"]
    command += ["--monitor-interval", "0.1", "-m", "icgan_training", "fit", str(data), "--preset", "tiny"]
    command += ["--precision", "float32", "--images", str(IMAGES), "--set", f"tick_images={TICK}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("wb") as words:
        return subprocess.Popen(
            [*command, "--set", "checkpoint_ticks=1", "--out", str(run)],
            stdout=words,
            stderr=words,
            env=environment,
        )


def kill(machine: subprocess.Popen[bytes]) -> None:
    """As a machine goes: with all its processes, of which none says good-bye."""
    for process in (*children(machine.pid), machine.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    machine.wait()


def records(run: Path) -> list[dict[str, float]]:
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_when_a_machine_is_lost_the_other_goes_on_from_the_last_checkpoint(make_prepared, tmp_path):  # noqa: F811
    data, run = make_prepared(), tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    machines = [node(data, run, port, host, tmp_path / f"{host}.txt") for host in (True, False)]
    try:
        wait_until(lambda: records(run), *machines)
        kill(machines[1])
        assert machines[0].wait(timeout=300) == 0, (tmp_path / "True.txt").read_text()
    finally:
        for machine in machines:
            kill(machine)
    seen = [record["images"] for record in records(run)]
    assert seen == list(range(TICK, IMAGES + 1, TICK)), "no tick is missing, none is there twice"
    assert re.findall(r"processes: (\d)", (tmp_path / "True.txt").read_text()) == ["2", "1"]
    assert (run / "generator.safetensors").exists()


def test_the_manifest_is_what_kubernetes_accepts_and_its_command_exists():
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    service, job = yaml.safe_load_all((ROOT / "deploy" / "training.yaml").read_text())
    for manifest in (service, job):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    (fit,) = pod["containers"]
    script = fit["command"][-1]
    host = re.search(r"--rdzv-endpoint ([\w-]+)-0\.([\w-]+):", script)
    assert host
    assert host.groups() == (job["metadata"]["name"], service["metadata"]["name"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert f"--nnodes 1:{job['spec']['completions']}" in script
    values = {each["name"]: each["value"] for each in fit["env"]}
    assert values["PRESET"] in PRESETS
    parsed = torchrun_arguments().parse_args(shlex.split(script.replace("\\\n", ""))[2:])
    assert parsed.module
    assert parsed.training_script == "icgan_training"
