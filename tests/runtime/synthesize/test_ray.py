"""A run on a Ray cluster of two nodes, one of which dies. Skipped without Ray: pip install 'icgan[ray]'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from icgan_runtime.synthesize.reading import Variants
from tests.runtime.synthesize.conftest import shards

pytest.importorskip("ray", reason="pip install 'icgan[ray]'")

# A process of its own: Ray leaves threads and files behind that this suite takes for mistakes of ours.
RUN = """
import sys
from ray.cluster_utils import Cluster
from icgan_runtime.synthesize.recipe import Settings
from icgan_runtime.synthesize.run import finish, on_ray
from icgan_runtime.synthesize.work import Job, Worker

bundle, out = sys.argv[1:]
job = Job("bank", out, bundle, threads=1, settings=Settings(per=200, shard=200))
worker = Worker.open(job)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
finished = []

def advance(number, count, skipped):
    finished.append(number)
    if len(finished) == 4:
        cluster.remove_node(second, allow_graceful=False)

on_ray(job, iter(range(worker.recipe.units)), cluster.address, 0, advance)
assert sorted(finished) == list(range(worker.recipe.units)), finished
assert finish(worker, True)
worker.close()
cluster.shutdown()
"""


def test_a_run_that_loses_a_node_is_complete_and_equal(synthesize, tiny_bundle, tmp_path):
    synthesize(tiny_bundle, "bank", tmp_path / "one", "--per", 200, "--shard", 200)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tiny_bundle), str(tmp_path / "ray")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(Variants(tmp_path / "ray")) == 4000
    assert shards(tmp_path / "one") == shards(tmp_path / "ray")


def test_two_local_workers_write_what_one_process_does(synthesize, tiny_bundle, tmp_path):
    synthesize(tiny_bundle, "bank", tmp_path / "one", "--per", 10, "--shard", 50)
    words = ["synthesize", tiny_bundle, "--from", "bank", "--out", tmp_path / "ray", "--threads", 1]
    words += ["--per", 10, "--shard", 50, "--ray", "local", "--workers", 2]
    program = [sys.executable, "-c", "import sys; from icgan_runtime.cli import main; sys.exit(main())"]
    done = subprocess.run([*program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert shards(tmp_path / "one") == shards(tmp_path / "ray")


def test_a_cluster_that_is_not_there_is_one_line(tiny_bundle, tmp_path):
    words = ["synthesize", tiny_bundle, "--from", "bank", "--out", tmp_path / "out", "--ray", "127.0.0.1:1"]
    program = [sys.executable, "-c", "import sys; from icgan_runtime.cli import main; sys.exit(main())"]
    done = subprocess.run([*program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("icgan: Ray at 127.0.0.1:1")
    assert Path(tmp_path / "out" / "recipe.json").exists()
