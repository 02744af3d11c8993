"""``gateway demo``: what it shows, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml

from gateway.cli.demo import BEHAVIOURS, DEMO_CONFIG
from gateway.config import Loaded, loads
from tests.support.command_line import invoke
from tests.support.gateways import ROOT, wait_until
from tests.support.programs import free_port

PATIENCE: Final = 30.0
PATIENT: Final = """\
from gateway.policy import spooling
spooling.RESERVE = 1.5
from gateway import cli
cli.main()
"""
"""The gateway itself, but an event that the backend did not answer has 1.5 s of its budget to be kept, not 0.1 s."""

EXPECTED: Final = {
    "allows": ("200 allow", "backend: ok"),
    "rejects": ("403 reject", "backend: denied"),
    "hangs: never answers": ("403 reject", "fallback: timeout"),
    "prints a PHP notice": ("403 reject", "fallback: bad_answer"),
    "stops with a fatal error": ("403 reject", "fallback: bad_answer"),
    "fails: 500": ("403 reject", "fallback: error_status"),
    "redirects to a login page": ("403 reject", "fallback: error_status"),
    "closes the connection": ("403 reject", "fallback: unreachable"),
    "hangs on an event": ("200 allow", "spool: timeout"),
    "not contacted: app blocked": ("403 reject", "static: denied"),
    "not contacted: app stranger": ("403 reject", "gateway: unknown_app"),
}
"""What the media server gets and why, by how the row begins."""


def config_of(directory: Path, *, listen: str = "127.0.0.1:0", admin: str = "127.0.0.1:0", backend: str = "") -> Path:
    """The demo's own configuration on free ports and with little patience."""
    config = yaml.safe_load(DEMO_CONFIG)
    config["server"] = {"listen": listen, "admin": admin, "drain_timeout": "1s"}
    config["upstreams"]["legacy-php"]["url"] = f"http://{backend or f'127.0.0.1:{free_port()}'}/rest/my_api"
    config["apps"]["defaultApp"]["timeout"] = "4s"
    config["apps"]["defaultApp"]["methods"]["OnCallEvent"]["timeout"] = "900ms"
    path = directory / "demo.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass
