"""The deployment files: valid, consistent with what is served, and closed to strangers."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from icgan_export.triton_service import ENSEMBLES
from icgan_runtime.serve import CONTROL_HEADER
from icgan_runtime.watchdog import CANARY_MODEL, CANARY_NAME
from tests.triton.conftest import ROOT
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import RefusedError, Wire, rows

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "icgan"
TEMPLATES = sorted((CHART / "templates").glob("*.yaml"))


def rendered(path: Path) -> dict[str, Any]:
    """A template of the chart with its default values; the chart uses plain references only."""
    values = {
        f".Values.{key}": value for key, value in yaml.safe_load((CHART / "values.yaml").read_text()).items()
    }
    known = values | {".Release.Name": "demo"}
    text = re.sub(r"\{\{ (\S+) \}\}", lambda match: str(known[match[1]]), path.read_text())
    assert "{{" not in text, "more than a plain reference: render it with helm instead"
    manifest: dict[str, Any] = yaml.safe_load(text)
    return manifest


def deployment() -> dict[str, Any]:
    container: dict[str, Any] = rendered(CHART / "templates" / "deployment.yaml")["spec"]["template"]["spec"]
    return container


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_manifest_is_what_kubernetes_accepts(path):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(rendered(path), kubernetes_validate.latest_version(), strict=True)


def test_every_value_of_the_chart_is_used():
    used = set(re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in TEMPLATES)))
    assert used == set(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_services_select_the_pods_of_the_deployment():
    labels = rendered(CHART / "templates" / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert rendered(CHART / "templates" / "service.yaml")["spec"]["selector"] == labels
    assert rendered(CHART / "templates" / "disruption.yaml")["spec"]["selector"]["matchLabels"] == labels


def test_probes_send_the_canary_that_the_exporter_writes():
    [container] = deployment()["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    for command in (
        container["readinessProbe"]["exec"]["command"],
        container["livenessProbe"]["exec"]["command"],
        compose["healthcheck"]["test"],
    ):
        assert f"@/models/{CANARY_NAME}" in command
        assert command[-1].endswith(f"/v2/models/{CANARY_MODEL}/generate")


def test_control_and_shared_memory_are_closed_to_strangers_on_both_protocols():
    [container] = deployment()["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    for arguments in (container["args"], compose["command"]):
        for flag in ("--http-restricted-api=", "--grpc-restricted-protocol="):
            [value] = [argument for argument in arguments if argument.startswith(flag)]
            apis, _, key = value.removeprefix(flag).partition(":")
            assert {"model-repository", "shared-memory"} <= set(apis.split(","))
            assert key.startswith(f"{CONTROL_HEADER}=$"), "the key comes from a secret"


def test_a_server_runs_without_privileges_on_a_file_system_it_cannot_change():
    pod = deployment()
    [container] = pod["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"]["drop"] == compose["cap_drop"] == ["ALL"]
    assert compose["read_only"]
    assert "\nUSER triton-server\n" in (DEPLOY / "Dockerfile").read_text()
    assert "/tmp" in compose["tmpfs"]
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_a_pod_finishes_the_requests_of_every_ensemble_before_it_goes():
    [container] = deployment()["containers"]
    script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert all(f" {ensemble.name}" in script for ensemble in ENSEMBLES)
    assert CONTROL_HEADER in script


def test_every_metric_of_the_dashboard_exists_on_a_live_server(server):
    with Wire(server, "grpc") as wire:
        wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)})
        with pytest.raises(RefusedError):
            wire.ask("icgan", {"IMAGE": [b""], **rows(1)})
    with urllib.request.urlopen(server.metrics_url) as response:
        page = response.read().decode()
    dashboard = json.loads((DEPLOY / "grafana" / "icgan.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    wanted = set(re.findall(r"\b(?:nv|icgan)_\w+\b", " ".join(queries))) - {"icgan_file"}
    wanted -= {"icgan_from_pixels", "icgan_from_embedding"}  # models, in a selector
    on_gpu = {name for name in wanted if name.startswith("nv_gpu")}
    assert {name for name in wanted - on_gpu if f"\n{name}" not in page} == set()
