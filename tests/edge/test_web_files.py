"""The page as files: what build.mjs takes from a bundle, and serve.mjs among requests that make no sense."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.edge.conftest import EXAMPLES, node


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    """A copy to spoil, with secrets beside it."""
    for kind in ("npy", "onnx", "html"):
        (tmp_path / f"secret.{kind}").write_text("not to be published")
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def build(bundle: Path, change: Callable[[dict[str, Any]], None]) -> subprocess.CompletedProcess[str]:
    """Change the manifest and build a page in place of an older one, which must outlive a refusal."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    older = bundle.parent / "dist"
    older.mkdir()
    (older / "sw.js").write_text("older")
    done = subprocess.run(["node", EXAMPLES / "web/build.mjs", bundle, older], capture_output=True, text=True)
    assert "not to be published" not in "".join(
        file.read_text(errors="replace") for file in older.rglob("*") if file.is_file()
    )
    assert (older / "sw.js").read_text() == "older"
    return done


@pytest.mark.parametrize(
    "name", ["../secret.onnx", "bank/../../secret.onnx", "/etc/passwd", "generator.html"]
)
def test_a_graph_outside_the_bundle_or_that_a_browser_would_run_is_not_published(bundle, node_packages, name):
    shutil.copy(bundle.parent / "secret.html", bundle / "generator.html")

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"bytes": 19, "sha256": "0" * 64}
        for graph in manifest["graphs"]:
            graph["file"] = name

    done = build(bundle, change)
    assert done.returncode == 1
    assert done.stderr == f'"{name}" is not the name of a file of the page inside the bundle\n'


@pytest.mark.parametrize("name", ["bank/../../secret.npy", "bank/page.html", "bank/link.npy"])
def test_a_file_of_the_bank_that_is_none_is_not_published(bundle, node_packages, name):
    (bundle / "bank" / "link.npy").symlink_to(bundle.parent / "secret.npy")
    shutil.copy(bundle.parent / "secret.html", bundle / "bank" / "page.html")
    entry = {name: {"bytes": 19, "sha256": "0" * 64}}
    done = build(bundle, lambda manifest: manifest["files"].update(entry))
    assert done.returncode == 1
    assert done.stderr == f'"{name}" is not the name of a file of the page inside the bundle\n'


def test_an_older_page_outlives_a_build_without_the_packages(bundle):
    """As after a clone: `npm ci` comes first."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    shutil.copytree(EXAMPLES / "web", bundle.parent / "web")
    (bundle.parent / "dist").mkdir()
    (bundle.parent / "dist" / "sw.js").write_text("older")
    command = ["node", bundle.parent / "web/build.mjs", bundle, bundle.parent / "dist"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Cannot find module 'onnxruntime-web'" in done.stderr
    assert (bundle.parent / "dist" / "sw.js").read_text() == "older"


@pytest.fixture
def address(node_packages, tmp_path) -> Iterator[tuple[str, int]]:
    """Of serve.mjs on a folder with a page, beside a secret."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("the page")
    (tmp_path / "secret").write_text("not to be published")
    command = ["node", EXAMPLES / "web/serve.mjs", tmp_path / "dist", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield "127.0.0.1", int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        process.kill()


@pytest.mark.parametrize("path", ["/%", "//", "/%00", "/../secret", "/..%2fsecret", "/absent"])
def test_an_address_that_leads_nowhere_is_not_found_and_ends_nothing(address, path):
    with socket.create_connection(address) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert connection.makefile().readline().split()[1] == "404"
    with urlopen(f"http://{address[0]}:{address[1]}/") as response:
        assert response.read() == b"the page"


WORKER = """
const [listeners, asked] = [{}, {}];
globalThis.Request = class { constructor(url, { cache }) { Object.assign(this, { url, cache }); } };
globalThis.self = { addEventListener: (name, listener) => (listeners[name] = listener), skipWaiting() {} };
globalThis.location = { origin: "http://here" };
const cache = {
  addAll: async (all) => all.forEach(({ url, cache }) => (asked[url] = cache)),
  match: async () => {},
  put() {},
};
globalThis.caches = { open: async () => cache };
globalThis.fetch = async ({ url }, { cache } = {}) => ((asked[url] = cache), new Response(""));
(0, eval)(require("fs").readFileSync(process.argv[1], "utf8"));
(async () => {
  await new Promise((done) => listeners.install({ waitUntil: done }));
  const request = { url: "http://here/bundle/manifest.json", method: "GET" };
  await new Promise((done) => listeners.fetch({ request, respondWith: done }));
  console.log(JSON.stringify(asked));
})();
"""


def test_what_the_page_keeps_for_offline_use_is_not_taken_from_an_older_build(node_packages):
    """The browser's own cache may hold one, of a host that lets it: kept, it would be served for good."""
    asked = json.loads(node("-e", WORKER, EXAMPLES / "web/sw.js"))
    assert asked.pop("http://here/bundle/manifest.json") == "no-cache"
    assert {"./", "app.js", "bundle.js"} <= set(asked)
    assert set(asked.values()) == {"reload"}
