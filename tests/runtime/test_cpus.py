"""The CPUs a process may use, under taskset for real and under a container's quota as its files say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from icgan_runtime.cpus import usable_cpus


def test_taskset_is_heeded():
    if shutil.which("taskset") is None:
        pytest.skip("taskset is not installed")
    cpu = min(os.sched_getaffinity(0))
    code = "from icgan_runtime.cpus import usable_cpus; print(usable_cpus())"
    command = ["taskset", "-c", str(cpu), sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1\n"


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),  # one and a half: the half is worth a thread
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {}, 64),
        ("0::/pod/box", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}, 3),
        ("0::/only/the/host/sees", {"cpu.max": "50000 100000"}, 1),
        (
            "4:memory:/\n3:cpu,cpuacct:/box",
            {"cpu/box/cpu.cfs_quota_us": "400000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("0::/", {"cpu.max": "of another kernel"}, 64),
    ],
)
def test_a_quota_is_heeded_wherever_it_is_set(cgroup, files, cpus, many_cpus, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{cgroup}\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cpus(tmp_path) == cpus


def test_without_cgroups_the_affinity_counts(many_cpus, tmp_path):
    assert usable_cpus(tmp_path) == 64
