"""What stands before two gateways: HAProxy, by the example's configuration, and keepalived, which moves an address."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.gateways import LISTEN, ROOT, RunningGateway, running_gateway, wait_until
from tests.support.programs import Balancer, haproxy, require

pytestmark = pytest.mark.real

KEEPALIVED: Final = ROOT / "deploy" / "keepalived"
CONF: Final = KEEPALIVED / "keepalived.conf"
CHECK: Final = KEEPALIVED / "check-balancer"
INSTALLED_CHECK: Final = "/usr/local/libexec/wcs-gateway/check-balancer"
ADDRESS: Final = "192.0.2.10"
OWN: Final = {"a": "192.0.2.11", "b": "192.0.2.12"}
MOVE_LIMIT: Final = 20.0
SESSIONS: Final = itertools.count()
"""A session stays on one gateway: hooks of many reach both."""
ALLOWS: Final = LISTEN + "apps: {defaultApp: {static: allow}}\n"


# --- HAProxy ---


@contextlib.contextmanager
def pair(directory: Path, config: str = ALLOWS) -> Iterator[tuple[Balancer, dict[str, RunningGateway]]]:
    """Two gateways behind HAProxy, by the names that its configuration has for them."""
    with contextlib.ExitStack() as stack:
        gateways = {}
        for name in ("gateway-a", "gateway-b"):
            (directory / name).mkdir()
            gateways[name] = stack.enter_context(running_gateway(config, directory / name))
        ports = {
            f"{kind}_{name[-1]}": address.rpartition(":")[2]
            for name, gateway in gateways.items()
            for kind, address in (("gateway", gateway.hooks), ("admin", gateway.admin))
        }
        yield stack.enter_context(haproxy(**ports)), gateways


def status_of(balancer: Balancer, server: str) -> str:
    return balancer.figures("gateways", server)["status"]


def is_up(balancer: Balancer, server: str) -> bool:
    return status_of(balancer, server).startswith("UP")


def is_down(balancer: Balancer, server: str) -> bool:
    return status_of(balancer, server).startswith("DOWN")


def hook(balancer: Balancer) -> int:
    body = json.dumps({"appKey": "defaultApp", "sessionId": str(next(SESSIONS))})
    return httpx.post(f"{balancer.url}/OnCallEvent", content=body, trust_env=False, timeout=20).status_code


def health(balancer: Balancer) -> int:
    return httpx.get(balancer.health, trust_env=False, timeout=20).status_code


def test_a_gateway_that_is_drained_is_taken_out_and_comes_back_and_no_hook_is_lost(tmp_path: Path) -> None:
    with pair(tmp_path) as (balancer, gateways):
        for server in gateways:
            assert wait_until(partial(is_up, balancer, server))
        assert gateways["gateway-a"].post("/-/drain").status_code == 200
        statuses: list[int] = []

        def meanwhile(check: Callable[[], bool]) -> bool:
            """Whether it comes true while hooks are sent."""

            def look() -> bool:
                statuses.append(hook(balancer))
                return check()

            return bool(wait_until(look, 20))

        assert meanwhile(partial(is_down, balancer, "gateway-a"))
        before = gateways["gateway-a"].metric("gateway_hooks_total")
        statuses += [hook(balancer) for _ in range(10)]
        assert gateways["gateway-a"].metric("gateway_hooks_total") == before
        assert gateways["gateway-a"].post("/-/undrain").status_code == 200
        assert meanwhile(partial(is_up, balancer, "gateway-a"))
        assert meanwhile(lambda: gateways["gateway-a"].metric("gateway_hooks_total") > before)
        assert set(statuses) == {200}


def test_the_balancer_s_own_health_is_whether_it_finds_a_gateway(tmp_path: Path) -> None:
    with pair(tmp_path) as (balancer, gateways):
        assert wait_until(lambda: health(balancer) == 200)
        first, last = gateways.values()
        first.stop()
        assert wait_until(partial(is_down, balancer, "gateway-a"), 20)
        assert health(balancer) == 200
        assert ask_as_keepalived(balancer.health).returncode == 0
        last.stop()
        assert wait_until(lambda: health(balancer) == 503, 20)
        assert ask_as_keepalived(balancer.health).returncode != 0
    assert ask_as_keepalived(balancer.health).returncode != 0  # nobody is there any more


def ask_as_keepalived(url: str) -> subprocess.CompletedProcess[str]:
    require("curl", "curl")
    return subprocess.run([str(CHECK), url], capture_output=True, text=True, timeout=30)


def test_what_keepalived_asks_is_what_haproxy_answers() -> None:
    configured = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    assert "http://127.0.0.1:8404/health" in CHECK.read_text()
    assert "    bind 127.0.0.1:8404\n    monitor-uri /health\n" in configured
    assert f'script "{INSTALLED_CHECK}"' in CONF.read_text()


# --- keepalived ---


def config_of(machine: str) -> str:
    """The example as the first machine has it, or as its comments say for the other one."""
    text = CONF.read_text()
    assert text.count("# on the other machine: 100") == 1
    if machine == "a":
        return text
    swapped = text.replace(OWN["a"], "other").replace(OWN["b"], OWN["a"]).replace("other", OWN["b"])
    return swapped.replace("priority 150", "priority 100")


def complaints_of_keepalived(text: str, directory: Path) -> tuple[int, str]:
    if os.geteuid() != 0:
        pytest.skip("keepalived is root's")
    file = directory / "keepalived.conf"
    # 2.2.7 ends itself by SIGTERM where it checks a script of another user's outside of a child process.
    text = text.replace("script_user nobody", "script_user root").replace(INSTALLED_CHECK, "/bin/true")
    file.write_text(text.replace("interface eth0", "interface wcs0"))
    # The interface has to be there.
    inside = (
        f"ip link add wcs0 type veth && ip link set wcs0 up && exec {require('keepalived', 'keepalived')} -t -f {file}"
    )
    command = ["unshare", "--net", "sh", "-c", inside]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("machine", OWN)
def test_keepalived_takes_the_configuration_without_a_complaint(machine: str, tmp_path: Path) -> None:
    assert complaints_of_keepalived(config_of(machine), tmp_path) == (0, "")


def test_a_mistake_in_keepalived_s_configuration_would_be_told(tmp_path: Path) -> None:
    status, said = complaints_of_keepalived(CONF.read_text().replace("nopreempt", "nopreemt"), tmp_path)
    assert status != 0
    assert "nopreemt" in said


class Machine:
    """A host of its own, as far as network and files go: keepalived, and something that answers for the balancer."""

    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.log = self.directory / "log"
        (self.directory / "keepalived.conf").write_text(config_of(name))
        (self.directory / "public").mkdir()
        self.balancer = self.directory / "public" / "health"
        self.balancer.touch()
        namespaces = ["unshare", "--mount", "--net", "--propagation=private"]
        self._holder = holder = subprocess.Popen(
            [*namespaces, "sh", "-c", "echo made; exec sleep 300"], stdout=subprocess.PIPE
        )
        self._services: list[subprocess.Popen[bytes]] = []
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"made\n"
        holder.stdout.close()
        self.pid = holder.pid
        for place in ("/run", "/usr/local"):
            self.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
        self.do("install", "-D", "-m", "755", str(CHECK), INSTALLED_CHECK)
        self.do("ip", "link", "set", "lo", "up")

    def _command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", *words]

    def do(self, *words: str) -> str:
        done = subprocess.run(self._command(*words), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *words: str) -> None:
        with self.log.open("ab") as log:
            self._services.append(subprocess.Popen(self._command(*words), stdout=log, stderr=log))

    def has_address(self) -> bool:
        return f" {ADDRESS}/" in self.do("ip", "-4", "-o", "address", "show", "dev", "eth0")

    def stop(self) -> None:
        """End what was started, in order, and leave the network as it is."""
        services, self._services = self._services, []
        end(services)

    def vanish(self) -> None:
        self.stop()
        end([self._holder])


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    """Two machines on one network, each with keepalived and a balancer that is well."""
    keepalived = require("keepalived", "keepalived")
    ip = require("ip", "iproute2")
    if os.geteuid() != 0:
        pytest.skip("only root can make networks")
    with contextlib.ExitStack() as stack:
        made: dict[str, Machine] = {}
        for name in OWN:
            made[name] = Machine(name, tmp_path)
            stack.callback(made[name].vanish)
        ends = [["eth0", "netns", str(machine.pid)] for machine in made.values()]
        subprocess.run([ip, "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]], check=True)
        for name, machine in made.items():
            machine.do("ip", "address", "add", f"{OWN[name]}/24", "dev", "eth0")
            machine.do("ip", "link", "set", "eth0", "up")
            public = str(machine.balancer.parent)
            machine.start(sys.executable, "-m", "http.server", "8404", "--bind", "127.0.0.1", "--directory", public)
            machine.start(keepalived, "--dont-fork", "--log-console", "-f", str(machine.directory / "keepalived.conf"))
        yield made


def holders(machines: dict[str, Machine]) -> list[str]:
    return [name for name, machine in machines.items() if machine.has_address()]


def moves_to(name: str, machines: dict[str, Machine]) -> bool:
    return bool(wait_until(lambda: holders(machines) == [name], MOVE_LIMIT))


def test_the_address_is_where_the_balancer_is_well_and_moves_no_more_than_it_must(machines: dict[str, Machine]) -> None:
    logs = "\n".join(str(machine.log) for machine in machines.values())
    assert wait_until(lambda: len(holders(machines)) == 1, MOVE_LIMIT), logs
    (first,) = holders(machines)
    (second,) = machines.keys() - {first}

    machines[first].balancer.unlink()
    assert moves_to(second, machines), machines[second].log.read_text()

    machines[first].balancer.touch()
    # It is well again, and leaves the address where it is, whichever of the two has the higher priority.
    assert wait_until(lambda: machines[first].log.read_text().count("succeeded") >= 2, MOVE_LIMIT)
    assert wait_until(lambda: machines[first].log.read_text().count("Entering BACKUP STATE") >= 2, MOVE_LIMIT)
    assert holders(machines) == [second]

    machines[second].stop()
    assert moves_to(first, machines), machines[first].log.read_text()
