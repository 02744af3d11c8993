"""Kept events are delivered once their upstream is there again: in order, once, and never before live hooks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, loads
from gateway.model.verdicts import Ruling
from gateway.policy import redelivery as policy
from gateway.proxy import redelivery
from gateway.proxy.kept_hook import build_redelivery
from gateway.proxy.redelivery import Redelivery
from gateway.proxy.runtime import Runtime
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Outcome
from gateway.upstreams.outgoing import Outgoing
from tests.support import kept_events
from tests.support.event_sink import HANG, OK, Sink
from tests.support.kept_events import TELL_EVERY, KeptEvents, Shelf, event

PATIENCE = 20.0
BUDGET = 0.3


def configuration(backend: Sink, directory: Path, **changes: Any) -> Config:
    upstream = {
        "url": f"http://127.0.0.1:{backend.port}/rest",
        "connect_timeout": "200ms",
        "max_connections": 32,
        "breaker": {"open_for": "30s"},
        **changes.pop("upstream", {}),
    }
    app = {"upstream": "php", "timeout": f"{int(BUDGET * 1000)}ms", "spool": {"attempts": 3}, **changes.pop("app", {})}
    document = {"store": {"url": f"sqlite:{directory}/store.db"}, "upstreams": {"php": upstream}, "apps": {"a": app}}
    return loads(json.dumps({**document, **changes})).config


class Stage:
    """Redelivery of a real runtime to a real backend, from a store in memory."""

    def __init__(self, config: Config, store: KeptEvents) -> None:
        self.metrics = Metrics("test")
        self.runtime = Runtime(config, self.metrics)
        self.store = store
        self.shelf = store.shelf
        self.redelivery = Redelivery(self.runtime, store)

    async def reload(self, config: Config) -> None:
        change = await self.runtime.prepare(config)
        change.commit()
        await change.settle()

    async def send_live(self, number: int) -> Outcome:
        """A live hook, as the endpoint sends it."""
        upstream = self.runtime.snapshot.upstreams["php"]
        body = json.dumps({"number": number}).encode()
        outgoing = Outgoing(path="/CallStatusEvent", host=None, head=b"", body=body, tenant="a")
        deadline = asyncio.get_running_loop().time() + PATIENCE
        return await upstream.ask(outgoing, deadline, upstream.retry)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that has failed by itself is tried again at once."""
    monkeypatch.setattr(redelivery, "retry_delay", lambda failures: 0.01 * failures)
    monkeypatch.setattr(redelivery, "_LAST", 0.2)


@pytest.fixture
async def backend() -> AsyncIterator[Sink]:
    running = Sink()
    await running.begin()
    yield running
    await running.end()


Begin = Callable[..., Stage]


@pytest.fixture
async def begin(backend: Sink, tmp_path: Path) -> AsyncIterator[Begin]:
    stages: list[Stage] = []

    def build(store: KeptEvents | None = None, **changes: Any) -> Stage:
        stages.append(Stage(configuration(backend, tmp_path, **changes), store or KeptEvents()))
        return stages[-1]

    yield build
    for stage in stages:
        await stage.redelivery.aclose()
        assert not stage.redelivery.tasks
        await stage.runtime.aclose()


def test_its_first_wait_and_its_longest_keep_the_promise_of_a_second() -> None:
    assert policy.FIRST_WAIT < policy.MAX_WAIT <= 1.0 - 3 * redelivery.TICK


async def test_what_waits_is_delivered_in_order_within_its_call_and_once(begin: Begin, backend: Sink) -> None:
    stage = begin()
    kept = [event(number, key=b"call %d" % (number % 7)) for number in range(70)]
    stage.store.add(*kept)
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == list(range(70))
    for call in range(7):
        assert [number for number in backend.recorded if number % 7 == call] == list(range(call, 70, 7))
    assert stage.shelf.outcomes() == {"delivered": 70}
    assert stage.metrics.spool_redelivered.get() == 70


async def test_the_backend_gets_the_hook_and_is_told_that_it_is_late(begin: Begin, backend: Sink) -> None:
    stage = begin()
    stage.store.add(event(5, query=b"x=1", received=1_700_000_000.25))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    ((body, headers),) = backend.got
    assert body == {"appKey": "a", "callId": "c5", "number": 5}
    assert headers["x-gateway-redelivery"] == "1"
    assert headers["x-gateway-event-time"] == "2023-11-14T22:13:20.250Z"
    assert headers["idempotency-key"] == headers["x-request-id"] == "request-5"
    assert (headers["user-agent"], headers["x-forwarded-for"]) == ("Java/1.8.0_111", "192.0.2.1")


