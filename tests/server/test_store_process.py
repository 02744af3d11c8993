"""The store's process by itself: what it shows, what ends it, and what it counts beyond its death."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from gateway.config import Config, loads
from gateway.server.store_handle import StoreHandle, store_config
from gateway.server.store_process import _Counts
from gateway.store.records import UpstreamBacklog
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics
from tests.server.workers.processes import is_alive
from tests.store.serving import event, settings, until


def backlog(upstream: str, events: int, size: int, oldest: float | None) -> UpstreamBacklog:
    return UpstreamBacklog(upstream, events, size, 0, oldest, None, paused=False)


def test_what_waits_is_shown_by_configured_upstream_and_the_rest_under_one_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics("test")
    writer = LogWriter(os.open(os.devnull, os.O_WRONLY))
    counts = _Counts(metrics, writer)
    monkeypatch.setattr("gateway.server.store_process.configure_logging", lambda *_, **__: None)
    counts.configure(settings(upstreams=frozenset({"php", "idle"})))
    now = time.time()
    gone = [backlog("renamed", 2, 20, now - 60), backlog("removed", 3, 30, now - 30)]
    counts.backlogs([backlog("php", 1, 10, now - 5), *gone])
    shown = {labels[0]: value for labels, value in metrics.spool_events.totals().items()}
    assert shown == {"php": 1, "idle": 0, "_unknown": 5}
    assert metrics.spool_bytes.totals()["_unknown",] == 50
    ages = {labels[0]: value for labels, value in metrics.spool_oldest_age.totals().items()}
    assert (round(ages["php"]), ages["idle"], round(ages["_unknown"])) == (5, 0, 60)
    counts.backlogs([backlog("php", 1, 10, now + 3600)])
    assert set(metrics.spool_events.totals()) == {("php",), ("idle",)}
    assert metrics.spool_oldest_age.totals()["php",] == 0, "the clock was set back"
    writer.close()


def configuration(directory: Path, more: str = "") -> Config:
    text = f"store: {{url: 'sqlite:{directory}/store.db'}}\nupstreams: {{php: {{url: 'http://127.0.0.1:9/'}}}}\n{more}"
    return loads(f"{text}\napps: {{defaultApp: {{upstream: php}}}}").config


def test_what_the_store_s_process_follows_of_a_configuration(tmp_path: Path) -> None:
    config = store_config(
        configuration(tmp_path, "history: {}\nrecord: {path: /tmp/x.jsonl, mask: [a]}\nlog: {mask: [caller]}")
    )
    assert config is not None
    assert (config.engine, config.url.endswith(f"{tmp_path}/store.db")) == ("sqlite", True)
    assert (set(config.apps), set(config.upstreams)) == ({"defaultApp"}, {"php"})
    assert (config.mask, config.body_fields) == (("caller",), ("a",))
    assert store_config(loads("apps: {a: {static: allow}}").config) is None


@pytest.mark.process
async def test_its_counts_survive_its_death_and_only_its_parent_ends_it(tmp_path: Path) -> None:
    metrics, lock = Metrics("test"), threading.Lock()
    handle = StoreHandle(configuration(tmp_path), metrics, lock)

    def scraped(name: str) -> str:
        with lock:
            lines = metrics.render(handle.worker_metrics).decode().splitlines()
        return next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), "")

    async with asyncio.timeout(60), handle.running(), handle.access.client("worker") as client:
        await until(lambda: handle.client.up and client.up)
        deadline = asyncio.get_running_loop().time() + 10
        assert await client.keep(event(b"one"), deadline) is None
        first = handle.pid
        assert first is not None
        os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGINT)
        assert await client.keep(event(b"two"), deadline) is None, "it ends with the gateway"
        assert handle.pid == first
        await until(lambda: scraped('gateway_spool_events{upstream="php"}') == "2.0")
        assert scraped("gateway_store_commit_seconds_count") == "2.0"
        os.kill(first, signal.SIGKILL)
        await until(lambda: handle.pid not in (None, first) and handle.client.up and client.up)
        assert await client.keep(event(b"three"), deadline + 30) is None
        await until(lambda: scraped('gateway_spool_events{upstream="php"}') == "3.0")
        assert scraped("gateway_store_commit_seconds_count") == "3.0"
        second = handle.pid
        assert second is not None
    assert not is_alive(second)
    assert handle.pid is None


@pytest.mark.process
@pytest.mark.slow
async def test_a_stopped_process_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.store_handle._END_LIMIT", 0.5)
    handle = StoreHandle(configuration(tmp_path), Metrics("test"), threading.Lock())
    async with asyncio.timeout(60), handle.running():
        await until(lambda: handle.client.up)
        pid = handle.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)
