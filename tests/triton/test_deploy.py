"""The deployment files: valid, consistent with what is served, and closed to strangers."""

from __future__ import annotations

import http.server
import importlib.resources
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from icgan_export.cli import build_parser as build_export_parser
from icgan_runtime.cli import build_parser
from icgan_runtime.server.environment import assemble_backends
from icgan_runtime.server.models import CANARY_MODEL, ENSEMBLES
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import CONTROL_HEADER, Server, ServerOptions, free_ports
from icgan_runtime.server.repository import read_releases, write_repository
from icgan_runtime.server.watchdog import CANARY_NAME
from tests.triton.conftest import ROOT, quiet
from tests.triton.test_icgan import PHOTO
from tests.triton.test_watchdog import kill
from tests.triton.wire import RefusedError, Wire, rows

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
DEPLOY = ROOT / "deploy"
STAGED = ("python", "onnxruntime")  # backends whose models are processes of their own
CHART = DEPLOY / "helm" / "icgan"
VALUES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "changed": {
        "replicas": 3,
        "gpus": 4,
        "image": "registry.example:5000/icgan@sha256:0123",
        "cpu": 0.5,
        "startupSeconds": 1800,
    },
    "of a cluster": {
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "env": [{"name": "NAME", "value": "1"}],
        "runtimeClassName": "nvidia",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "spreadOver": "kubernetes.io/hostname",
        "bundleImage": "registry.example/bundles/demo:1",
        "engineCache": "icgan-engines",
        "signSecret": "icgan-sign",
    },
    "of a registry": {"bundleArtifact": f"registry.example/bundles/demo@sha256:{'0' * 64}"},
    "under KServe": {"kserve": True, "podMonitor": True, "engineCache": "icgan-engines"},
    "on CPUs, counted and watched by hand": {"gpus": 0, "autoscaler": False, "replicas": 5},
}
FOREIGN = {"serving.kserve.io/v1beta1", "monitoring.coreos.com/v1"}  # of operators, not of Kubernetes
ALWAYS = {
    "Deployment/demo",
    "Service/demo",
    "Service/demo-pods",
    "Service/demo-all",
    "PodDisruptionBudget/demo",
}


# Helm's library brings Go's runtime, which may end the process that it is in with last words that pytest
# keeps. A process of whole runs was lost where this library is loaded first: so Helm runs in one of its own.
LINT = "helm_python.lint(chart, strict=True)"
RENDER = "dict(helm_python.Chart.load(chart).render(values, name='demo'))"


