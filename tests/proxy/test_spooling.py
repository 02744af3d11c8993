"""What becomes of an event that its upstream does not take: kept and answered, or the fallback's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.config import loads
from gateway.model.decision import Decision
from gateway.model.verdicts import Reason, Source
from gateway.policy.spooling import RESERVE
from gateway.proxy.endpoint import HookEndpoint
from gateway.proxy.runtime import Runtime
from gateway.store.records import SpooledEvent
from gateway.telemetry.metrics import Metrics
from tests.support.faulty import FaultyBackend
from tests.support.kept_events import KeptEvents

BODY = b'{"appKey": "%b",  "callId":"c1"}'
EVENT = "CallStatusEvent"
TIMEOUT = 0.3


class Kept(NamedTuple):
    """An answer as it went out."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class SlowKeeper(KeptEvents):
    """Commits only after the deadline: what is unconfirmed by then is committed later all the same."""

    async def keep(self, kept: SpooledEvent, deadline: float) -> str | None:
        now = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(deadline - now + 0.05, self.shelf.add, kept)
        await asyncio.sleep(deadline - now)
        return "the commit was not confirmed in time"


class Stage:
    """A hook endpoint with a store in memory."""

    def __init__(self, config: dict[str, Any], keeper: KeptEvents | None) -> None:
        self.runtime = Runtime(loads(json.dumps(config)).config, Metrics("test"))
        self.decisions: list[Decision] = []
        self.endpoint = HookEndpoint(self.runtime, (self.decisions.append,), keeper=keeper)

    async def send(self, app: str, method: str = EVENT, *headers: tuple[bytes, bytes], body: bytes = BODY) -> Kept:
        content = body % app.encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "raw_path": b"/rest/" + method.encode(), "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers], "client": ("192.0.2.1", 5), "scheme": "http",
        }  # fmt: skip
        await self.endpoint(scope, receive, send)
        start, end = sent
        return Kept(start["status"], dict(start["headers"]), end["body"])


Begin = Callable[..., Stage]


@pytest.fixture(scope="module")
def backend() -> Any:
    with FaultyBackend() as running:
        yield running


@pytest.fixture
async def begin(backend: FaultyBackend, tmp_path: Path) -> AsyncIterator[Begin]:
    stages: list[Stage] = []
    cases = ("ok", "denied", "hang", "status_500", "close_without_a_byte", "status_204")
    apps = {name: {"upstream": name} for name in cases}
    config = {
        "store": {"url": f"sqlite:{tmp_path}/store.db"},
        "defaults": {"timeout": f"{int(TIMEOUT * 1000)}ms", "spool": "on"},
        "upstreams": {name: {"url": backend.url_of(name)} for name in cases},
        "apps": {
            **apps,
            "strict": {"upstream": "status_204", "event_answers": "strict"},
            "lenient": {"upstream": "status_500", "fallback": {"error_status": "allow"}},
            "limited": {"upstream": "ok", "rate_limit": "1/h"},
            "unspooled": {"upstream": "status_500", "spool": "off"},
            "failing over": {"upstream": "hang", "failover": ["ok"], "failover_on": ["timeout"]},
            "repeated": {"upstream": "status_500", "dedupe": "5s"},
        },
    }

    def build(keeper: KeptEvents | None) -> Stage:
        stages.append(Stage(config, keeper))
        return stages[-1]

    yield build
    for stage in stages:
        await stage.runtime.aclose()


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("hang", Reason.TIMEOUT),
        ("close_without_a_byte", Reason.UNREACHABLE),
        ("status_500", Reason.ERROR_STATUS),
        ("strict", Reason.ERROR_STATUS),
        ("lenient", Reason.ERROR_STATUS),
    ],
)
async def test_an_event_that_is_not_taken_is_kept_and_answered(begin: Begin, app: str, reason: Reason) -> None:
    store = KeptEvents()
    stage = begin(store)
    answer = await stage.send(app)
    assert (answer.status, answer.body) == (200, BODY % app.encode())
    assert answer.headers[b"content-type"] == b"application/json"
    assert answer.headers[b"proxy-status"].startswith(b"gateway; error=")
    (decision,) = stage.decisions
    assert (decision.ruling.source, decision.ruling.reason) == (Source.SPOOL, reason)
    assert decision.ruling.error.startswith("kept for later delivery: ")
    (row,) = store.shelf.rows.values()
    assert (row.event.app, row.event.cause, row.event.request_id) == (app, reason.value, decision.request_id)


@pytest.mark.parametrize("app", ["ok", "denied", "status_204"])
async def test_a_verdict_is_passed_on_and_nothing_is_kept(begin: Begin, app: str) -> None:
    store = KeptEvents()
    stage = begin(store)
    answer = await stage.send(app)
    assert answer.status == (403 if app == "denied" else 200)
    assert stage.decisions[0].ruling.source is Source.BACKEND
    assert not store.shelf.rows


@pytest.mark.parametrize("method", ["OnCallEvent", "StreamKeepAliveEvent", "connect", "hangup"])
async def test_what_is_no_event_is_never_kept(begin: Begin, method: str) -> None:
    store = KeptEvents()
    stage = begin(store)
    assert (await stage.send("status_500", method)).status == 403
    assert not store.shelf.rows


async def test_an_app_that_does_not_spool_gets_its_fallback(begin: Begin) -> None:
    store = KeptEvents()
    stage = begin(store)
    assert (await stage.send("unspooled")).status == 403
    assert not store.shelf.rows