async def test_nothing_is_delivered_by_one_who_is_not_told_to(begin: Begin, backend: Sink) -> None:
    stage = begin()
    stage.store.add(event(1))
    await asyncio.sleep(3 * redelivery.TICK)
    assert (backend.got, stage.store.asked) == ([], [])


async def test_while_the_upstream_is_down_one_probe_at_a_time_is_sent_and_none_is_counted(
    begin: Begin, backend: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    await backend.end()
    stage = begin()
    stage.store.add(*(event(number) for number in range(20)))
    stage.store.begin()
    await until(lambda: len(stage.shelf.settled) >= 4)
    assert set(stage.shelf.outcomes()) == {"released"}
    assert {row.attempts for row in stage.shelf.rows.values()} == {0}
    assert max(most for _, most in stage.store.asked) == 1
    await backend.begin()
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == list(range(20))
    lines = [record.getMessage() for record in caplog.records if record.name == redelivery.__name__]
    assert [line.partition(",")[0] for line in lines] == [
        "spool: upstream php takes no events",
        "spool: upstream php takes events again",
    ]


async def test_a_target_that_its_breaker_ejected_is_probed_and_restored(begin: Begin, backend: Sink) -> None:
    await backend.end()
    stage = begin(upstream={"breaker": {"failures": 1, "open_for": "1h"}})
    stage.store.add(event(1))
    stage.store.begin()
    target = stage.runtime.targets
    await until(lambda: len(stage.shelf.settled) >= 3)
    (report,) = await target.reports()
    assert report.state != "up"
    await backend.begin()
    await until(lambda: not stage.shelf.rows)
    (report,) = await target.reports()
    assert report.state == "up"


async def test_a_target_whose_health_check_fails_gets_nothing_until_it_is_well(begin: Begin, backend: Sink) -> None:
    stage = begin(
        upstream={"health": {"path": "/health", "interval": "100ms", "timeout": "100ms"}, "breaker": {"open_for": "1h"}}
    )
    backend.is_well = False
    await stage.runtime.start()
    (report,) = await stage.runtime.targets.reports()
    while report.state == "up":
        await asyncio.sleep(0.01)
        (report,) = await stage.runtime.targets.reports()
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: len(stage.shelf.settled) >= 2)
    assert not backend.got
    backend.is_well = True
    await until(lambda: backend.recorded == [1])


async def test_a_target_that_an_operator_ejected_gets_nothing(begin: Begin, backend: Sink) -> None:
    stage = begin()
    (url,) = [target.url for target in stage.runtime.snapshot.config.upstreams["php"].targets]
    stage.runtime.targets.eject("php", url)
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: len(stage.shelf.settled) >= 2)
    assert not backend.got
    stage.runtime.targets.restore("php", url)
    await until(lambda: not stage.shelf.rows)


async def test_a_poison_event_becomes_a_dead_letter_and_its_call_goes_on(
    begin: Begin, backend: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    stage = begin()
    backend.status = lambda body: 500 if body["number"] == 1 else OK
    stage.store.add(event(1, key=b"call"), event(2, key=b"call"), event(3, key=b"other"))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert backend.recorded == [3, 2]
    assert [headers["x-gateway-redelivery"] for body, headers in backend.got if body["number"] == 1] == ["1", "2", "3"]
    assert stage.shelf.outcomes() == {"failed": 2, "dead": 1, "delivered": 2}
    assert [each.request_id for each in stage.shelf.dead] == ["request-1"]
    (dead,) = [settle for _, settle in stage.shelf.settled if settle.outcome == "dead"]
    assert dead.error == "status 500"
    assert "c1" not in caplog.text


async def test_an_event_that_hangs_while_others_are_answered_has_failed_by_itself(begin: Begin, backend: Sink) -> None:
    stage = begin()
    backend.status = lambda body: HANG if body["number"] == 20 else OK
    backend.seconds = 0.02
    stage.store.add(*(event(number) for number in range(200)))
    stage.store.begin()
    await until(lambda: stage.shelf.outcomes()["delivered"] == 199)
    assert "failed" in {settle.outcome for kept, settle in stage.shelf.settled if kept.request_id == "request-20"}


async def test_an_event_that_hangs_alone_ejects_no_target_of_live_hooks(begin: Begin, backend: Sink) -> None:
    stage = begin(upstream={"breaker": {"failures": 2, "open_for": "1h"}})
    backend.status = lambda body: HANG if body["number"] == 1 else OK
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: stage.shelf.outcomes()["released"] >= 4)
    (report,) = await stage.runtime.targets.reports()
    assert (report.state, report.ejections) == ("up", 0)
    assert isinstance((await stage.send_live(2)).result, Ruling)


