"""A task that works as long as the process outlives any exception of one of its turns."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import pytest

from gateway.admin import systemd
from gateway.config import loads
from gateway.http.client import Resolver
from gateway.model.keep_going import KeepGoing
from gateway.server import hook_service, supervisor, worker
from gateway.server.hook_service import HookService
from gateway.server.loop_lag import LoopLagMonitor
from gateway.server.supervisor import Supervisor
from gateway.server.worker_handle import WorkerHandle
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.health import HealthCheck

PACKAGE: Final = Path(__file__).parent.parent.parent / "gateway"
ELSEWHERE: Final = {"cli", "demo.py", "replay", "documents.py"}
"""What a user looks at: an exception ends it, and shows."""
PAUSES: Final = {"sleep", "wait", "wait_for", "receive", "get"}


class Failing:
    """A step that raises a few times before it is well, and counts."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.calls = 0
        self.was_well = asyncio.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self.calls += 1
        if self.calls < 4:
            raise self._error
        self.was_well.set()

    async def awaited(self, *_: object, **__: object) -> None:
        self()


@pytest.fixture(params=[MemoryError(), RuntimeError("can't start new thread"), KeyError("x")], ids=repr)
def failing(request: pytest.FixtureRequest) -> Failing:
    return Failing(request.param)


async def outlives(loop: Awaitable[object], failing: Failing) -> None:
    task = asyncio.ensure_future(loop)
    try:
        async with asyncio.timeout(10):
            await failing.was_well.wait()
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (worker, "_SAMPLE_EVERY"),
        (supervisor, "_PING_EVERY"),
        (supervisor, "LOOK_AT_CERTIFICATES_EVERY"),
        (hook_service, "LOOK_AT_CERTIFICATES_EVERY"),
    ):
        monkeypatch.setattr(module, name, 0.001)


async def test_the_sampling_of_gauges(failing: Failing) -> None:
    metrics = Metrics("test")
    metrics.on_scrape(failing)
    await outlives(worker._sample(metrics), failing)


async def test_the_look_for_silent_workers(failing: Failing) -> None:
    silent: Any = SimpleNamespace(ready=asyncio.Event(), unanswered=0, slot=0, send=failing)
    stage: Any = SimpleNamespace(_workers={0: silent})
    await outlives(Supervisor._ping(stage), failing)


async def test_the_copying_of_certificates(failing: Failing) -> None:
    stage: Any = SimpleNamespace(
        _files_changed=asyncio.Event(), _pem_cache=SimpleNamespace(refresh=failing), _config=loads("apps: {}").config
    )
    stage._files_changed.set()
    await outlives(Supervisor._refresh_pem_cache(stage), failing)


async def test_the_hearing_of_a_worker(failing: Failing) -> None:
    class Channel:
        async def receive(self) -> object:
            failing()
            await asyncio.sleep(60)
            return None

    stage: Any = WorkerHandle(0, SimpleNamespace(pid=1), Channel(), SimpleNamespace())  # type: ignore[arg-type]
    await outlives(stage._listening, failing)


async def test_the_renewal_of_certificates(failing: Failing) -> None:
    stage: Any = SimpleNamespace(
        _changing=asyncio.Lock(),
        _prepared=None,
        _keep_renewing=KeepGoing("the renewal"),
        _refresh_tls=lambda: None,
        runtime=SimpleNamespace(renew_tls=failing.awaited),
    )
    stage._renew_tls = lambda: HookService._renew_tls(stage)
    await outlives(HookService._renew_tls_periodically(stage), failing)


async def test_a_health_check(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    config = loads("upstreams: {u: {url: 'http://127.0.0.1:9', health: {path: /, interval: 1s}}}").config
    wanted = config.upstreams["u"].health
    assert wanted is not None
    monkeypatch.setattr(HealthCheck, "_ask", failing.awaited)
    transport = SimpleNamespace(resolver=Resolver())
    target: Any = SimpleNamespace(name="t", url=httpx.URL("http://127.0.0.1:9"), transport=transport)
    check = HealthCheck(target, wanted.model_copy(update={"interval": 0.001}))
    check.start()
    assert check._task is not None
    await outlives(check._task, failing)


async def test_the_signs_of_life_for_systemd(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_notify", failing)
    await outlives(systemd._notify_watchdog(0.001), failing)


async def test_a_look_at_the_loop_s_own_pauses(failing: Failing) -> None:
    monitor = LoopLagMonitor(asyncio.get_running_loop(), failing)
    monitor.start()
    for _ in range(4):
        monitor._due -= 60.0  # it is late by a minute
        try:
            monitor._check()
        except (MemoryError, RuntimeError, KeyError):
            assert monitor._timer is not None
    assert failing.was_well.is_set()
    monitor.stop()


# --- and any that will be written ---


def endless_loops() -> Iterator[tuple[str, ast.While]]:
    """The loops of the gateway's own tasks: without an end, and with a pause in each turn."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] in ELSEWHERE:
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            for loop in ast.walk(function):
                if isinstance(loop, ast.While) and ast.unparse(loop.test) == "True" and _pauses(loop):
                    yield f"{name}: {function.name}", loop


def _pauses(loop: ast.While) -> bool:
    return any(
        isinstance(node, ast.Await)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in PAUSES
        for node in ast.walk(loop)
    )


def _is_guarded(loop: ast.While) -> bool:
    calls = {ast.unparse(node.func) for node in ast.walk(loop) if isinstance(node, ast.Call)}
    guards = {
        ast.unparse(item.context_expr) for node in ast.walk(loop) if isinstance(node, ast.With) for item in node.items
    }
    return bool(
        any("keep_" in guard or guard == "contextlib.suppress(Exception)" for guard in guards)
        or {"self._log_errors", "self._renew_tls"} & calls
    )


def test_every_endless_loop_is_guarded() -> None:
    loops = dict(endless_loops())
    assert len(loops) >= 7, loops
    by_connection = {"requests.py: body_of", "front/exchange.py: body_of"}
    assert [name for name, loop in loops.items() if not _is_guarded(loop) and name not in by_connection] == []