def of_helm(expression: str, values: Mapping[str, Any] | None = None) -> Any:
    """What Helm's library answers for the chart; HelmError where it refuses."""
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("pip install helm-python-sdk")
    program = f"""
import json, sys, helm_python
chart, values = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps({expression}))
"""
    command = [sys.executable, "-c", program, str(CHART), json.dumps(dict(values or {}))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise HelmError(done.stderr)
    return json.loads(done.stdout)


class HelmError(Exception):
    """What Helm says against a chart or its values."""


def rendered_all(values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The chart as Helm itself fills it in: kind/name -> manifest."""
    files = of_helm(RENDER, values).values()
    manifests = [manifest for file in files for manifest in yaml.safe_load_all(file) if manifest]
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in manifests}


def rendered(values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """kind -> manifest, of those that have the release's own name."""
    return {
        name.partition("/")[0]: manifest
        for name, manifest in rendered_all(values).items()
        if name.endswith("/demo")
    }


def deployment() -> dict[str, Any]:
    pod: dict[str, Any] = rendered()["Deployment"]["spec"]["template"]["spec"]
    return pod


def test_helm_finds_nothing_wrong_with_the_chart():
    report = of_helm(LINT)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_what_helm_makes_of_the_chart_is_what_kubernetes_accepts(values):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    manifests = rendered_all(values)
    wanted = set(ALWAYS)
    wanted |= {"HorizontalPodAutoscaler/demo"} if values.get("autoscaler", True) else set()
    wanted |= {"Job/demo-bundle"} if {"bundleImage", "bundleArtifact"} & set(values) else set()
    wanted |= {"PodMonitor/demo"} if values.get("podMonitor") else set()
    if values.get("kserve"):
        wanted -= {"Deployment/demo", "Service/demo", "Service/demo-pods", "HorizontalPodAutoscaler/demo"}
        wanted |= {"InferenceService/demo"}
    assert set(manifests) == wanted
    for manifest in manifests.values():
        if manifest["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_under_kserve_the_pods_are_those_of_the_deployment(tmp_path):
    """Its predictor is a pod's specification with a few fields of KServe's own."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    values = {name: value for name, value in VALUES["of a cluster"].items() if name != "bundleImage"}
    service = rendered_all({**values, "kserve": True})["InferenceService/demo"]
    assert (service["apiVersion"], set(service["spec"])) == ("serving.kserve.io/v1beta1", {"predictor"})
    predictor = service["spec"]["predictor"]
    own = {name: predictor.pop(name) for name in ("minReplicas", "maxReplicas", "labels", "annotations")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo"}, "spec": predictor}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    template = rendered_all(values)["Deployment/demo"]["spec"]["template"]
    assert predictor["containers"][0].pop("name") == "kserve-container", (
        "the name by which KServe knows the server"
    )
    assert template["spec"]["containers"][0].pop("name") == "triton"
    assert predictor == template["spec"]
    assert own["labels"] == template["metadata"]["labels"], "budget, monitor and job find the pods by these"
    assert (own["minReplicas"], own["maxReplicas"]) == (2, 8)
    fixed = rendered_all({"kserve": True, "autoscaler": False, "replicas": 5})["InferenceService/demo"]
    assert [fixed["spec"]["predictor"][name] for name in ("minReplicas", "maxReplicas")] == [5, 5]


def test_kserve_knows_the_fields_of_the_predictor():
    models = pytest.importorskip("kserve.models", reason="pip install kserve: tens of packages")
    predictor = rendered_all({"kserve": True})["InferenceService/demo"]["spec"]["predictor"]
    assert set(predictor) <= set(models.V1beta1PredictorSpec.attribute_map.values())


def test_the_operators_values_reach_the_pods():
    manifests = rendered(VALUES["changed"])
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 3
    assert pod["containers"][0]["image"] == "registry.example:5000/icgan@sha256:0123"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4


def test_a_cluster_says_where_pods_run_and_how_their_image_is_pulled():
    values = VALUES["of a cluster"]
    pod = rendered(values)["Deployment"]["spec"]["template"]["spec"]
    for name in ("imagePullSecrets", "runtimeClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[name] == values[name]
    assert pod["containers"][0]["imagePullPolicy"] == "Always"
    assert values["env"][0] in pod["containers"][0]["env"]
    [spread] = pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"] == rendered()["Service"]["spec"]["selector"]


def test_on_cpus_no_gpu_is_asked_for_and_the_models_run_there():
    manifests = rendered(VALUES["on CPUs, counted and watched by hand"])
    container, *_ = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert "--model-config-name=cpu" in container["args"]
    assert manifests["Deployment"]["spec"]["replicas"] == 5


def test_every_pod_may_run_under_the_restricted_pod_security_standard():
    for name, manifest in rendered_all(VALUES["of a cluster"]).items():
        if not name.startswith(("Deployment", "Job")):
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {kind for volume in pod["volumes"] for kind in volume} <= {
            "name",
            "persistentVolumeClaim",
            "emptyDir",
            "secret",
        }


@pytest.mark.parametrize(
    ("values", "source"), [("of a cluster", "cp -r /bundle /staging/"), ("of a registry", "icgan")]
)
def test_the_job_has_the_bundle_of_an_image_or_of_a_registry_where_its_script_looks(values, source):
    job = rendered_all(VALUES[values])["Job/demo-bundle"]["spec"]["template"]["spec"]
    [first], [then] = job["initContainers"], job["containers"]
    assert " ".join(first["command"]).startswith(source)
    assert "icgan-export triton /staging/bundle --out" in then["command"][-1]
    if source == "icgan":
        asked = build_parser().parse_args(first["command"][1:])
        assert (asked.reference, str(asked.out)) == (VALUES[values]["bundleArtifact"], "/staging/bundle")
    [volume] = [each for each in job["volumes"] if each["name"] == "credentials"]
    if secrets := VALUES[values].get("imagePullSecrets"):
        assert volume["secret"]["secretName"] == secrets[0]["name"]
        assert volume["secret"]["items"][0]["path"] == ".docker/config.json"


def test_engines_lie_on_a_volume_that_the_server_may_write(tiny_bundle, tmp_path):
    manifests = rendered_all(VALUES["of a cluster"])
    pod = manifests["Deployment/demo"]["spec"]["template"]["spec"]
    container, *_ = pod["containers"]
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "engines"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "engines"]
    assert volume["persistentVolumeClaim"]["claimName"] == "icgan-engines"
    assert not mount.get("readOnly")
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
    [job] = manifests["Job/demo-bundle"]["spec"]["template"]["spec"]["containers"]
    [folder] = re.findall(r"--engine-cache (\S+)", job["command"][-1])
    assert folder == mount["mountPath"]
    plain = rendered_all({"bundleImage": "registry.example/bundles/demo:1"})
    assert "engine" not in json.dumps(list(plain.values()))


def test_the_job_finds_pods_that_are_not_ready_yet_and_clients_only_those_that_are():
    manifests = rendered_all(VALUES["of a cluster"])
    [job] = manifests["Job/demo-bundle"]["spec"]["template"]["spec"]["containers"]
    [asked] = [each["value"] for each in job["env"] if each["name"] == "PODS"]
    assert manifests[f"Service/{asked}"]["spec"]["publishNotReadyAddresses"]
    assert "publishNotReadyAddresses" not in manifests["Service/demo-pods"]["spec"]
    for name in (asked, "demo-pods"):
        assert manifests[f"Service/{name}"]["spec"]["clusterIP"] == "None"
        assert (
            manifests[f"Service/{name}"]["spec"]["selector"] == manifests["Service/demo"]["spec"]["selector"]
        )


def test_every_value_and_flag_that_the_page_names_exists():
    page = (ROOT / "docs" / "serving.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    set_there = re.findall(r"--set (\w+)=", page)
    assert set_there
    assert set(set_there) <= set(values)
    deploying = page[page.index("\n## Deploying") :]
    assert set(re.findall(r"`(\w+): \S+`", deploying)) <= set(values)
    programs = {"icgan": build_parser(), "icgan-export": build_export_parser()}
    for program, parser in programs.items():
        lines = re.findall(
            rf"^    (?:\.venv(?:-serve)?/bin/)?{program} (.*?)(?:  +#.*)?$", page, re.MULTILINE
        )
        assert lines
        for line in lines:
            assert callable(parser.parse_args(shlex.split(line)).run)


def test_traces_are_asked_for_with_the_flags_of_icgan_serve(environment, tiny_bundle, tmp_path):
    """Which tests/triton/test_traces.py follows to a collector."""
    url = "http://collector:4318/v1/traces"
    assert not [flag for flag in deployment()["containers"][0]["args"] if "trace-config" in flag]
    pod = rendered({"traces": url, "traceEvery": 50})["Deployment"]["spec"]["template"]["spec"]
    asked = {flag for flag in pod["containers"][0]["args"] if flag.startswith("--trace-config")}
    write_repository(tiny_bundle, tmp_path / "repository", RepositoryOptions(), quiet)
    with Server(tmp_path / "repository", environment, ServerOptions(traces=url, trace_every=50)) as server:
        arguments = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    here = {flag for flag in arguments if flag.startswith("--trace-config")}
    assert {flag.replace("service.name=demo", "service.name=icgan") for flag in asked} == here


def test_with_the_prometheus_operator_it_is_told_where_to_scrape():
    monitor = rendered_all({"podMonitor": True})["PodMonitor/demo"]
    assert monitor["spec"]["selector"]["matchLabels"] == rendered()["Service"]["spec"]["selector"]
    container, *_ = deployment()["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_the_job_writes_the_bundle_as_a_repository_then_as_its_next_release_and_tells_every_pod(
    tiny_bundle, tmp_path
):
    """Its script, run here: the claim is a folder, and the one pod a listener."""
    container, *_ = rendered_all(VALUES["of a cluster"])["Job/demo-bundle"]["spec"]["template"]["spec"][
        "containers"
    ]
    *shell, script = container["command"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/staging", "/claim", "/tmp"} == mounts
    script = script.replace("/staging/bundle", str(tiny_bundle)).replace("/claim", str(tmp_path))
    (tmp_path / "bin").mkdir()
    programs = {
        "icgan-export": f'exec "{sys.executable}" -m icgan_export "$@"',
        "getent": 'echo "127.0.0.1 STREAM $2"',
    }
    for name, line in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PODS": "demo-pods",
        "CONTROL_KEY": "key",
    }

    def run(script: str) -> None:
        done = subprocess.run([*shell, script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run(script)
    repository = tmp_path / "repository"
    assert len(read_releases(repository)["releases"]) == 1
    asked: list[tuple[str, str]] = []

    class Pod(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, self.headers[CONTROL_HEADER]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pod) as pod:
        threading.Thread(target=pod.serve_forever, args=(0.01,), daemon=True).start()
        run(script.replace(":8000", f":{pod.server_port}"))
        pod.shutdown()
    assert len(read_releases(repository)["releases"]) == 2
    assert [path for path, _ in asked][-len(ENSEMBLES) :] == [
        f"/v2/repository/models/{ensemble.name}/load" for ensemble in ENSEMBLES
    ]
    assert {key for _, key in asked} == {"key"}

    def job(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*shell, script], env=environment, capture_output=True, text=True)

    quick = re.sub(
        r"--retry \d+ --retry-delay 5", "--retry 0", script.replace(":8000", f":{pod.server_port}")
    )
    silent = job(quick)  # the pod has ended, and its address is still listed
    assert silent.returncode == 1
    assert "127.0.0.1 does not load the release" in silent.stderr
    gone = tmp_path / "bin" / "getent"
    gone.write_text('#!/bin/sh\n[ -e "$0.asked" ] || echo "127.0.0.1 STREAM $2"\ntouch "$0.asked"\n')
    assert job(quick).returncode == 0, "it went while it was told"


@pytest.mark.parametrize(("values", "seconds"), [("as shipped", 300), ("changed", 1800)])
def test_a_pod_may_load_for_as_long_as_the_operator_says(values, seconds):
    container = rendered(VALUES[values])["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == seconds


def test_an_upgrade_of_the_chart_leaves_the_number_of_pods_to_the_autoscaler():
    manifests = rendered()
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    assert "replicas" not in manifests["Deployment"]["spec"], "Helm would set it back to this under load"


def test_a_signing_key_is_mounted_where_no_stage_of_the_server_runs():
    pod = rendered({"signSecret": "icgan-sign"})["Deployment"]["spec"]["template"]["spec"]
    (volume,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert volume == {"secretName": "icgan-sign", "defaultMode": 0o440}
    assert pod["securityContext"]["fsGroup"] == 1000
    assert not pod.get("shareProcessNamespace")
    server, signer = pod["containers"]
    mounts = [{mount["name"]: mount for mount in each["volumeMounts"]} for each in (server, signer)]
    assert "sign" not in mounts[0]
    assert mounts[1]["sign"]["readOnly"]
    assert signer["securityContext"]["runAsUser"] != pod["securityContext"]["runAsUser"]
    told = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert "ICGAN_SIGN_KEY" not in told
    assert told["ICGAN_SIGN_SOCKET"] == f"{mounts[0]['signer']['mountPath']}/socket"
    parsed = build_parser().parse_args(signer["command"][1:])  # what the command understands
    assert str(parsed.socket) == f"{mounts[1]['signer']['mountPath']}/socket"
    assert str(parsed.key) == f"{mounts[1]['sign']['mountPath']}/key.pem"


def test_every_value_of_the_chart_is_used():
    templates = (CHART / "templates").iterdir()
    used = set(re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in templates)))
    assert used == set(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_services_select_the_pods_of_the_deployment():
    manifests = rendered()
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_autoscaler_follows_the_queue_time_that_the_page_teaches_the_adapter():
    [metric] = rendered()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    page = (ROOT / "docs" / "serving.md").read_text()
    [rule] = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if name in block]
    [rule] = yaml.safe_load(rule)
    assert rule["name"]["as"] == name
    assert "nv_inference_queue_duration_us" in rule["metricsQuery"]
    # per request, whichever ensemble it asks: Pipeline sends most pictures to icgan_from_pixels
    [counted] = re.findall(
        r'nv_inference_request_success\{<<.LabelMatchers>>,model=~"([^"]*)"', rule["metricsQuery"]
    )
    assert re.search(r"/ clamp_min\(.*, 1\) / 1000$", rule["metricsQuery"]), (
        "an idle server's is not infinite"
    )
    assert set(counted.split("|")) == {ensemble.name for ensemble in ENSEMBLES} - {CANARY_MODEL}


def test_every_rate_has_two_scrapes_to_be_taken_from():
    rule = (ROOT / "docs" / "serving.md").read_text()
    minutes = [int(window) for window in re.findall(r"rate\(nv_\w+\{.*?\}\[(\d+)m\]", rule)]
    assert len(minutes) == 2
    assert min(minutes) > 2, "Prometheus scrapes once a minute unless told otherwise"
    dashboard = json.loads((DEPLOY / "grafana" / "icgan.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set(re.findall(r"\[(.+?)\]", " ".join(queries))) == {"$__rate_interval", "5m"}
    [source] = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"]
    scrapes = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrapes["scrape_interval"], "what Grafana takes its rates by"


def test_probes_send_the_canary_that_the_exporter_writes():
    container, *_ = deployment()["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    for command in (
        container["readinessProbe"]["exec"]["command"],
        compose["healthcheck"]["test"],
    ):
        assert f"@/models/{CANARY_NAME}" in command
        assert command[command.index("--noproxy") + 1] == "*", (
            "a proxy does not reach the container's own port"
        )
        assert command[-1].endswith(f"/v2/models/{CANARY_MODEL}/generate")


def test_a_pod_is_restarted_for_a_dead_stage_or_server_but_not_for_an_overloaded_one(start, tiny_bundle):
    if not shutil.which("curl"):
        pytest.skip("apt-get install curl")
    container, *_ = deployment()["containers"]
    server = start(tiny_bundle)

    def alive(canary: Mapping[str, Any]) -> bool:
        """What the probe says here, where the server has another port and the canary another place."""
        path = server.repository / "probe.json"
        path.write_text(json.dumps(canary))
        *shell, script = container["livenessProbe"]["exec"]["command"]
        script = script.replace("localhost:8000", f"127.0.0.1:{server.options.ports.http}")
        script = script.replace(f"/models/{CANARY_NAME}", str(path))
        # which Docker puts into containers; nobody listens there
        proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
        return subprocess.run([*shell, script], capture_output=True, env=os.environ | proxies).returncode == 0

    sound = json.loads((server.repository / CANARY_NAME).read_text())
    assert alive(sound)
    assert alive({**sound, "TRUNCATION": 0}), "a refusal, as an overloaded server's"
    kill(server, "icgan_condition")
    assert not alive(sound)
    server.stop()
    assert not alive(sound)


def test_control_and_shared_memory_are_closed_to_strangers_on_both_protocols():
    container, *_ = deployment()["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    for arguments in (container["args"], compose["command"]):
        for flag in ("--http-restricted-api=", "--grpc-restricted-protocol="):
            [value] = [argument for argument in arguments if argument.startswith(flag)]
            apis, _, key = value.removeprefix(flag).partition(":")
            assert {"model-repository", "shared-memory"} <= set(apis.split(","))
            assert key.startswith(f"{CONTROL_HEADER}=$"), "the key comes from a secret"


def test_a_server_runs_without_privileges_on_a_file_system_it_cannot_change():
    pod = deployment()
    container, *_ = pod["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"]["drop"] == compose["cap_drop"] == ["ALL"]
    assert compose["read_only"]
    assert "\nUSER triton-server\n" in (DEPLOY / "Dockerfile").read_text()
    assert "/tmp" in compose["tmpfs"]
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_compose_builds_on_the_image_that_the_operator_names_and_serves_the_checkouts_repository():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    [default] = re.findall(r"^ARG IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert compose["build"]["args"]["IMAGE"] == f"${{IMAGE:-{default}}}"
    [models] = re.findall(r"\$\{MODELS:-(\S+)\}:/models", compose["volumes"][0])
    assert (DEPLOY / models).resolve() == ROOT / "model_repository", "relative to the Compose file"


class ComposeLoader(yaml.SafeLoader):  # type: ignore[name-defined,misc]
    """Compose's own tag for a setting that is taken back reads as RESET."""


RESET = "reset"
ComposeLoader.add_constructor("!reset", lambda loader, node: RESET)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml", "compose.sign.yaml"])
def test_compose_files_keep_to_the_schema_of_compose(name):
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    jsonschema = pytest.importorskip("jsonschema")
    schema = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    given = yaml.load((DEPLOY / name).read_text(), ComposeLoader)
    for service in given["services"].values():
        for setting in [key for key, value in service.items() if value == RESET]:
            del service[setting]
    jsonschema.validate(given, json.loads(schema.read_text()))


def test_composes_form_for_cpus_differs_by_the_models_configuration_and_asks_for_no_gpu():
    over = yaml.load((DEPLOY / "compose.cpu.yaml").read_text(), ComposeLoader)["services"]["triton"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    assert over["deploy"] == "reset"
    assert sorted(over["command"]) == sorted([*compose["command"], "--model-config-name=cpu"])


def test_composes_signer_has_the_key_in_a_container_without_network_and_the_server_a_socket():
    over = yaml.safe_load((DEPLOY / "compose.sign.yaml").read_text())
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    server, signer = over["services"]["triton"], over["services"]["signer"]
    assert "secrets" not in server | compose
    assert "ICGAN_SIGN_KEY" not in str(server | compose)
    assert signer["network_mode"] == "none"
    for setting in ("read_only", "cap_drop", "security_opt", "build"):
        assert signer[setting] == compose[setting]
    parsed = build_parser().parse_args(signer["entrypoint"][1:])  # what the command understands
    [secret] = signer["secrets"]
    assert (str(parsed.key), set(over["secrets"])) == (f"/run/secrets/{secret}", {secret})
    [(volume, folder)] = [mount.split(":") for mount in signer["volumes"]]
    assert server["volumes"] == [f"{volume}:{folder}:ro"]
    assert server["environment"] == {"ICGAN_SIGN_SOCKET": str(parsed.socket)}
    assert parsed.socket.parent == Path(folder)
    user, group = signer["user"].split(":")
    options = over["volumes"][volume]["driver_opts"]["o"].split(",")
    assert {f"uid={user}", f"gid={group}", "mode=0750"} <= set(options)
    pod = rendered({"signSecret": "icgan-sign"})["Deployment"]["spec"]["template"]["spec"]
    assert int(user) == pod["containers"][1]["securityContext"]["runAsUser"]
    assert int(group) == pod["securityContext"]["fsGroup"], "that of the server's user in NVIDIA's image"
    assert server["depends_on"] == {"signer": {"condition": "service_healthy"}}, "and stops after the server"


def test_a_pod_finishes_the_requests_of_every_ensemble_before_it_goes():
    container, *_ = deployment()["containers"]
    script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert all(f" {ensemble.name}" in script for ensemble in ENSEMBLES)
    assert CONTROL_HEADER in script


def test_the_dashboard_says_that_the_server_counts_a_refused_request_twice(start, tiny_bundle):
    server = start(tiny_bundle)
    with Wire(server, "grpc") as wire, pytest.raises(RefusedError):
        wire.ask("icgan", {"IMAGE": [b""], **rows(1)})
    counted, deadline = 0, time.monotonic() + 60
    while counted < 2:  # answers leave before they are booked
        assert time.monotonic() < deadline
        with urllib.request.urlopen(server.metrics_url) as response:
            page = response.read().decode()
        counts = re.findall(r'^nv_inference_request_failure\{model="icgan",.*\} (\d+)$', page, re.MULTILINE)
        counted = sum(map(int, counts))
    assert counted == 2
    dashboard = json.loads((DEPLOY / "grafana" / "icgan.json").read_text())
    [panel] = [panel for panel in dashboard["panels"] if panel["title"] == "Failures per second"]
    assert "twice" in panel["description"]


def test_a_server_that_only_its_probes_ask_counts_no_request_of_users(start, tiny_bundle):
    server = start(tiny_bundle)
    canary = json.loads((server.repository / CANARY_NAME).read_text())
    for _ in range(3):
        server.call(f"v2/models/{CANARY_MODEL}/generate", canary)
    with urllib.request.urlopen(server.metrics_url) as response:
        page = response.read().decode()
    line = re.compile(r'^nv_inference_request_success\{model="(\w+)",.*\} (\d+)$', re.MULTILINE)
    counted = dict(line.findall(page))
    assert counted.pop(CANARY_MODEL) == "3"
    dashboard = json.loads((DEPLOY / "grafana" / "icgan.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert CANARY_MODEL not in target["expr"]
    assert {counted[each.name] for each in ENSEMBLES if each.name != CANARY_MODEL} == {"0"}
    scores = re.findall(r"^icgan_nearest_score_count(?:\{.*\})? (\d+)$", page, re.MULTILINE)
    assert set(scores) <= {"0"}, "nor a picture of users"


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


# In a mount namespace of its own: all file systems read-only, /tmp empty, what is served under /mnt. Python
# may live under a home that others cannot enter; such a home is covered and Python mounted there again. So is
# a checkout that lies under /tmp.
NOBODY = """
set -e
mount --make-rprivate /
mount --bind "$SERVED" /mnt
if [ -n "$CLOSED" ]; then
    mount --bind "$PYTHON" /media
    mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
    mkdir -p "$PYTHON"
    mount --bind /media "$PYTHON"
    mount -o remount,ro "$CLOSED"
fi
case "$CHECKOUT" in /tmp/*) mount --bind "$CHECKOUT" /opt ;; esac
mount -t tmpfs tmpfs /tmp
case "$CHECKOUT" in
    /tmp/*) mkdir -p "$CHECKOUT"; mount --bind /opt "$CHECKOUT"; mount -o remount,ro,bind "$CHECKOUT" ;;
esac
for place in / /mnt /media; do mount -o remount,ro,bind "$place" 2> /dev/null || true; done
for place in /mnt /usr /var; do
    if touch "$place/x" 2> /dev/null; then echo "$place can be written"; exit 1; fi
done
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \\
    "$@"
"""


def closed_above(folder: Path) -> Path | None:
    """The outermost folder above that only its owner may enter."""
    return next((path for path in reversed(folder.parents) if not path.stat().st_mode & 0o001), None)


def test_the_real_server_serves_as_nobody_on_a_file_system_it_cannot_change(
    environment, tiny_bundle, tmp_path
):
    tools = all(map(shutil.which, ("unshare", "setpriv", "mount")))
    if not tools or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    python = environment.library.parent
    if closed_above(environment.package) is not None:
        pytest.skip("the server lies in a folder that nobody else may enter")
    write_repository(tiny_bundle, tmp_path / "model_repository", RepositoryOptions(), quiet)
    assemble_backends(environment, tmp_path / "backends")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    ports = free_ports()
    command = [str(environment.server / "bin" / "tritonserver"), "--disable-auto-complete-config"]
    command += ["--model-repository=/mnt/model_repository", "--backend-directory=/mnt/backends"]
    command += ["--model-control-mode=explicit", "--load-model=*", "--model-config-name=cpu"]
    command += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    command += [f"--backend-config={name},shm-region-prefix-name={tmp_path.name}-" for name in STAGED]
    variables = {
        **environment.variables(),
        "HOME": "/tmp",
        "SERVED": str(tmp_path),
        "PYTHON": str(python),
        "CHECKOUT": str(Path(__file__).resolve().parents[2]),
        "CLOSED": str(closed_above(python) or ""),
    }
    script = ["unshare", "--mount", "sh", "-c", NOBODY, "sh", *command]
    with subprocess.Popen(script, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            body = (tmp_path / "model_repository" / CANARY_NAME).read_bytes()
            url = f"http://127.0.0.1:{ports.http}/v2/models/{CANARY_MODEL}/generate"
            answer, deadline = None, time.monotonic() + 120
            while answer is None:
                assert time.monotonic() < deadline, "the server does not answer"
                assert server.poll() is None, server.stdout.read().decode()[-2000:]
                try:
                    with urllib.request.urlopen(urllib.request.Request(url, data=body)) as response:
                        answer = json.loads(response.read())
                except urllib.error.URLError:  # not yet
                    time.sleep(0.2)
            status = Path(f"/proc/{server.pid}/status").read_text()
        finally:
            server.terminate()
            server.stdout.read()
    assert answer["PICTURE"]
    assert re.search(r"^Uid:\s+65534\s+65534\s+65534", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