async def test_a_backend_that_fails_for_all_makes_no_dead_letters(begin: Begin, backend: Sink) -> None:
    stage = begin()
    backend.status = lambda body: 500
    stage.store.add(*(event(number) for number in range(30)))
    stage.store.begin()
    await until(lambda: stage.shelf.outcomes()["released"] >= 6)
    assert not stage.shelf.dead
    backend.status = lambda body: OK
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == list(range(30))


@pytest.mark.parametrize("status", [403, 200, 201, 204])
async def test_a_verdict_and_any_2xx_are_deliveries(begin: Begin, backend: Sink, status: int) -> None:
    stage = begin()
    backend.status = lambda body: status
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert stage.shelf.outcomes() == {"delivered": 1}


async def test_at_most_a_quarter_of_the_connections_is_used(begin: Begin, backend: Sink) -> None:
    stage = begin()
    backend.seconds = 0.005
    stage.store.add(*(event(number) for number in range(300)))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert backend.most_under_way == 8


@contextlib.asynccontextmanager
async def live_load(stage: Stage, backend: Sink, hooks: int) -> AsyncIterator[None]:
    """So many live hooks at a time, one after the other."""
    numbers = itertools.count(1000)

    async def send() -> None:
        while True:
            outcome = await stage.send_live(next(numbers))
            assert isinstance(outcome.result, Ruling)

    tasks = [asyncio.create_task(send()) for _ in range(hooks)]
    await until(lambda: backend.under_way >= min(hooks, 8))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def test_while_live_hooks_wait_for_a_connection_nothing_else_begins(begin: Begin, backend: Sink) -> None:
    stage = begin(upstream={"max_connections": 8})
    backend.seconds = 0.01
    async with live_load(stage, backend, 16):
        stage.store.add(*(event(number) for number in range(40)))
        stage.store.begin()
        live = len(backend.recorded) + 200
        await until(lambda: len(backend.recorded) >= live)
        assert not stage.shelf.settled
    await until(lambda: not stage.shelf.rows)


async def test_some_connections_are_left_to_live_hooks(begin: Begin, backend: Sink) -> None:
    """Of eight, two; so beside six live hooks one event is delivered at a time, not two."""
    stage = begin(upstream={"max_connections": 8})
    backend.seconds = 0.01
    async with live_load(stage, backend, 6):
        stage.store.add(*(event(number) for number in range(20)))
        stage.store.begin()
        await until(lambda: not stage.shelf.rows)
        assert backend.most_under_way == 7


async def test_an_app_that_is_not_configured_keeps_its_events(begin: Begin, backend: Sink) -> None:
    stage = begin()
    stage.store.add(event(1, app="gone"), event(2))
    stage.store.begin()
    await until(lambda: len(stage.shelf.rows) == 1 and stage.shelf.outcomes()["released"])
    assert backend.recorded == [2]
    assert [row.event.app for row in stage.shelf.rows.values()] == ["gone"]
    assert next(iter(stage.shelf.rows.values())).due > 0


async def test_the_app_s_present_upstream_gets_what_was_kept_for_another(
    begin: Begin, backend: Sink, tmp_path: Path
) -> None:
    await backend.end()
    stage = begin()
    stage.store.add(*(event(number) for number in range(10)))
    stage.store.begin()
    await until(lambda: len(stage.shelf.settled) >= 2)
    await backend.begin()
    config = configuration(backend, tmp_path, app={"upstream": "new"}, upstreams={"new": {"url": backend_url(backend)}})
    await stage.reload(config)
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == list(range(10))


def backend_url(backend: Sink) -> str:
    return f"http://127.0.0.1:{backend.port}/rest"


async def test_what_was_fetched_before_a_reload_goes_where_it_says(begin: Begin, backend: Sink, tmp_path: Path) -> None:
    stage = begin()
    backend.seconds = 0.01
    stage.store.add(*(event(number) for number in range(300)))
    stage.store.begin()
    await until(lambda: len(backend.recorded) > 20)
    other = Sink()
    await other.begin()
    upstreams = {"php": {"url": backend_url(backend)}, "new": {"url": backend_url(other)}}
    try:
        await stage.reload(configuration(backend, tmp_path, app={"upstream": "new"}, upstreams=upstreams))
        begun = len(backend.got)
        await until(lambda: not stage.shelf.rows)
        assert len(backend.got) <= begun + 8  # those under way may not have come yet
        assert sorted([*backend.recorded, *other.recorded]) == list(range(300))
    finally:
        await stage.redelivery.aclose()
        await other.end()