async def test_what_exceeds_a_limit_is_kept_too(begin: Begin) -> None:
    store = KeptEvents()
    stage = begin(store)
    for number in range(3):
        answer = await stage.send("limited", body=b'{"appKey":"%b","callId":"c' + b"%d" % number + b'"}')
        assert answer.status == 200
    reasons = [decision.ruling.reason for decision in stage.decisions]
    assert reasons == [Reason.OK, Reason.OVERLOAD, Reason.OVERLOAD]
    assert len(store.shelf.rows) == 2


async def test_behind_a_backlog_an_event_is_kept_without_an_attempt(begin: Begin, backend: FaultyBackend) -> None:
    store = KeptEvents()
    stage = begin(store)
    await stage.send("status_500")
    before = len(backend.requests)
    answer = await stage.send("status_500", body=b'{"appKey":"%b","callId":"c1","second":1}')
    assert (answer.status, len(backend.requests)) == (200, before)
    second = stage.decisions[1]
    assert (second.ruling.source, second.ruling.reason, second.attempts) == (Source.SPOOL, Reason.BACKLOG, 0)
    assert [row.event.cause for row in store.shelf.rows.values()] == ["error_status", "backlog"]
    await stage.send("status_500", body=b'{"appKey":"%b","callId":"another"}')
    assert len(backend.requests) == before + 1


@pytest.mark.parametrize(("app", "status"), [("status_500", 403), ("lenient", 200)])
async def test_where_it_cannot_be_kept_the_fallback_decides(begin: Begin, app: str, status: int) -> None:
    store = KeptEvents()
    store.refusal = "the disk is full"
    stage = begin(store)
    assert (await stage.send(app)).status == status
    (decision,) = stage.decisions
    assert (decision.ruling.source, decision.ruling.reason) == (Source.FALLBACK, Reason.ERROR_STATUS)
    assert decision.ruling.error == "status 500; it could not be kept: the disk is full"


async def test_without_a_store_the_fallback_decides(begin: Begin) -> None:
    stage = begin(None)
    assert (await stage.send("status_500")).status == 403
    assert stage.decisions[0].ruling.source is Source.FALLBACK


async def test_unconfirmed_within_the_budget_the_fallback_decides_and_a_late_commit_stays(begin: Begin) -> None:
    store = SlowKeeper()
    stage = begin(store)
    assert (await stage.send("hang")).status == 403
    (decision,) = stage.decisions
    assert decision.ruling.source is Source.FALLBACK
    assert "not confirmed in time" in decision.ruling.error
    async with asyncio.timeout(10.0):
        while not store.shelf.rows:
            await asyncio.sleep(0.01)


async def test_the_upstream_has_less_than_the_budget_so_that_there_is_time_to_keep(begin: Begin) -> None:
    stage = begin(KeptEvents())
    await stage.send("hang")
    (decision,) = stage.decisions
    assert decision.budget == TIMEOUT
    table = stage.runtime.snapshot.table
    assert table.route_for("hang", EVENT).upstream_budget == pytest.approx(TIMEOUT - RESERVE)
    assert table.route_for("hang", "OnCallEvent").upstream_budget == TIMEOUT
    assert table.route_for("failing over", EVENT).first_budget == pytest.approx(0.6 * (TIMEOUT - RESERVE))


async def test_those_of_failover_are_asked_first(begin: Begin) -> None:
    store = KeptEvents()
    stage = begin(store)
    assert (await stage.send("failing over")).status == 200
    assert stage.decisions[0].ruling.source is Source.BACKEND
    assert not store.shelf.rows


async def test_every_attempt_of_an_event_says_which_event_it_is(begin: Begin, backend: FaultyBackend) -> None:
    stage = begin(KeptEvents())
    known = len(backend.requests)
    client = ((b"idempotency-key", b"forged"), (b"x-gateway-redelivery", b"7"), (b"x-gateway-event-time", b"never"))
    await stage.send("ok", EVENT, (b"x-request-id", b"one"), *client)
    await stage.send("ok", "OnCallEvent", (b"x-request-id", b"two"), *client)
    await stage.send("unspooled", EVENT, (b"x-request-id", b"three"), *client)
    sent = backend.requests[known:]
    assert [request.values("idempotency-key") for request in sent] == [[b"one"], [], []]
    for name in ("x-gateway-redelivery", "x-gateway-event-time"):
        assert all(request.values(name) == [] for request in sent)


async def test_an_event_that_the_end_of_the_drain_cuts_off_is_kept(begin: Begin) -> None:
    store = KeptEvents()
    stage = begin(store)
    sending = asyncio.create_task(stage.send("hang"))
    await asyncio.sleep(0.1)
    sending.cancel()
    assert (await sending).status == 200
    (decision,) = stage.decisions
    assert (decision.ruling.source, decision.ruling.reason) == (Source.SPOOL, Reason.TIMEOUT)
    assert len(store.shelf.rows) == 1


async def test_repeats_within_dedupe_get_the_answer_of_the_first_and_are_kept_once(begin: Begin) -> None:
    store = KeptEvents()
    stage = begin(store)
    answers = [await stage.send("repeated") for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert [decision.ruling.source for decision in stage.decisions] == [
        Source.SPOOL,
        Source.DUPLICATE,
        Source.DUPLICATE,
    ]
    assert len(store.shelf.rows) == 1