class Demo:
    """A demo and what it has printed."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def printed(self) -> str:
        return self.out.read_text("utf-8")

    def wait_for(self, text: str) -> None:
        found = wait_until(lambda: text in self.printed() or self.process.poll() is not None, PATIENCE)
        assert found, f"{text!r} does not come:\n{self.printed()}"
        assert text in self.printed(), self.err.read_text()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send the signal; the exit status and what stands on standard error."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE), self.err.read_text("utf-8")


@contextlib.contextmanager
def running_demo(config: Path, directory: Path) -> Iterator[Demo]:
    out, err = directory / "out", directory / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", PATIENT, "demo", "-c", str(config)],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "250"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    try:
        yield Demo(process, out, err)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    with running_demo(config_of(directory), directory) as running:
        running.wait_for("Serving.")
        yield running


def rows_of(printed: str) -> dict[str, tuple[str, str]]:
    """The table: what the backend did, what the media server got, and why."""
    table = printed[printed.rindex("\n", 0, printed.index("→ answer")) + 1 : printed.index("Serving.")]
    cells = [re.split(r" {2,}", line.strip()) for line in table.splitlines()[2:] if line.strip()]
    assert {len(row) for row in cells} == {4}, table
    return {row[0]: (row[1], row[2]) for row in cells}


def test_the_table_shows_the_verdict_for_each_way_in_which_a_backend_behaves(demo: Demo) -> None:
    rows = rows_of(demo.printed())
    assert len(rows) == len(EXPECTED)
    for begin, (verdict, why) in EXPECTED.items():
        (row,) = [got for does, got in rows.items() if does.startswith(begin)]
        assert row[0] == verdict, begin
        assert row[1] == why or row[1].startswith(f"{why} ("), begin


def test_the_event_that_was_kept_is_delivered(demo: Demo) -> None:
    found = re.search(r"Console: (http://\S+)/ ", demo.printed())
    assert found
    with httpx.Client(trust_env=False, timeout=20.0) as client:

        def delivered() -> bool:
            metrics = client.get(f"{found[1]}/metrics").text
            return "\ngateway_spool_redelivered_total 1.0\n" in metrics

        assert wait_until(delivered, PATIENCE), client.get(f"{found[1]}/api/spool").text


def test_every_behaviour_is_in_the_table(demo: Demo) -> None:
    assert {behaviour.does for behaviour in BEHAVIOURS} <= rows_of(demo.printed()).keys()


def test_after_its_table_the_demo_serves_where_it_says(demo: Demo) -> None:
    found = re.search(r"Hooks: (http://\S+)/<Method> +Console: (http://\S+)/ ", demo.printed())
    assert found
    with httpx.Client(trust_env=False, timeout=20.0) as client:
        for callee, status in (("PPP005", 200), ("REFUSE", 403), ("ERROR", 403), ("CLOSE", 403)):
            answer = client.post(f"{found[1]}/OnCallEvent", json={"appKey": "defaultApp", "callee": callee})
            assert answer.status_code == status
        assert client.get(f"{found[2]}/-/ready").status_code == 200
        assert "<title>" in client.get(f"{found[2]}/").text
        assert "gateway_hooks_total" in client.get(f"{found[2]}/metrics").text


def test_the_demo_says_how_to_try_each_behaviour(demo: Demo) -> None:
    tail = demo.printed()[demo.printed().index("Serving.") :]
    for behaviour in BEHAVIOURS:
        assert behaviour.callee in tail
    assert "curl -i http://" in tail


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_on_a_signal_as_if_all_were_well(number: signal.Signals, tmp_path: Path) -> None:
    with running_demo(config_of(tmp_path), tmp_path) as running:
        running.wait_for("Serving.")
        assert running.end(number) == (0, "")


def test_a_signal_amid_the_samples_ends_the_demo_as_well(tmp_path: Path) -> None:
    path = config_of(tmp_path)
    path.write_text(path.read_text().replace("timeout: 900ms", "timeout: 10s"))
    with running_demo(path, tmp_path) as running:
        running.wait_for("backend/denied")  # the second sample is over, so the third hangs, or is about to
        status, err = running.end(signal.SIGINT)
        assert "Traceback" not in err + running.printed()
        assert (status, err) == (0, "")


@pytest.mark.parametrize("which", ["listen", "admin", "backend"])
def test_a_taken_port_is_named_in_one_line_and_exit_status_1(which: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running_demo(config_of(tmp_path, **{which: address}), tmp_path) as running:
            status = running.process.wait(PATIENCE)
    err = running.err.read_text("utf-8")
    assert (status, len(err.splitlines())) == (1, 1), err
    assert err.startswith("gateway: ")
    assert address in err
    assert "Traceback" not in running.printed()


def test_backends_elsewhere_are_not_played(tmp_path: Path) -> None:
    with running_demo(config_of(tmp_path, backend="192.0.2.1:8081"), tmp_path) as running:
        status = running.process.wait(PATIENCE)
    err = running.err.read_text("utf-8")
    assert (status, len(err.splitlines())) == (1, 1), err
    assert "loopback only" in err
    assert "192.0.2.1" in err


def test_the_demo_s_own_configuration_has_no_flaw() -> None:
    loaded = loads(DEMO_CONFIG)
    assert loaded.warnings == ()
    assert [str(address) for address in loaded.config.server.listen] == ["127.0.0.1:8080"]


def test_what_the_demo_keeps_is_gone_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    directories: list[Path] = []

    def serve(loaded: Loaded, main: object) -> None:
        assert loaded.config.store is not None
        store = Path(loaded.config.store.path)
        assert store.parent.is_dir()
        store.with_name("store.spool.db").touch()
        directories.append(store.parent)

    monkeypatch.setattr("gateway.cli.commands.demo.serve", serve)
    invoke("demo")
    assert [directory.exists() for directory in directories] == [False]
