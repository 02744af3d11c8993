"""The systemd units: systemd takes them, they allow the gateway nothing that it does not need, and all that it does."""

from __future__ import annotations

import functools
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.config import Config, SystemdAddress, loads
from gateway.server import worker_handle
from tests.support.gateways import ROOT, RunningGateway, running_gateway, wait_until
from tests.support.programs import require

pytestmark = pytest.mark.real

UNITS: Final = ROOT / "deploy" / "systemd"
UNIT: Final = UNITS / "wcs-gateway.service"
TEMPLATE: Final = UNITS / "wcs-gateway@.service"
SOCKETS: Final = (UNITS / "wcs-gateway.socket", UNITS / "wcs-gateway-admin.socket")
PROGRAM: Final = "/opt/wcs-gateway/bin/gateway"
MOST_EXPOSED: Final = 15
"""In tenths, of 100, by systemd's own count."""
CONFIG: Final = """
server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0', workers: 2}
store: {url: 'sqlite:state/store.db'}
history: {bodies: all, key: 0123456789abcdef}
defaults: {spool: on}
upstreams: {u: {url: 'http://localhost:9/rest', health: {path: /}}}
apps: {a: {static: allow}, b: {upstream: u}}
"""


def settings(unit: Path) -> list[tuple[str, str]]:
    """A unit's settings in order; comments are left out."""
    lines = [line.partition("=") for line in unit.read_text().splitlines() if line and line[0] not in "#["]
    return [(key, value) for key, _, value in lines]


def value(key: str, unit: Path = UNIT) -> str:
    values = [value for name, value in settings(unit) if name == key]
    assert len(values) == 1, (key, values)
    return values[0]