async def test_an_outage_in_full_course_gives_back_what_was_fetched(begin: Begin, backend: Sink) -> None:
    stage = begin()
    backend.seconds = 0.01
    stage.store.add(*(event(number) for number in range(300)))
    stage.store.begin()
    await until(lambda: len(backend.recorded) > 20)
    await backend.end()
    await until(lambda: sum(row.leased_to is not None for row in stage.shelf.rows.values()) <= 1)
    assert {row.attempts for row in stage.shelf.rows.values()} == {0}
    await backend.begin()
    await until(lambda: not stage.shelf.rows)


async def test_an_event_that_comes_due_is_asked_for_though_nothing_was_reported(
    begin: Begin, backend: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "retry_delay", lambda failures: 5 * TELL_EVERY)
    stage = begin()
    backend.status = lambda body: OK if len(backend.got) > 1 else 500
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert stage.shelf.outcomes() == {"failed": 1, "delivered": 1}


@pytest.mark.parametrize("hours", [2, 48])
async def test_what_a_wrong_clock_put_off_is_asked_for(begin: Begin, backend: Sink, hours: int) -> None:
    stage = begin()
    stage.store.add(event(1))
    (row,) = stage.shelf.rows.values()
    row.due = time.time() + hours * 3600
    stage.store.begin()
    await until(lambda: len(stage.store.asked) > 1)


