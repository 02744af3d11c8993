"""The Kubernetes files of a fleet: what kustomize makes of them fits together, and HAProxy takes its part."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import Config, loads
from tests.deploy.packaged import packaged
from tests.deploy.test_kubernetes import AFTER_DRAIN, KUBERNETES, VERSIONS, objects, rendered, the
from tests.support.gateways import ROOT
from tests.support.programs import require

pytestmark = pytest.mark.real

FLEET: Final = "fleet"
BALANCER: Final = "wcs-gateway-balancer"
HAPROXY: Final = KUBERNETES / FLEET / "haproxy.cfg"
SECRETS: Final = {
    "GATEWAY_ADMIN_TOKEN": "token-of-the-cluster",
    "STATE_URL": "redis+sentinel://:secret@redis-0,redis-1,redis-2/wcs",
    "STORE_URL": "postgresql://gateway:secret@postgresql/wcs?sslmode=require",
    "HISTORY_KEY": "0123456789abcdef",
}


def gateways() -> dict[str, Any]:
    return the("StatefulSet", of=FLEET)


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def labels_of(workload: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    """The pods' configuration, with what the Secrets hold."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    loaded = loads(the("ConfigMap", of=FLEET)["data"]["gateway.yaml"], "gateway.yaml")
    assert loaded.warnings == ()
    return loaded.config


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_s_own_schemas_take_every_object(version: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(rendered(FLEET))
    checker = [packaged("kubernetes-validate", "kubernetes-validate"), "--strict", "-k", version]
    done = subprocess.run([*checker, str(file)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (said.count(" passed for resource "), "WARN" in said) == (len(objects(FLEET)), False), said


def test_state_and_store_come_from_a_secret_and_so_does_each_reference_of_the_configuration(config: Config) -> None:
    assert config.state is not None
    assert config.store is not None
    assert config.store.engine == "postgresql"
    text = the("ConfigMap", of=FLEET)["data"]["gateway.yaml"]
    (container,) = pod_of(gateways())["containers"]
    secret = {each["name"] for each in container["env"] if "secretKeyRef" in each["valueFrom"]}
    assert set(re.findall(r"\$\{env:(\w+)\}", text)) == secret == SECRETS.keys()
    instance = {each["name"]: each["valueFrom"] for each in container["env"]}["WCS_GATEWAY_INSTANCE"]
    assert instance == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_pods_have_lasting_names_which_haproxy_knows() -> None:
    stateful = gateways()
    service = the("Service", stateful["spec"]["serviceName"], of=FLEET)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True  # HAProxy itself asks who is ready
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in objects(FLEET)}
    found = re.findall(r"^    server gateway-(\d) (\S+):(\d+) id (\d)$", HAPROXY.read_text(), re.MULTILINE)
    namespace = stateful["metadata"]["namespace"]
    for number, host, port, server_id in found:
        pod = f"{stateful['metadata']['name']}-{number}"
        assert host == f"{pod}.{service['metadata']['name']}.{namespace}.svc.cluster.local"
        assert (port, int(server_id)) == ("8080", int(number) + 1)
    assert [int(number) for number, *_ in found] == list(range(len(found)))
    assert len(found) >= stateful["spec"]["replicas"] >= 2


def test_haproxy_takes_its_configuration_and_places_sessions_as_on_hosts() -> None:
    done = subprocess.run(
        [require("haproxy", "haproxy"), "-c", "-q", "-f", str(HAPROXY)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    on_hosts = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    assert placing(HAPROXY.read_text()) == placing(on_hosts)
    assert len(placing(on_hosts)) > 10


def placing(text: str) -> list[str]:
    """The lines of the backend that say which gateway gets a hook, and what happens if it does not take it."""
    backend = text.partition("\nbackend gateways\n")[2]
    lines = [line.strip() for line in backend.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "server", "default-server"))]


def test_hooks_go_through_haproxy_and_every_selector_meets_pods() -> None:
    balancer, own = labels_of(the("Deployment", BALANCER, of=FLEET)), labels_of(gateways())
    hooks = the("Service", of=FLEET)["spec"]
    assert hooks["selector"].items() <= balancer.items()
    assert not hooks["selector"].items() <= own.items()
    (port,) = hooks["ports"]
    (container,) = pod_of(the("Deployment", BALANCER, of=FLEET))["containers"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}
    assert hooks["externalTrafficPolicy"] == "Local"
    for name, labels in ((BALANCER, balancer), ("wcs-gateway", own)):
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            spec = the(kind, name, of=FLEET)["spec"]
            selector = spec["selector"] if kind == "PodDisruptionBudget" else spec["podSelector"]
            assert selector["matchLabels"].items() <= labels.items()
    spread = list(pod_of(gateways())["topologySpreadConstraints"])
    assert all(each["labelSelector"]["matchLabels"].items() <= own.items() for each in spread)
    # The label by which a revision's pods are told apart is another one for each kind.
    assert all(each["matchLabelKeys"] == ["controller-revision-hash"] for each in spread)


def test_only_haproxy_reaches_the_hook_port_so_its_network_may_be_trusted(config: Config) -> None:
    hooks, *rest = the("NetworkPolicy", of=FLEET)["spec"]["ingress"]
    assert hooks["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": BALANCER}}}]
    assert [each["port"] for each in hooks["ports"]] == ["hooks"]
    assert all(each["port"] == "admin" for rule in rest for each in rule["ports"])
    assert config.server.trusted_proxies
    (media,) = (each["ipBlock"]["cidr"] for each in balancer_policy()["ingress"][0]["from"])
    assert [str(network) for network in config.server.allow_from] == [media]


