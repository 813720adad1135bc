"""The built page on real web servers: Debian's nginx with its list of types, and plain http on a name."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import EXAMPLES, ROOT, node
from tests.processes import listens, wait_until

HERE = Path(__file__).parent
NAME = "icgan.test"  # of a machine in the local network
CONFIGURATION = """\
daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 64; }}
http {{
  include /etc/nginx/mime.types; default_type application/octet-stream; access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; index index.html; add_header {policy}; }}
}}
"""


def documented_policy() -> str:
    """The Content-Security-Policy that docs/edge.md gives for nginx."""
    return re.findall(r"add_header (Content-Security-Policy .*);", (ROOT / "docs/edge.md").read_text())[0]


@pytest.fixture(scope="module")
def nginx(tiny_bundle, node_packages, tmp_path_factory) -> Iterator[int]:
    """The port of Debian's nginx with the page of a tiny bundle."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None or not Path("/etc/nginx/mime.types").exists():
        pytest.skip("Debian's nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    node(EXAMPLES / "web/build.mjs", tiny_bundle, folder / "dist")
    for path in (folder, *folder.parents[:2], *(folder / "dist").rglob("*")):  # its workers are nobody
        path.chmod(path.stat().st_mode | 0o055)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"folder": folder, "port": port, "root": folder / "dist", "policy": documented_policy()}
    (folder / "nginx.conf").write_text(CONFIGURATION.format(**settings))
    command = [program, "-c", folder / "nginx.conf", "-e", folder / "errors", "-g", "master_process off;"]
    with subprocess.Popen(command) as process:
        wait_until(lambda: listens(port), process)
        yield port
        process.terminate()


def visit(url: str, *flags: str) -> dict[str, object]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    seen: dict[str, object] = json.loads(node(HERE / "visit.mjs", chromium, url, *flags))
    return seen


def test_the_page_draws_on_debians_nginx_under_the_documented_policy(nginx):
    seen = visit(f"http://localhost:{nginx}/")
    assert seen == {"errors": [], "secure": True, "problem": None, "drawn": 16}


def test_the_page_draws_over_plain_http_on_a_name_of_the_local_network(nginx):
    """Where a browser has neither crypto.subtle nor a service worker nor threads."""
    seen = visit(f"http://{NAME}:{nginx}/", f"--host-resolver-rules=MAP {NAME} 127.0.0.1")
    assert seen == {"errors": [], "secure": False, "problem": None, "drawn": 16}
