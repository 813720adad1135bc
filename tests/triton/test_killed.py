"""One of several real servers is killed while requests are on their way: nothing is lost or wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.cli import main
from icgan_runtime.client.triton import TritonChain
from icgan_runtime.synthesize.reading import Variants
from tests.runtime.client.test_balancing import NAME, SEE
from tests.runtime.client.test_gateway import Balancer

SEEDS, AT_ONCE = 60, 6
# Requests of several threads by one name; it says how many were answered, so that the test can kill then.
SPREAD = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from icgan_runtime import Pipeline

url, rows, out, seeds, at_once = sys.argv[1:]
embedding = np.load(rows)[:1]

def draw(seed):
    return pipe.generate_from(embedding=embedding, n=1, seed=seed).images[0]

images = []
with Pipeline.connect(url, balancing="round_robin") as pipe, ThreadPoolExecutor(int(at_once)) as pool:
    for image in pool.map(draw, range(int(seeds))):
        images.append(image)
        print(len(images), flush=True)
np.save(out, np.stack(images))
"""


def kill(server) -> None:
    """The server and its Python processes, as the kernel does when memory runs out."""
    os.killpg(server.pid, signal.SIGKILL)


def test_a_server_that_is_killed_under_load_costs_no_variant(
    server, start, tiny_bundle, tmp_path, monkeypatch
):
    dying = start(tiny_bundle)
    asked, failed, turn = 0, 0, threading.Lock()
    ask = TritonChain.generate_rows

    def ask_and_kill(chain: TritonChain, embedding, rows):
        nonlocal asked, failed
        if chain.route.url == dying.grpc_url:
            with turn:
                asked += 1
                if asked == 6:  # others of the pool's requests are on their way to it
                    kill(dying)
        try:
            return ask(chain, embedding, rows)
        except Exception:
            failed += 1
            raise

    how = ["--from", str(tiny_bundle / "bank/embeddings.npy"), "--per", "64", "--shard", "160"]
    with monkeypatch.context() as patch:
        patch.setattr(TritonChain, "generate_rows", ask_and_kill)
        urls = [f"--url={dying.grpc_url}", f"--url={server.grpc_url}"]
        assert main(["synthesize", *urls, *how, "--out", str(tmp_path / "served")]) == 0
    assert failed > 0
    assert main(["synthesize", str(tiny_bundle), *how, "--out", str(tmp_path / "local")]) == 0
    served, local = list(Variants(tmp_path / "served")), list(Variants(tmp_path / "local"))
    assert [one["id"] for one in served] == [one["id"] for one in local]
    pairs = zip(served, local, strict=True)
    assert max(np.abs(one["image"].astype(int) - other["image"]).max() for one, other in pairs) <= 1


def test_a_name_whose_second_server_is_killed_under_load_answers_every_request(
    server, start, tiny_bundle, tmp_path
):
    tools = all(map(shutil.which, ("unshare", "mount")))
    if not tools or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    dying, rows = start(tiny_bundle), tiny_bundle / "bank" / "embeddings.npy"
    one = Balancer(server.grpc_url)
    other = Balancer(dying.grpc_url, "127.0.0.2", one.port)
    (tmp_path / "hosts").write_text(f"127.0.0.1 {NAME}\n127.0.0.2 {NAME}\n")
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "HOSTS": str(tmp_path / "hosts"), "PYTHONPATH": paths}
    command = ["unshare", "--mount", "sh", "-c", SEE, "sh", sys.executable, "-c", SPREAD]
    words = [f"grpc://{NAME}:{one.port}", rows, tmp_path / "images.npy", SEEDS, AT_ONCE]
    client = subprocess.Popen(
        [*command, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in client.stdout:
        if line == "12\n":
            kill(dying)
    said = client.communicate()[1]
    one.close()
    other.close()
    assert client.returncode == 0, said
    images = np.load(Path(tmp_path / "images.npy")).astype(int)
    assert len(images) == SEEDS
    with Pipeline.load(tiny_bundle) as pipe:
        embedding = np.load(rows)[:1]
        for seed, image in enumerate(images):
            expected = pipe.generate_from(embedding=embedding, n=1, seed=seed).images[0]
            assert np.abs(image - expected).max() <= 1, seed
