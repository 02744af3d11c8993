"""A reload that fails, at any step and with any error, leaves the old configuration whole and in force; the next works.

One gateway in this process. Each function that a reload passes through is made to raise, one after the other, and all
that can be observed of the gateway is compared with what it was before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.admin.reload import FailureReason, Reloader, with_workers
from gateway.config import Config, loads
from gateway.proxy import runtime
from gateway.proxy.routes import Table
from gateway.proxy.tenants import Tenant
from gateway.recording import Recorder
from gateway.server import hook_service
from gateway.server.hook_service import HookService
from gateway.server.sockets import bind
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Targets, mirror
from gateway.upstreams.health import HealthCheck
from gateway.upstreams.target import Target
from gateway.upstreams.upstream import Upstream
from tests.support.faulty import Certificates

BEFORE: Final = """
server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', max_body: 1KiB, allow_from: [127.0.0.1]}}
log: {{level: warning, access: failures, mask: [caller]}}
record: {{path: '{directory}/old.jsonl', mask: [callee], failures_only: true}}
tracing: {{endpoint: 'http://127.0.0.1:9', sample: 0.1}}
upstreams:
  kept: {{url: 'http://127.0.0.1:9/kept', max_connections: 5, health: {{path: /old, interval: 1h}}}}
  gone: {{url: 'http://127.0.0.1:9/gone', health: {{path: /gone, interval: 1h}}}}
  copied: {{url: 'http://127.0.0.1:9/copied'}}
apps:
  kept: {{upstream: kept, rate_limit: 5/s, shadow: {{upstream: copied}}}}
  gone: {{upstream: gone}}
"""
AFTER: Final = """
server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', max_body: 2KiB, allow_from: [127.0.0.2], max_in_flight: 7}}
log: {{level: debug, access: all, mask: [], format: console}}
record: {{path: '{directory}/new.jsonl', mask: []}}
tracing: {{endpoint: 'http://127.0.0.1:9/new', sample: 0.9}}
metrics: {{app_label: never}}
upstreams:
  kept:
    url: 'http://127.0.0.1:9/kept'
    max_connections: 9
    connect_timeout: 2s
    breaker: off
    health: {{path: /new, interval: 1h}}
  new: {{url: 'https://127.0.0.1:9/new', tls: {{ca: '{ca}'}}, health: {{path: /new, interval: 1h}}}}
apps:
  kept: {{upstream: kept, rate_limit: 9/s}}
  new: {{upstream: new, rate_limit: 3/s, shadow: {{upstream: kept}}}}
"""


class Staged:
    """A gateway's service and its reloader, over a configuration file."""

    def __init__(self, directory: Path, ca: Path) -> None:
        self.path = directory / "gateway.yaml"
        self.texts = {text: text.format(directory=directory, ca=ca) for text in (BEFORE, AFTER)}
        self.path.write_text(self.texts[BEFORE])
        loaded = loads(self.texts[BEFORE], str(self.path))
        self.metrics = Metrics("test")
        self.writer = LogWriter(os.open(os.devnull, os.O_WRONLY))
        self.sockets = bind(loaded.config.server.listen, "server.listen")
        self.service = HookService(with_workers(loaded.config, 1), self.sockets, self.metrics, self.writer)
        self.reloader = Reloader(loaded, self.metrics, lambda new: self.service.reload(with_workers(new.config, 1)))

    def write(self, text: str) -> None:
        self.path.write_text(self.texts[text])

    def state(self) -> dict[str, object]:
        """All that a reload may change, but for the counts of reloads themselves."""
        service, root = self.service, logging.getLogger()
        snapshot, targets = service.runtime.snapshot, service.runtime.targets
        access: AccessLog = service._access
        return {
            "limits": service._front.limits,
            "allow_from": service._front.addresses,
            "log": (tuple(root.handlers), root.level),
            "access": (access._off, access._failures_only, access._console, access._mask_caller, access._mask_callee),
            "snapshot": snapshot,
            "routes": {app.name: app.default for app in snapshot.table.apps},
            "tenants": dict(service.runtime.tenants),
            "rates": {
                name: repr(tenant.limiter._per_second) if tenant.limiter else ""
                for name, tenant in service.runtime.tenants.items()
            },
            "targets": dict(targets._live),
            "terms": {key: target.settings for key, target in targets._live.items()},
            "transports": {key: target.transport.settings for key, target in targets._live.items()},
            "breakers": {key: target.breaker.settings for key, target in targets._live.items()},
            "retired": {key: target.retired for key, target in targets._live.items()},
            "checks": dict(targets._checks),
            "contexts": dict(targets._contexts),
            "lanes": dict(service.runtime.shadows._lanes),
            "tracing": service._tracing.in_force,
            "tracer": service._tracing._exporter.is_alive if service._tracing._exporter else None,
            "recorder": service._recorder.in_force,
            "recording": service._recorder._writer.thread.is_alive if service._recorder._writer else None,
            "listeners": service_listeners(service),
            "series": self.series(),
            "prepared": service._prepared,
            "config": service._config,
            "loaded": self.reloader.loaded,
        }

    def series(self) -> set[str]:
        lines = self.metrics.render().decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith(("#", "gateway_config"))}

    async def aclose(self) -> None:
        self.service.stop(at_once=True)
        await self.service.wait_for_end()
        self.writer.close()


