"""One gRPC name with several addresses, as a headless service has in Kubernetes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.client.test_gateway import Balancer
from tests.runtime.stand_in import StandIn

ROOT = Path(__file__).parents[3]
PHOTO = ROOT / "examples" / "photos" / "oranges.jpg"
NAME = "servers.test"
# The name stands in a hosts file that only this process sees.
SEE = 'mount --bind "$HOSTS" /etc/hosts && exec "$@"'
PROGRAM = """
import sys
from icgan_runtime import Pipeline

_, url, balancing, picture = sys.argv
with Pipeline.connect(url, balancing=balancing) as pipe:
    images = [pipe.generate(picture, seed=seed).images.sum() for seed in range(6)]
    print("half", flush=True)
    sys.stdin.readline()
    print(images == [pipe.generate(picture, seed=seed).images.sum() for seed in range(6)], flush=True)
"""


@pytest.fixture
def pair(tiny_bundle):
    """Two servers, each behind an address of its own with the same port."""
    with StandIn(tiny_bundle) as first, StandIn(tiny_bundle) as second:
        one = Balancer(first.grpc_url)
        other = Balancer(second.grpc_url, "127.0.0.2", one.port)
        yield (first, one), (second, other)
        one.close()
        other.close()


def client(balancing: str, port: int, folder: Path) -> subprocess.Popen[str]:
    tools = all(map(shutil.which, ("unshare", "mount")))
    if not tools or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    (folder / "hosts").write_text(f"127.0.0.1 {NAME}\n127.0.0.2 {NAME}\n")
    environment = {**os.environ, "HOSTS": str(folder / "hosts"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["unshare", "--mount", "sh", "-c", SEE, "sh", sys.executable, "-c", PROGRAM]
    command += [f"grpc://{NAME}:{port}", balancing, str(PHOTO)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_requests_take_turns_and_none_is_lost_with_a_server(pair, tmp_path):
    (first, one), (second, other) = pair
    with client("round_robin", one.port, tmp_path) as process:
        assert process.stdout.readline() == "half\n"
        assert sorted([first.seen.count("icgan_from_pixels"), second.seen.count("icgan_from_pixels")]) == [
            3,
            3,
        ]
        other.close()
        assert process.communicate("\n")[0] == "True\n"
    assert process.returncode == 0


def test_without_being_asked_to_a_client_stays_on_one_address(pair, tmp_path):
    (first, one), (second, _) = pair
    with client("pick_first", one.port, tmp_path) as process:
        assert process.stdout.readline() == "half\n"
        assert process.communicate("\n")[0] == "True\n"
    assert sorted([first.seen.count("icgan_from_pixels"), second.seen.count("icgan_from_pixels")]) == [0, 12]