async def test_the_next_event_of_a_call_does_not_wait_for_a_report(
    begin: Begin, backend: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = begin()
    stage.store.add(*(event(number, key=b"call") for number in range(20)))
    monkeypatch.setattr(kept_events, "TELL_EVERY", 3600.0)
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert backend.recorded == list(range(20))


async def test_a_store_that_is_down_is_not_asked(begin: Begin, backend: Sink) -> None:
    stage = begin()
    stage.store.up = False
    stage.store.add(event(1))
    stage.store.begin()
    await asyncio.sleep(3 * redelivery.TICK)
    assert not stage.store.asked
    stage.store.up = True
    stage.store.tell()
    await until(lambda: backend.recorded == [1])


async def test_what_the_upstream_does_not_take_goes_to_those_of_failover(begin: Begin, backend: Sink) -> None:
    stage = begin(
        upstreams={"php": {"url": "http://127.0.0.1:9"}, "standby": {"url": backend_url(backend)}},
        app={"failover": ["standby"]},
    )
    stage.store.add(*(event(number) for number in range(5)))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == list(range(5))


async def test_a_paused_upstream_gets_nothing(begin: Begin, backend: Sink) -> None:
    stage = begin()
    stage.shelf.paused.add("php")
    stage.store.add(event(1))
    stage.store.begin()
    await asyncio.sleep(3 * redelivery.TICK)
    assert not backend.got
    stage.shelf.paused.clear()
    stage.store.tell()
    await until(lambda: backend.recorded == [1])


async def test_a_pause_holds_for_what_was_fetched_too(begin: Begin, backend: Sink) -> None:
    stage = begin()
    backend.seconds = 0.02
    stage.store.add(*(event(number) for number in range(200)))
    stage.store.begin()
    await until(lambda: len(backend.got) > 20)
    stage.shelf.paused.add("php")
    stage.store.tell()
    begun = len(backend.got)
    await until(lambda: not any(row.leased_to for row in stage.shelf.rows.values()))
    assert len(backend.got) <= begun + 8
    assert len(stage.shelf.rows) > 100
    stage.shelf.paused.clear()
    stage.store.tell()
    await until(lambda: not stage.shelf.rows)


async def test_a_drain_pauses_and_gives_back_what_has_not_begun(begin: Begin, backend: Sink) -> None:
    stage = begin(upstream={"max_connections": 8})
    backend.seconds = 0.05
    stage.store.add(*(event(number) for number in range(30)))
    stage.store.begin()
    await until(lambda: stage.shelf.outcomes()["delivered"] >= 2)
    stage.redelivery.pause(True)
    await until(lambda: not any(row.leased_to for row in stage.shelf.rows.values()))
    count = len(backend.got)
    assert stage.shelf.rows
    await asyncio.sleep(3 * redelivery.TICK)
    assert len(backend.got) == count
    stage.redelivery.pause(False)
    await until(lambda: not stage.shelf.rows)
    assert Counter(backend.recorded) == Counter(range(30))


async def test_outcomes_are_reported_together_but_none_is_held_back_at_the_end(
    begin: Begin, backend: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "SETTLE_EVERY", 3600.0)
    stage = begin(app={"timeout": "10s"})
    backend.status = lambda body: HANG if body["number"] == 3 else OK
    stage.store.add(*(event(number) for number in range(4)))
    stage.store.begin()
    await until(lambda: backend.recorded == [0, 1, 2] and len(backend.got) == 4)
    await asyncio.sleep(redelivery.TICK)
    assert len(stage.shelf.settled) < 3
    stage.store.end()
    assert stage.shelf.outcomes() == {"delivered": 3}


async def test_at_the_end_what_is_under_way_is_settled(begin: Begin, backend: Sink) -> None:
    stage = begin(app={"timeout": "10s"})
    backend.status = lambda body: HANG if body["number"] else OK
    stage.store.add(event(0), event(1))
    stage.store.begin()
    await until(lambda: len(backend.got) == 2)
    await stage.redelivery.aclose()
    assert [settle.outcome for kept, settle in stage.shelf.settled if kept.request_id == "request-1"] == ["released"]


async def test_a_defect_blames_the_event_and_ends_no_redelivery(
    begin: Begin, backend: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = begin()
    build = build_redelivery

    def fail(hook: Any, *rest: Any) -> Outgoing:
        if hook.identity.request_id == b"request-1":
            raise ZeroDivisionError
        return build(hook, *rest)

    monkeypatch.setattr(redelivery, "build_redelivery", fail)
    stage.store.add(event(1), event(2), event(3))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert sorted(backend.recorded) == [2, 3]
    assert stage.shelf.outcomes() == {"failed": 2, "dead": 1, "delivered": 2}


async def test_each_attempt_is_logged_at_level_debug_alone(
    begin: Begin, backend: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=redelivery.__name__)
    stage = begin()
    stage.store.add(event(1))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    (record,) = [record for record in caplog.records if record.name == redelivery.__name__]
    assert record.levelno == logging.DEBUG
    fields = record.__dict__["fields"]
    assert (fields["outcome"], fields["attempt"], fields["request_id"]) == ("delivered", 1, "request-1")


async def test_large_events_are_not_fetched_ahead(begin: Begin, backend: Sink) -> None:
    stage = begin()
    large = b'{"number":%d,"x":"' + b"x" * (redelivery.AHEAD_BYTES // 2) + b'"}'
    stage.store.add(*(event(number, body=large % number) for number in range(6)))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert max(most for _, most in stage.store.asked) <= 2


async def test_there_is_always_an_event_at_hand(begin: Begin, backend: Sink) -> None:
    """From when as many are under way as may be, to the last ones."""
    stage = begin()
    at_hand: list[int] = []

    def count(body: dict[str, Any]) -> int:
        at_hand.append(sum(row.leased_to is not None for row in stage.shelf.rows.values()))
        return OK

    backend.seconds = 0.01
    backend.status = count
    stage.store.add(*(event(number) for number in range(600)))
    stage.store.begin()
    await until(lambda: not stage.shelf.rows)
    assert min(at_hand[100:-100]) >= 2 * 8


@pytest.mark.parametrize("seed", range(3))
async def test_order_holds_whatever_fails_and_whoever_redelivers(begin: Begin, backend: Sink, seed: int) -> None:
    chance = random.Random(seed)
    shelf = Shelf()
    workers = [begin(KeptEvents(shelf), app={"spool": {"attempts": 1000}}) for _ in range(2)]
    backend.status = lambda body: chance.choice([OK, OK, OK, 500, 503, 204, OK])
    backend.seconds = 0.001
    kept = [event(number, key=b"call %d" % (number % 5)) for number in range(60)]
    settle_number = iter(kept)
    at = 0
    while shelf.rows or at < len(kept):
        for each in [next(settle_number) for _ in range(min(6, len(kept) - at))]:
            shelf.add(each)
            at += 1
        worker = workers[chance.randrange(2)]
        worker.store.begin()
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        worker.store.end()
        await until(lambda: not any(row.leased_to for row in shelf.rows.values()))
        if chance.random() < 0.2:
            await backend.end()
            worker.store.begin()
            await asyncio.sleep(0.05)
            worker.store.end()
            await until(lambda: not any(row.leased_to for row in shelf.rows.values()))
            await backend.begin()
    delivered = [kept.index(each) for each, settle in shelf.settled if settle.outcome == "delivered"]
    assert sorted(delivered) == list(range(60))
    for call in range(5):
        assert [number for number in delivered if number % 5 == call] == list(range(call, 60, 5))
