"""`prepare` on Ray: the files of one process, whatever happens to the nodes. Skipped without Ray."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_training.cli import main
from icgan_training.data import shards
from icgan_training.data.prepare import prepare

PER_SHARD = 32
# Processes of their own: Ray leaves threads and files behind that this suite takes for mistakes of ours.
LOST_NODE = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster
from icgan_runtime.cluster import Place
from icgan_training.data import shards
from icgan_training.data.prepare import prepare

source, out, encoder = sys.argv[1:]
shards.SHARD_PICTURES = 32
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
store, finished = shards.ShardWriter.store, []

def counting(writer, number, shard):
    store(writer, number, shard)
    finished.append(number)
    if len(finished) == 3:
        cluster.remove_node(second, allow_graceful=False)

shards.ShardWriter.store = counting
prepare(Path(source), Path(out), resolution=8, encoder=encoder, neighbours=3, place=Place(cluster.address))
assert sorted(finished) == list(range(len(finished))), finished
cluster.shutdown()
"""
COMMAND = [sys.executable, "-m", "icgan_training", "prepare"]


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a prepared set."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of small pictures, some of which cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(400):
        path = folder / ("left" if number < 150 else "right") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    for number in (3, 77, 149):
        (folder / "left" / f"{number:03d}.png").write_bytes(b"no picture")
    return folder


def test_a_set_whose_second_node_is_lost_has_the_hashes_of_one_process(
    pictures, encoder_file, tmp_path, monkeypatch
):
    pytest.importorskip("ray", reason="pip install 'icgan[ray]'")
    monkeypatch.setattr(shards, "SHARD_PICTURES", PER_SHARD)
    prepare(pictures, tmp_path / "one", resolution=8, encoder=str(encoder_file), neighbours=3)
    words = [sys.executable, "-c", LOST_NODE, pictures, tmp_path / "ray", encoder_file]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "one")
    assert (tmp_path / "ray" / "unreadable.txt").read_text().count("\n") == 3


def test_a_killed_command_goes_on_without_redoing_shards_and_ends_equal(encoder_file, tmp_path):
    pytest.importorskip("ray", reason="pip install 'icgan[ray]'")
    source = tmp_path / "many"  # an array, which each worker opens
    source.mkdir()
    np.save(source / "images.npy", np.random.default_rng(0).integers(0, 256, (1700, 8, 8, 3), np.uint8))
    words = [*COMMAND, source, "--resolution", 8, "--encoder", encoder_file, "--neighbours", 3, "--out"]
    one = subprocess.run([str(word) for word in [*words, tmp_path / "one"]], capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    words = [str(word) for word in [*words, tmp_path / "ray", "--ray", "local", "--workers", 1]]
    markers = tmp_path / "ray.partial" / "shards"
    first = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not list(markers.glob("*.json")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    finished = {path.name: path.stat().st_mtime_ns for path in markers.glob("*.json")}
    again = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while len(list(markers.glob("*.json"))) == len(finished) < 4:
        assert again.poll() is None, again.stderr.read()
        time.sleep(0.01)
    for name, written in finished.items():
        assert not markers.exists() or (markers / name).stat().st_mtime_ns == written
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert "pictures are done" in said
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "one")


def refused(capsys, *words):
    assert main(["prepare", *map(str, words), "--resolution", "8"]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_without_ray_the_install_command_is_named(pictures, encoder_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "icgan_runtime.cluster", None)
    words = (pictures, "--encoder", encoder_file, "--out", tmp_path / "out", "--ray", "local")
    assert "pip install 'icgan[ray]'" in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_one_line(pictures, encoder_file, tmp_path, capsys):
    pytest.importorskip("ray", reason="pip install 'icgan[ray]'")
    words = (pictures, "--encoder", encoder_file, "--out", tmp_path / "out", "--neighbours", 3)
    assert "Ray at 127.0.0.1:1 cannot be reached" in refused(capsys, *words, "--ray", "127.0.0.1:1")


@pytest.mark.parametrize(("option", "value"), [("--workers", -1), ("--threads", 0)])
def test_numbers_out_of_range_are_refused(pictures, encoder_file, tmp_path, capsys, option, value):
    words = (pictures, "--encoder", encoder_file, "--out", tmp_path / "out", "--ray", "local", option, value)
    assert f"{option} is {value}, it must be at least" in refused(capsys, *words)