def service_listeners(service: HookService) -> object:
    """Who gets decisions, and what a hook begins with."""
    endpoint = service._tracing._switch.__self__  # type: ignore[attr-defined]
    return endpoint._listeners, getattr(endpoint._new_context, "args", None)


@pytest.fixture
def logging_kept() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def staged(tmp_path: Path, ours: Certificates, logging_kept: None) -> AsyncIterator[Staged]:
    stage = Staged(tmp_path, ours.ca)
    await stage.service.start()
    try:
        yield stage
    finally:
        await stage.aclose()


class Fault:
    """A function that raises, from its nth call on."""

    def __init__(self, real: Callable[..., Any], error: Exception, nth: int) -> None:
        self._real = real
        self._error = error
        self._left = nth
        self.raised = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left > 0:
            return self._real(*args, **kwargs)
        self.raised += 1
        raise self._error


def broken(patch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, nth: int = 1) -> Fault:
    real = getattr(owner, name)
    fault = Fault(real, error, nth)

    def called(*args: Any, **kwargs: Any) -> Any:
        return fault(*args, **kwargs)

    patch.setattr(owner, name, called)
    return fault


PREPARING: Final = [
    (hook_service, "_limits", 1),
    (hook_service, "ClientAddresses", 1),
    (hook_service, "prepare_logging", 1),
    (AccessLog, "prepare", 1),
    (runtime, "Table", 1),
    (runtime, "candidate_upstreams", 1),
    (Targets, "contexts", 1),
    (Targets, "prepare", 1),
    (Target, "__init__", 1),
    (Target, "__init__", 2),
    (Upstream, "__init__", 1),
    (Upstream, "__init__", 2),
    (HealthCheck, "__init__", 1),
    (HealthCheck, "__init__", 2),
    (mirror.Shadows, "prepare", 1),
    (runtime.RuntimeChange, "_assign_tenants", 1),
    (Metrics, "make_scope", 1),
    (runtime, "Snapshot", 1),
]
"""What builds something, and may fail in the ordinary course of things."""
COMMITTING: Final = [
    (AccessLog, "configure", 1),
    (logging.Logger, "setLevel", 1),
    (Target, "configure", 1),
    (Target, "configure", 2),
    (Targets, "put", 1),
    (mirror.Shadows, "put", 1),
    (Tenant, "limit", 1),
    (Tenant, "limit", 2),
    (Metrics, "set_scope", 1),
]
"""What only puts something in the place of something else: no fault is known, and still none would matter."""
ERRORS: Final = [MemoryError(), OSError(5, "Input/output error"), RuntimeError("can't start new thread")]


def named(value: object) -> str:
    if isinstance(value, tuple):
        owner, name, nth = value
        return f"{owner.__name__.rpartition('.')[2]}.{name}#{nth}"
    return type(value).__name__


