"""All workers take a new configuration, or all keep the old one, whichever of them cannot, ends or hangs meanwhile.

The workers of these gateways import a module that makes the reading of certificate authorities fail as a file says:
what the supervisor has checked is then spoilt when the workers build their part.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.server.workers.gated import WORKERS
from tests.server.workers.processes import OUTAGE, is_alive, is_whole_without, pids_of, status_at_each
from tests.support.faulty import Certificates
from tests.support.gateways import RunningGateway, running_gateway, wait_until

FAULTS: Final = '''
import builtins, os, ssl, sys, time
real = ssl.create_default_context

def faulty(*args, **kwargs):
    """Fail as the file says: how, and in which process."""
    try:
        how, where = open(os.environ["TEST_FAULT"]).read().split()
    except FileNotFoundError:
        return real(*args, **kwargs)
    if where in ("all", str(os.getpid())):
        if how == "exit":
            os._exit(9)
        if how == "hang":
            time.sleep(25)
        elif how == "stop":
            os.kill(os.getpid(), 19)
        elif how != "nothing":
            raise getattr(builtins, how)("injected")
    return real(*args, **kwargs)

if "--channel" in sys.argv:  # workers alone
    ssl.create_default_context = faulty
'''


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how workers fail."""
    return tmp_path_factory.mktemp("fault") / "fault"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, fault: Path, ours: Certificates) -> Iterator[RunningGateway]:
    modules = tmp_path_factory.mktemp("modules")
    (modules / "sitecustomize.py").write_text(FAULTS)
    environment = {"PYTHONPATH": str(modules), "TEST_FAULT": str(fault)}
    with running_gateway(
        configuration("first", ours), tmp_path_factory.mktemp("agreeing"), environment=environment
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def mended(fault: Path) -> Iterator[None]:
    yield
    fault.unlink(missing_ok=True)


def configuration(name: str, certificates: Certificates) -> str:
    """One app and one upstream of this name; its authorities are read again where the name is new."""
    tls = {"ca": str(certificates.ca), "server_name": f"{name}.example"}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": WORKERS, "watch": {"settle": "0s"}},
            "upstreams": {name: {"url": "https://127.0.0.1:9/", "tls": tls}},
            "apps": {name: {"static": "allow"}, f"{name}-asks": {"upstream": name}},
        }
    )


@pytest.mark.parametrize(
    ("error", "which"), [("OSError", "one"), ("MemoryError", "all"), ("RuntimeError", "all"), ("ValueError", "one")]
)
def test_where_a_worker_cannot_take_it_all_keep_the_old_one_and_none_is_killed(
    gateway: RunningGateway, fault: Path, ours: Certificates, error: str, which: str
) -> None:
    old, new = f"old-{error}-{which}".lower(), f"new-{error}-{which}".lower()
    gateway.reload(configuration(old, ours))
    pids = pids_of(gateway)
    fault.write_text(f"{error} {'all' if which == 'all' else pids[1]}")
    gateway.write_config(configuration(new, ours))
    answer = gateway.post("/-/reload")
    assert answer.status_code == 500
    report = answer.json()
    assert (report["result"], report["reason"]) == ("failure", "not_applied")
    assert "cannot be applied" in report["problems"][0]
    assert "worker" in report["problems"][0]
    assert gateway.metric("gateway_config_last_reload_successful") == 0
    assert gateway.get("/api/status").json()["last_reload"]["problems"] == report["problems"]
    assert status_at_each(gateway, old) == dict.fromkeys(pids, 200)
    assert status_at_each(gateway, new) == dict.fromkeys(pids, 403)
    assert f'"{new}' not in gateway.get("/metrics").text
    assert gateway.metric("gateway_worker_deaths_total") == 0
    fault.unlink()
    # It is tried again by itself, for it was not the text's fault.
    assert wait_until(lambda: gateway.metric("gateway_config_last_reload_successful") == 1, 20)
    assert status_at_each(gateway, new) == dict.fromkeys(pids, 200)
    assert status_at_each(gateway, old) == dict.fromkeys(pids, 403)


def test_a_successor_never_begins_with_what_the_workers_could_not_take(
    gateway: RunningGateway, fault: Path, ours: Certificates
) -> None:
    gateway.reload(configuration("kept", ours))
    deaths = gateway.metric("gateway_worker_deaths_total")
    pids = pids_of(gateway)
    fault.write_text("OSError all")
    gateway.write_config(configuration("refused", ours))
    assert gateway.post("/-/reload").status_code == 500
    fault.write_text("nothing all")
    gateway.write_config(configuration("kept", ours))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: is_whole_without(gateway, *pids), OUTAGE), gateway.log.read_text()
    assert set(status_at_each(gateway, "kept").values()) == {200}
    assert gateway.metric("gateway_worker_deaths_total") == deaths + WORKERS


def test_a_worker_that_ends_while_it_takes_it_holds_up_nobody_and_its_successor_has_it_too(
    gateway: RunningGateway, fault: Path, ours: Certificates
) -> None:
    gateway.reload(configuration("before-the-end", ours))
    victim, other = pids_of(gateway)
    fault.write_text(f"exit {victim}")
    gateway.write_config(configuration("after-the-end", ours))
    answer = gateway.post("/-/reload")
    assert (answer.status_code, answer.json()["result"]) == (200, "success")
    assert wait_until(lambda: is_whole_without(gateway, victim), OUTAGE), gateway.log.read_text()
    assert other in pids_of(gateway)
    assert set(status_at_each(gateway, "after-the-end").values()) == {200}
    assert set(status_at_each(gateway, "before-the-end").values()) == {403}


def test_a_worker_that_hangs_while_it_takes_it_is_replaced_by_one_that_has_it(
    gateway: RunningGateway, fault: Path, ours: Certificates
) -> None:
    gateway.reload(configuration("before-it-stands-still", ours))
    victim, other = pids_of(gateway)
    fault.write_text(f"stop {victim}")
    gateway.write_config(configuration("after-it-stands-still", ours))
    answer = gateway.post("/-/reload")
    assert (answer.status_code, answer.json()["result"]) == (200, "success")
    assert wait_until(lambda: is_whole_without(gateway, victim), OUTAGE), gateway.log.read_text()
    assert not is_alive(victim)
    assert other in pids_of(gateway)
    assert set(status_at_each(gateway, "after-it-stands-still").values()) == {200}


def test_a_worker_that_lives_and_does_not_come_to_an_end_with_it_has_all_keep_the_old_one(
    gateway: RunningGateway, fault: Path, ours: Certificates
) -> None:
    gateway.reload(configuration("goes-on", ours))
    pids = pids_of(gateway)
    fault.write_text(f"hang {pids[0]}")
    gateway.write_config(configuration("never-ready", ours))
    answer = gateway.post("/-/reload")
    assert answer.status_code == 500
    assert "was not ready within" in answer.json()["problems"][0]
    assert status_at_each(gateway, "goes-on") == dict.fromkeys(pids, 200)