def balancer_policy() -> dict[str, Any]:
    spec: dict[str, Any] = the("NetworkPolicy", BALANCER, of=FLEET)["spec"]
    return spec


def test_the_network_policies_let_through_what_a_fleet_needs_and_no_more() -> None:
    egress = the("NetworkPolicy", of=FLEET)["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 80, 5432, 6379, 26379, 9180}
    assert all(rule["to"] and rule["ports"] for rule in egress)
    assert {port["port"] for rule in balancer_policy()["egress"] for port in rule["ports"]} == {53, 8080, 9180}
    admin = [rule for rule in the("NetworkPolicy", of=FLEET)["spec"]["ingress"] if rule["ports"][0]["port"] == "admin"]
    asking = {
        each["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in admin for each in rule["from"] if "podSelector" in each
    }  # fmt: skip
    assert asking == {BALANCER, "wcs-gateway"}


def test_pods_end_in_order(config: Config) -> None:
    drain = config.server.drain_timeout
    before = 10
    (container,) = pod_of(gateways())["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1].endswith(f"sleep {before}")
    assert pod_of(gateways())["terminationGracePeriodSeconds"] >= before + drain + AFTER_DRAIN
    pod = pod_of(the("Deployment", BALANCER, of=FLEET))
    (hard,) = re.findall(r"^    hard-stop-after (\d+)s$", HAPROXY.read_text(), re.MULTILINE)
    assert pod["terminationGracePeriodSeconds"] >= before + int(hard)
    assert int(hard) > int(re.findall(r"^    timeout server (\d+)s$", HAPROXY.read_text(), re.MULTILINE)[0])


def test_the_balancer_s_pods_meet_the_restricted_standard() -> None:
    pod = pod_of(the("Deployment", BALANCER, of=FLEET))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {key for volume in pod["volumes"] for key in volume} == {"name", "configMap"}
    text = yaml.safe_dump(the("ConfigMap", pod["volumes"][0]["configMap"]["name"], of=FLEET)["data"])
    assert "haproxy.cfg" in text
    probes = [container[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")]
    assert probes == ["/ready", "/alive"]
    assert "bind :8404" in HAPROXY.read_text()