@pytest.mark.parametrize("step", [*PREPARING, *COMMITTING], ids=named)
async def test_whichever_step_raises_the_old_configuration_is_whole_reported_and_the_next_is_taken(
    staged: Staged, step: tuple[Any, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = staged.state()
    staged.write(AFTER)
    for error in ERRORS:
        with monkeypatch.context() as patch:
            fault = broken_once(patch, step, error)
            report = await staged.reloader.reload("admin")
        assert fault.raised, "the reload does not pass through this step any more"
        assert staged.state() == before
        assert (report.successful, report.reason) == (False, FailureReason.NOT_APPLIED)
        assert "cannot be applied" in str(report.problems[0])
        assert staged.reloader.last_report is report
        assert staged.metrics.reload_successful.get() == 0
    report = await staged.reloader.reload("admin")
    assert report.successful, report.problems
    after = staged.state()
    same = {name for name, value in before.items() if value == after[name]} - {"tracer", "recording", "prepared"}
    assert same == set(), "the test would not notice if these were changed"
    assert threading.active_count() < 20


def broken_once(patch: pytest.MonkeyPatch, step: tuple[Any, str, int], error: Exception) -> Fault:
    """The step raises at its nth call and is well again after that: what puts things back passes through it, too."""
    owner, name, nth = step
    real = getattr(owner, name)
    fault = Fault(real, error, nth)

    def called(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if fault.raised else fault(*args, **kwargs)

    patch.setattr(owner, name, called)
    return fault


SETTLING: Final = [
    (Target, "retire"),
    (HealthCheck, "aclose"),
    (HealthCheck, "start"),
    (mirror.Shadows, "end"),
    (Metrics, "prune"),
    (runtime.Runtime, "renew_tls"),
    (Recorder, "end"),
]


@pytest.mark.parametrize("step", SETTLING, ids=lambda step: f"{step[0].__name__}.{step[1]}")
async def test_a_failure_in_cleaning_up_does_not_undo_the_success(
    staged: Staged, step: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged.write(AFTER)
    with monkeypatch.context() as patch:
        fault = broken(patch, *step, OSError(5, "Input/output error"))
        report = await staged.reloader.reload("admin")
    assert fault.raised
    assert report.successful
    assert set(staged.service.runtime.snapshot.config.apps) == {"kept", "new"}
    assert staged.reloader.loaded.config.server.max_body == 2048
    staged.write(BEFORE)
    assert (await staged.reloader.reload("admin")).successful
    assert set(staged.service.runtime.snapshot.config.apps) == {"kept", "gone"}


async def test_a_certificate_that_is_spoilt_after_the_check_changes_nothing_and_is_tried_again_by_itself(
    staged: Staged, ours: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(ours.ca.read_bytes())
    staged.texts[AFTER] = staged.texts[AFTER].replace(str(ours.ca), str(ca))
    staged.write(AFTER)
    before = staged.state()
    real = Table

    def spoiling(config: Config) -> object:
        """The table is built after the check, and before the certificates are read."""
        ca.unlink()
        os.mkfifo(ca)  # a reader waits for a writer
        return real(config)

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "Table", spoiling)
        async with asyncio.timeout(20):
            report = await staged.reloader.reload("admin")
    assert staged.state() == before
    assert report.reason is FailureReason.NOT_APPLIED
    assert "upstreams.new.tls" in str(report.problems[0])
    ca.unlink()
    ca.write_bytes(ours.ca.read_bytes())
    monkeypatch.setattr(staged.reloader, "_retry_at", 0.0)
    await staged.reloader.retry()
    assert staged.reloader.last_report.successful
    assert set(staged.service.runtime.snapshot.config.apps) == {"kept", "new"}


async def test_a_reload_that_comes_amid_the_start_waits_for_its_end(
    tmp_path: Path, ours: Certificates, logging_kept: None
) -> None:
    stage = Staged(tmp_path, ours.ca)
    stage.write(AFTER)
    reloading = asyncio.create_task(stage.reloader.reload("SIGHUP"))
    await asyncio.sleep(0.2)
    await stage.service.start()
    try:
        report = await reloading
        assert report.successful, report.problems
        targets = stage.service.runtime.targets
        assert {key.upstream for key in targets._live} == {"kept", "new", "shadow:kept"}
        assert not any(target.retired for target in targets._live.values())
    finally:
        await stage.aclose()


async def test_a_target_that_is_ejected_while_it_is_prepared_begins_its_life_ejected(staged: Staged) -> None:
    after = loads(staged.texts[AFTER], str(staged.path)).config
    await staged.service.prepare(with_workers(after, 1))
    staged.service.runtime.targets.eject("new", "https://127.0.0.1:9/new")
    staged.service.commit()
    await staged.service.settle()
    (target,) = [target for key, target in staged.service.runtime.targets._live.items() if key.upstream == "new"]
    assert target.operator_ejected_since is not None


async def test_what_is_prepared_and_discarded_again_and_again_leaves_nothing_behind(staged: Staged) -> None:
    # One thread: how many a larger pool has begun depends on what else the machine does.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    after = with_workers(loads(staged.texts[AFTER], str(staged.path)).config, 1)
    before = staged.state()
    for _ in range(3):
        await staged.service.prepare(after)
    await staged.service.discard()
    tracemalloc.start()
    try:
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await staged.service.prepare(after)
            await staged.service.discard()
        assert len(os.listdir("/proc/self/fd")) <= files
        assert threading.active_count() <= threads + 1
    finally:
        tracemalloc.stop()
    assert staged.state() == before
    with contextlib.suppress(RuntimeError):
        staged.service.commit()
    assert staged.state() == before