def installed(directory: Path) -> list[Path]:
    """The units as they stand on a host that has the gateway; the template as one instance."""
    units = []
    for unit, name in ((UNIT, UNIT.name), (TEMPLATE, TEMPLATE.name)):
        assert unit.read_text().count(PROGRAM) == 2
        (directory / name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
        units.append(directory / name)
    for unit in SOCKETS:
        (directory / unit.name).write_text(unit.read_text())
        units.append(directory / unit.name)
    return [units[0], directory / "wcs-gateway@blue.service", *units[2:]]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = require("systemd-analyze", "systemd")
    return subprocess.run([program, "--no-pager", *arguments], capture_output=True, text=True, timeout=30)


def test_systemd_takes_the_units_without_a_complaint(tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", *map(str, installed(tmp_path)))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_mistake_in_a_unit_would_be_told(tmp_path: Path) -> None:
    unit, *_ = installed(tmp_path)
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTmq=yes"))
    done = analyze("verify", "--man=no", str(unit))
    assert "PrivateTmq" in done.stderr


def test_systemd_counts_the_service_among_the_least_exposed(tmp_path: Path) -> None:
    unit, *_ = installed(tmp_path)
    options = ("security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    assert (done := analyze(*options, str(unit))).returncode == 0, done.stdout
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze(*options, str(unit)).returncode != 0


def test_an_instance_differs_from_the_one_service_in_its_names_alone() -> None:
    renamed = {
        "/etc/wcs-gateway/%i.yaml": "/etc/wcs-gateway/gateway.yaml",
        "/etc/wcs-gateway/%i.environment": "/etc/wcs-gateway/environment",
        "WCS gateway %i:": "WCS gateway:",
        "wcs-gateway-%i": "wcs-gateway",
    }
    instance = TEMPLATE.read_text()
    for name, single in renamed.items():
        assert name in instance
        instance = instance.replace(name, single)
    assert settings_of_text(instance) == settings_of_text(UNIT.read_text())


def settings_of_text(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_socket_units_hand_over_what_the_readme_has_the_gateway_take() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (UNITS / "README.md").read_text(), re.DOTALL)
    server = loads(shown).config.server
    names = [value("FileDescriptorName", unit) for unit in SOCKETS]
    assert [*server.listen, server.admin] == [SystemdAddress(name) for name in names]
    defaults = Config().server  # what the same ports are called without systemd
    addresses = [value("ListenStream", unit) for unit in SOCKETS]
    assert addresses == [str(address) for address in (*defaults.listen, defaults.admin)]
    assert value("Service", SOCKETS[1]) == UNIT.name
    assert SOCKETS[0].stem == UNIT.stem  # so systemd starts this service without being told


def test_systemd_waits_longer_for_the_end_than_the_default_drain_lasts() -> None:
    # A longer drain is asked for by the gateway itself: see test_notify.py.
    assert float(value("TimeoutStopSec")) >= Config().server.drain_timeout + 10
    assert value("KillMode") == "mixed"  # or the workers would be told by systemd too, at the same time


def test_systemd_waits_longer_for_the_start_than_the_gateway_for_its_workers() -> None:
    assert float(value("TimeoutStartSec")) >= worker_handle._START_LIMIT + 20


def test_the_journal_takes_a_line_of_every_hook() -> None:
    assert value("LogRateLimitIntervalSec") == "0"


def test_the_user_is_one_that_systemd_makes(tmp_path: Path) -> None:
    program = require("systemd-sysusers", "systemd")
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [program, f"--root={tmp_path}", str(UNITS / "sysusers.conf")], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    name, _, _, _, _, home, shell = (tmp_path / "etc" / "passwd").read_text().splitlines()[0].split(":")
    assert (name, home) == (value("User"), "/")
    assert shell.endswith("nologin")


@functools.cache
def calls_of(name: str) -> frozenset[str]:
    """The system calls in one of systemd's sets, and in the sets of which that is made."""
    done = analyze("syscall-filter", name)
    assert done.returncode == 0, done.stderr
    calls: set[str] = set()
    for line in map(str.strip, done.stdout.splitlines()[1:]):
        if line and not line.startswith("#"):
            calls |= calls_of(line) if line.startswith("@") else {line}
    return frozenset(calls)


def allowed_calls() -> frozenset[str]:
    """What the unit's filter leaves: the first line allows, later ones take away or add (systemd.exec(5))."""
    allowed = calls_of("@default")
    for key, words in settings(UNIT):
        if key == "SystemCallFilter":
            named = words.removeprefix("~").split()
            calls = frozenset[str]().union(*(calls_of(name) if name[0] == "@" else {name} for name in named))
            allowed = allowed - (calls - calls_of("@default")) if words.startswith("~") else allowed | calls
    return allowed


def forbidden_calls(allowed: frozenset[str], directory: Path) -> list[str]:
    """The system calls outside *allowed* that a gateway of two workers makes in its life, however they end."""
    strace = require("strace", "strace")
    trace = directory / "trace"
    others = "trace=!" + ",".join(f"?{call}" for call in sorted(allowed))
    (directory / "state").mkdir()
    tracer = (strace, "-D", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o", str(trace), "-e", others)
    with running_gateway(CONFIG, directory, program=(*tracer, sys.executable, "-m", "gateway")) as gateway:
        live(gateway)
    # As root alone, SQLite gives each file that it makes the owner of its database.
    return [line for line in trace.read_text().splitlines() if os.geteuid() or "fchown" not in line]


def live(gateway: RunningGateway) -> None:
    """Everything that a gateway does: hooks, events that are kept, the admin port, reloads, a death, an end."""
    assert wait_until(lambda: gateway.metric("gateway_store_up") == 1, 30)
    assert gateway.hook("CallStatusEvent", body=b'{"appKey":"b","callId":"c"}').status_code == 200
    assert gateway.get("/api/spool").json()["events"] == 1
    assert gateway.hook(body=b'{"appKey":"a"}').status_code == 200
    assert gateway.hook(body=b'{"appKey":"b"}').status_code == 403
    for path in ("/metrics", "/-/ready", "/api/config"):
        assert gateway.get(path).status_code == 200
    assert gateway.post("/-/reload").status_code == 200
    gateway.write_config(CONFIG.replace("allow", "reject"))
    assert wait_until(lambda: gateway.hook(body=b'{"appKey":"a"}').status_code == 403)
    os.kill(gateway.get("/api/status").json()["workers"][0], signal.SIGKILL)
    assert wait_until(lambda: gateway.metric("gateway_worker_deaths_total") == 1)
    assert wait_until(lambda: gateway.metric("gateway_workers") == 2)
    assert gateway.stop() == 0


def test_the_gateway_makes_no_system_call_that_the_unit_forbids(tmp_path: Path) -> None:
    assert forbidden_calls(allowed_calls(), tmp_path) == []


def test_a_forbidden_system_call_would_be_seen(tmp_path: Path) -> None:
    calls = forbidden_calls(allowed_calls() - {"listen"}, tmp_path)
    assert calls
    assert [call for call in calls if " listen(" not in call] == []


def test_the_gateway_lives_in_what_the_unit_leaves_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can take rights away as systemd does")
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 3):
        pytest.skip("this kernel has no PR_SET_MDWE")
    for key in ("MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateMounts"):
        assert value(key) == "yes"
    assert (value("ProtectSystem"), value("ProcSubset"), value("CapabilityBoundingSet")) == ("strict", "pid", "")
    confined = (sys.executable, str(Path(__file__).with_name("confined.py")))
    program = (*confined, sys.executable, "-m", "gateway")
    (state := tmp_path / "state").mkdir()
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "STATE_DIRECTORY": str(state)}
    with running_gateway(CONFIG, tmp_path, program=program, environment=environment) as gateway:
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        # Effective, permitted, inheritable, bounding and ambient: none.
        assert re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        with pytest.raises(OSError, match="Read-only"):
            Path(f"/proc/{gateway.pid}/root{tmp_path}/new").touch()
        live(gateway)
    assert {path.name for path in state.glob("*.db")} == {"store.spool.db", "store.history.db"}
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}


def test_the_unit_gives_the_store_a_directory_that_nobody_else_can_read() -> None:
    for unit, name in ((UNIT, "wcs-gateway"), (TEMPLATE, "wcs-gateway-%i")):
        assert (value("StateDirectory", unit), value("StateDirectoryMode", unit)) == (name, "0700")
    readme = (UNITS / "README.md").read_text()
    (moved,) = re.findall(r"^sed -i 's\|(\S+)\|(\S+)\|' /etc/wcs-gateway/gateway\.yaml", readme, re.MULTILINE)
    text = (ROOT / "gateway.yaml").read_text()
    assert text.count(moved[0]) == 1
    store = loads(text.replace(*moved)).config.store
    assert store is not None
    assert store.path == f"/var/lib/{value('StateDirectory')}/store.db"


def test_the_log_is_rotated_under_a_running_gateway_and_goes_on(tmp_path: Path) -> None:
    logrotate = require("logrotate", "logrotate")
    with running_gateway(CONFIG, tmp_path) as gateway:
        assert gateway.hook(body=b'{"appKey":"a"}', headers={"X-Request-Id": "first"}).status_code == 200
        gateway.access_line("first")
        rules = (UNITS / "logrotate.conf").read_text()
        assert rules.count("/var/log/wcs-gateway/*.log {") == 1
        conf = tmp_path / "logrotate.conf"
        conf.write_text(rules.replace("/var/log/wcs-gateway/*.log {", f"{gateway.log} {{\n    su root root"))
        conf.chmod(0o644)
        if os.geteuid() != 0:
            conf.write_text(conf.read_text().replace("    su root root\n", ""))
        command = [logrotate, "--force", "--state", str(tmp_path / "logrotate.state"), str(conf)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        rotated = list(tmp_path.glob("gateway.log-*"))
        assert len(rotated) == 1
        assert b'"first"' in rotated[0].read_bytes()
        assert b'"first"' not in gateway.log.read_bytes()
        assert gateway.hook(body=b'{"appKey":"a"}', headers={"X-Request-Id": "second"}).status_code == 200
        assert wait_until(lambda: b'"second"' in gateway.log.read_bytes())
        assert not gateway.log.read_bytes().startswith(b"\0")  # as where a log is not written to at its end
