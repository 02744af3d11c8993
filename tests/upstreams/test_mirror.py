"""Copies for a candidate: which hooks are copied, what comes of them, and that nothing about them is unbounded."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gateway.config import Config, loads
from gateway.model.change import Changes
from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.trace_context import Trace
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    Source,
    backend_allow,
    backend_reject,
    duplicate_ruling,
    fallback_ruling,
    rule_ruling,
    spool_ruling,
    static_ruling,
)
from gateway.policy.comparison import Compare, Difference
from gateway.policy.shadow import DEFAULT_METHODS, Shadow, ShadowResult, ShadowSettings, find_shadow
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Outcome, Outgoing, Targets, Upstream, mirror
from gateway.upstreams.mirror import MAX_BYTES, MAX_QUEUED, MAX_TASKS, Shadows, candidate_upstreams
from tests.support.faulty import FaultyBackend, Turn, added_case, gated_case, refused_port, reply, right_answer

TRACE_ID = b"0123456789abcdef0123456789abcdef"


def body_of(session: str = "s1", **fields: Any) -> bytes:
    return json.dumps({"appKey": "a", "nodeId": "n", "sessionId": session, **fields}).encode()


def configuration(url: str, max_connections: int = 64, **shadow: Any) -> Config:
    shadow = {"upstream": "new", **shadow}
    limits = {"connect_timeout": "200ms", "max_connections": max_connections}
    return loads(
        json.dumps(
            {
                "upstreams": {
                    "php": {"url": "http://127.0.0.1:1/"},
                    "new": {"url": url, "health": {"path": "/health"}, **limits},
                },
                "apps": {"a": {"upstream": "php", "timeout": "600ms", "shadow": shadow}},
            }
        )
    ).config


class Stage:
    """Shadows over real upstreams, and hooks that have been decided."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics("test")
        self.results: list[tuple[str, ShadowResult]] = []
        self.shadows = Shadows(self.metrics, lambda request_id, result, _: self.results.append((request_id, result)))
        self.targets = Targets(self.metrics)
        self.number = 0
        self.prepared(config).commit()

    def prepared(self, config: Config) -> Changes:
        self.config = config
        further = candidate_upstreams(config)
        configs = {**config.upstreams, **further}
        targets = self.targets.prepare(configs, (), self.targets.contexts(configs))
        self.upstreams = targets.upstreams
        return Changes((targets, self.shadows.prepare(config, further, targets.upstreams)))

    async def take(self, config: Config) -> None:
        changes = self.prepared(config)
        changes.commit()
        await changes.settle()

    async def aclose(self) -> None:
        await self.shadows.aclose()
        await self.targets.aclose()

    @property
    def shadow(self) -> Shadow:
        app = self.config.apps["a"]
        assert isinstance(app.shadow, ShadowSettings)
        shadow = find_shadow(app.shadow)
        assert shadow is not None
        return shadow

    def offer(
        self,
        body: bytes = body_of(),
        ours: Ruling | None = None,
        method: str = "OnCallEvent",
        *,
        upstream: str = "php",
        ruling: Ruling | None = None,
        trace: Trace | None = None,
        prepare: Callable[[Upstream], Outgoing] | None = None,
    ) -> None:
        """A hook has been answered: *ours* is what the backend said, *ruling* what went out where that differs."""
        self.number += 1
        said = ours or backend_allow(right_answer(body))
        head = b"x-request-id: r%d\r\n" % self.number
        if trace is not None:
            head += b"traceparent: %b\r\n" % trace.traceparent()
        outgoing = Outgoing(f"/{method}", None, head, body, "a", trace)
        decision = Decision(
            ruling or said, 0.0, f"r{self.number}", "a", method, 0.6, 0.01, upstream, "t", 1, 0.01, parse_hook(body),
            size=len(body), body=body, method_name=method,
        )  # fmt: skip
        outcome = Outcome(said, "t", 1, 0.01, seen=True)
        self.shadows.offer(self.shadow, decision, outcome, prepare or (lambda _: outgoing))

    def counted(self) -> dict[str, int]:
        """Outcomes so far."""
        totals = self.metrics.totals(self.metrics.shadow_hooks)
        assert {labels[:2] for labels in totals} <= {("a", "new")}
        return {labels[2]: int(count) for labels, count in totals.items()}

    async def settled(self) -> dict[str, int]:
        """Wait until nothing is queued or under way; the outcomes."""
        async with asyncio.timeout(10):
            while self.shadows.queued or self.shadows.active_tasks:
                await asyncio.sleep(0.005)
        assert self.shadows.bytes == 0
        return self.counted()


@pytest.fixture
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture
async def stages() -> AsyncIterator[Callable[[Config], Stage]]:
    opened: list[Stage] = []

    def open_stage(config: Config) -> Stage:
        opened.append(Stage(config))
        return opened[-1]

    yield open_stage
    for stage in opened:
        await stage.aclose()


Stages = Callable[[Config], Stage]


# --- what comes of a copy ---


async def test_an_answer_that_is_the_same_matches(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok"), compare="body"))
    stage.offer()
    assert await stage.settled() == {"match": 1}
    ((request_id, result),) = stage.results
    assert request_id == "r1"
    assert (result.upstream, result.outcome, result.status, result.error) == ("new", "match", 200, "")
    assert result.differences == ()


async def test_another_verdict_is_told_with_both(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("denied")))
    stage.offer()
    assert await stage.settled() == {"verdict_differs": 1}
    assert stage.results[0][1].differences == (Difference("verdict", "allow", "reject"),)
    assert stage.results[0][1].status == 403


async def test_a_refusal_by_both_matches(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("denied"), compare="body"))
    stage.offer(ours=backend_reject())
    assert await stage.settled() == {"match": 1}


async def test_another_body_is_told_field_by_field_without_what_is_ignored(
    backend: FaultyBackend, stages: Stages
) -> None:
    def script(turn: Turn) -> list[bytes]:
        return [reply(b'{"restPolicy":"OVERWRITE","ts":2,"caller":"+4930123"}')]

    with added_case("other_body", "Other fields than ours.", script):
        stage = stages(configuration(backend.url_of("other_body"), compare="body", ignore=["ts"]))
        stage.offer(ours=backend_allow(b'{"restPolicy":"NOTIFY","ts":1,"caller":"+4930124"}'))
        assert await stage.settled() == {"body_differs": 1}
    assert stage.results[0][1].differences == (
        Difference("caller", '"******24"', '"******23"'),
        Difference("restPolicy", '"NOTIFY"', '"OVERWRITE"'),
    )


async def test_bodies_are_looked_at_only_where_that_is_asked_for(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    stage.offer(ours=backend_allow(b'{"other":1}'))
    assert await stage.settled() == {"match": 1}


@pytest.mark.parametrize(
    ("case", "status", "error"),
    [
        ("status_500", 500, "status 500"),
        ("body_notice_before", 200, "PHP message"),
        ("reset_before_answer", None, "reset"),
    ],
)
async def test_a_candidate_without_a_verdict_has_failed(
    backend: FaultyBackend, stages: Stages, case: str, status: int | None, error: str
) -> None:
    stage = stages(configuration(backend.url_of(case)))
    stage.offer()
    assert await stage.settled() == {"candidate_failed": 1}
    result = stage.results[0][1]
    assert result.status == status
    assert error in result.error
    assert result.differences == ()


async def test_a_candidate_that_is_not_there_has_failed(stages: Stages) -> None:
    with refused_port() as port:
        stage = stages(configuration(f"http://127.0.0.1:{port}"))
        stage.offer()
        assert await stage.settled() == {"candidate_failed": 1}
    assert "refused" in stage.results[0][1].error


async def test_a_candidate_that_hangs_has_failed_when_the_hook_s_own_budget_is_over(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("hang")))
    stage.offer()
    assert await stage.settled() == {"candidate_failed": 1}
    assert stage.results[0][1].duration_ms >= 500


async def test_a_candidate_is_never_asked_twice_for_one_hook(backend: FaultyBackend, stages: Stages) -> None:
    for case in ("hang", "reset_before_answer", "status_500"):
        stage = stages(configuration(backend.url_of(case)))
        stage.offer()
        await stage.settled()
        assert len(backend.requests_of(case)) == 1


async def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("ok_close_unsaid")))
    for _ in range(5):
        stage.offer()
        await stage.settled()
    assert stage.counted() == {"match": 5}


async def test_what_went_out_may_have_been_amended_and_the_backend_s_own_answer_is_compared(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("ok"), compare="body", methods=["connect"]))
    said = backend_allow(right_answer(body_of()))
    stage.offer(ours=said, ruling=said.with_body(b'{"restClientConfig":{}}'), method="connect")
    assert await stage.settled() == {"match": 1}


async def test_large_bodies_are_compared_too(backend: FaultyBackend, stages: Stages) -> None:
    large = b'{"x":"%b","n":%%d}' % (b"x" * 2 * mirror.LARGE)
    with added_case("large_body", "A large body.", lambda turn: [reply(large % 1)]):
        stage = stages(configuration(backend.url_of("large_body"), compare="body"))
        for _ in range(3):
            stage.offer(ours=backend_allow(large % 2))
        assert await stage.settled() == {"body_differs": 3}
    assert stage.results[0][1].differences == (Difference("n", "2", "1"),)


# --- what is copied ---


async def test_a_copy_is_the_hook_byte_for_byte_and_marked(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    body = b'{ "appKey":"a","sessionId" :"\xc3\xbc" }'
    stage.offer(body)
    await stage.settled()
    (request,) = backend.requests
    assert request.body == body
    assert request.values("x-gateway-shadow") == [b"1"]
    assert request.values("x-request-id") == [b"r1"]
    assert request.path.endswith("/OnCallEvent")


async def test_in_a_trace_a_copy_is_none_of_the_hook_s_attempts(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    trace = Trace(TRACE_ID, b"", 1 << 63)
    stage.offer(trace=trace)
    await stage.settled()
    (traceparent,) = backend.requests[0].values("traceparent")
    assert traceparent.startswith(b"00-" + TRACE_ID)
    assert traceparent not in [trace.traceparent(number) for number in range(100)]


FAILURE = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "too late")


@pytest.mark.parametrize(
    "ruling",
    [
        fallback_ruling(FAILURE, Fallback(), b"{}"),
        duplicate_ruling(backend_reject()),
        static_ruling(backend_reject().verdict, b"{}"),
        rule_ruling(backend_reject().verdict, b"{}", "spam"),
        spool_ruling(FAILURE, b"{}"),
    ],
    ids=["fallback", "duplicate", "static", "rule", "spool"],
)
async def test_what_no_backend_decided_just_now_is_not_copied(
    backend: FaultyBackend, stages: Stages, ruling: Ruling
) -> None:
    assert ruling.source is not Source.BACKEND
    stage = stages(configuration(backend.url_of("ok")))
    stage.offer(ruling=ruling)
    assert (stage.shadows.queued, await stage.settled()) == (0, {})


async def test_a_hook_that_the_candidate_itself_decided_is_not_copied_to_it(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    stage.offer(upstream="new")
    assert await stage.settled() == {}


async def test_only_the_incoming_methods_are_copied_unless_others_are_named(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    for method in (*DEFAULT_METHODS, "connect", "call", "CallStatusEvent", "ConnectionStatusEvent"):
        stage.offer(method=method)
    await stage.settled()
    assert sorted(request.path.rsplit("/", 1)[1] for request in backend.requests) == sorted(DEFAULT_METHODS)


@pytest.mark.parametrize(
    ("methods", "covered", "others"),
    [
        (("connect",), {"connect"}, {"OnCallEvent", "connects"}),
        (("*StatusEvent",), {"CallStatusEvent", "StatusEvent"}, {"ErrorEvent", "OnCallEvent"}),
        (("*",), {"anything", "connect"}, set()),
        (("oncallevent", "CALL*"), {"OnCallEvent", "call", "CallStatusEvent"}, {"OnMessageEvent"}),
    ],
)
def test_methods_are_named_or_matched_by_globs(methods: tuple[str, ...], covered: set[str], others: set[str]) -> None:
    shadow = Shadow(ShadowSettings("new", methods=methods))
    assert {method for method in covered | others if shadow.covers(method)} == covered
    for method in covered | others:
        assert (find_shadow(shadow.settings, method) is not None) == (method in covered)


async def test_nothing_is_made_for_a_hook_outside_the_sample(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok"), sample="0.1%"))

    def prepare(_: Upstream) -> Outgoing:
        pytest.fail("it was made")

    for number in range(200):
        session = next(
            each
            for each in (f"s{number}-{attempt}" for attempt in range(100))
            if not stage.shadow.takes(parse_hook(body_of(each)), "")
        )
        stage.offer(body_of(session), prepare=prepare)
    assert await stage.settled() == {}


# --- bounds ---


async def test_with_a_hung_candidate_the_queue_stays_within_its_bounds(backend: FaultyBackend, stages: Stages) -> None:
    with gated_case() as opened:
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(5000):
            stage.offer()
            assert stage.shadows.queued <= MAX_QUEUED
            assert stage.shadows.active_tasks <= MAX_TASKS
            assert stage.shadows.bytes <= MAX_BYTES
        await asyncio.sleep(0.05)
        for _ in range(5000):
            stage.offer()
            assert stage.shadows.queued <= MAX_QUEUED
        assert stage.shadows.active_tasks == MAX_TASKS
        assert stage.counted()["dropped"] >= 10_000 - 2 * (MAX_QUEUED + MAX_TASKS)
        assert len(backend.requests_of("gated")) <= MAX_TASKS
        assert backend.open_connections() <= MAX_TASKS
        opened.set()
        counted = await stage.settled()
    assert sum(counted.values()) == 10_000


async def test_large_hooks_fill_the_queue_by_their_bytes(backend: FaultyBackend, stages: Stages) -> None:
    with gated_case():
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(200):
            stage.offer(body_of(pad="x" * 100_000))
            assert stage.shadows.bytes <= MAX_BYTES
        assert stage.shadows.queued <= MAX_BYTES // 100_000
        assert stage.counted()["dropped"] > 150
        await stage.shadows.aclose()
        assert stage.shadows.bytes == 0


async def test_the_copies_of_all_candidates_together_have_their_bound_too(
    backend: FaultyBackend, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_BYTES_OF_ALL", 500_000)
    with gated_case():
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(20):
            stage.offer(body_of(pad="x" * 100_000))
        assert 100_000 < stage.shadows.bytes <= 500_000
        assert stage.counted()["dropped"] > 10
        await stage.shadows.aclose()


async def test_hooks_get_their_turn_between_copies_that_fail_at_once(
    backend: FaultyBackend, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, turns, told = asyncio.get_running_loop(), 0, set[int]()

    def turn() -> None:
        nonlocal turns
        turns += 1
        if turns < 1000:
            loop.call_soon(turn)

    monkeypatch.setattr(mirror, "MAX_TASKS", 1)
    stage = stages(configuration(backend.url_of("ok")))
    assert stage.targets.eject("shadow:new", backend.url_of("ok"))
    stage.shadows.on_result = lambda *_: told.add(turns)
    for _ in range(50):
        stage.offer()
    turn()
    counted = await stage.settled()
    assert counted["candidate_failed"] >= 49  # but for a probe that may get through
    assert len(told) >= 49


async def test_a_copy_that_has_waited_for_longer_than_its_budget_is_dropped(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("hang")))
    for _ in range(MAX_TASKS + 10):
        stage.offer()
    counted = await stage.settled()
    assert counted["candidate_failed"] >= MAX_TASKS
    assert counted["dropped"] + counted["candidate_failed"] == MAX_TASKS + 10
    assert len(backend.requests_of("hang")) <= MAX_TASKS + 10


async def test_a_copy_for_which_no_connection_is_free_is_dropped_and_no_failure_of_the_candidate(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("ok_slow"), max_connections=1))
    stage.offer()  # from now on it is known for so slow that nobody queues for it
    assert await stage.settled() == {"match": 1}
    stage.offer()
    stage.offer()
    assert await stage.settled() == {"match": 2, "dropped": 1}
    assert len(backend.requests_of("ok_slow")) == len(stage.results) == 2


async def test_a_copy_that_comes_just_as_the_last_task_ends_does_not_wait_for_the_next_one(
    backend: FaultyBackend, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_TASKS", 1)
    stage = stages(configuration(backend.url_of("ok")))
    loop = asyncio.get_running_loop()

    def offer_at_its_end(*_: object) -> None:
        stage.shadows.on_result = None
        # After the task's last step, before the loop tells of its end.
        loop.call_soon(lambda: loop.call_soon(stage.offer))

    stage.shadows.on_result = offer_at_its_end
    stage.offer()
    assert await stage.settled() == {"match": 2}


async def test_a_candidate_s_failures_eject_it_and_not_the_upstream_of_the_same_address(
    backend: FaultyBackend, stages: Stages
) -> None:
    stage = stages(configuration(backend.url_of("hang")))
    for _ in range(20):
        stage.offer()
    await stage.settled()
    reports = {report.upstream: report for report in await stage.targets.reports()}
    assert reports["shadow:new"].in_flight == 0
    assert reports["new"].last_error is None
    assert reports["shadow:new"].last_error is not None


async def test_a_defect_is_counted_and_raises_nothing(
    backend: FaultyBackend, stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stages(configuration(backend.url_of("ok")))

    def prepare(_: Upstream) -> Outgoing:
        raise ValueError("a header field would break into two lines")

    def refuse(*_: object) -> None:
        raise ValueError("no")

    stage.offer(prepare=prepare)
    stage.shadows.on_result = refuse
    stage.offer()
    assert await stage.settled() == {"dropped": 2}
    assert Counter(record.levelname for record in caplog.records) == {"ERROR": 2}


# --- reload and end ---


def test_candidates_are_upstreams_of_their_own_without_health_checks() -> None:
    config = configuration("http://127.0.0.1:2/", compare="body")
    assert config.upstreams["new"].health is not None
    further = candidate_upstreams(config)
    assert set(further) == {"shadow:new"}
    assert further["shadow:new"] == config.upstreams["new"].model_copy(update={"health": None})


def test_the_shadow_of_a_method_needs_its_candidate_too() -> None:
    text = """
    upstreams:
      php: {url: http://127.0.0.1:1/}
      new: {url: http://127.0.0.1:2/}
      newer: {url: http://127.0.0.1:3/}
    apps:
      a: {upstream: php, methods: {connect: {shadow: {upstream: newer}}, call: {shadow: off}}}
      b: {upstream: php, shadow: {upstream: new}}
      c: {upstream: php, shadow: off}
    """
    assert set(candidate_upstreams(loads(text).config)) == {"shadow:new", "shadow:newer"}


async def test_a_reload_that_changes_nothing_of_a_candidate_keeps_its_queue(
    backend: FaultyBackend, stages: Stages
) -> None:
    with gated_case() as opened:
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(MAX_TASKS + 20):
            stage.offer()
        await stage.take(configuration(backend.url_of("gated"), sample="50%"))
        assert stage.shadows.queued + stage.shadows.active_tasks > 20
        opened.set()
        assert await stage.settled() == {"match": MAX_TASKS + 20}


async def test_a_candidate_that_a_reload_takes_away_or_changes_ends_at_once(
    backend: FaultyBackend, stages: Stages
) -> None:
    with gated_case():
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(MAX_TASKS + 20):
            stage.offer()
        await asyncio.to_thread(backend.wait_for_requests, MAX_TASKS, "gated")
        await stage.take(configuration(backend.url_of("ok")))
        assert stage.shadows.queued == 0
        assert await stage.settled() == {"dropped": MAX_TASKS + 20}
        stage.offer()
        assert await stage.settled() == {"dropped": MAX_TASKS + 20, "match": 1}
        shadow = stage.shadow
        await stage.take(loads("apps: {a: {static: reject}}").config)
        assert repr(stage.shadows) == "<Shadows 0 bytes; >"
        assert shadow.candidate not in stage.upstreams


async def test_a_drain_drops_what_waits_and_the_end_ends_all(backend: FaultyBackend, stages: Stages) -> None:
    with gated_case():
        stage = stages(configuration(backend.url_of("gated")))
        for _ in range(MAX_TASKS + 20):
            stage.offer()
        await asyncio.to_thread(backend.wait_for_requests, MAX_TASKS, "gated")
        stage.shadows.drain()
        assert stage.shadows.queued == 0
        stage.offer()
        assert stage.counted() == {"dropped": 21}
        await stage.shadows.aclose()
        assert await stage.settled() == {"dropped": MAX_TASKS + 21}
        assert stage.results == []


async def test_a_hook_whose_app_is_gone_brings_no_series_back(backend: FaultyBackend, stages: Stages) -> None:
    stage = stages(configuration(backend.url_of("ok")))
    stage.offer()
    config = configuration(backend.url_of("ok"))
    other = config.model_copy(update={"apps": {"b": config.apps["a"]}})
    stage.shadows.prepare(other, candidate_upstreams(config), stage.upstreams).commit()
    async with asyncio.timeout(5):
        while stage.shadows.active_tasks:
            await asyncio.sleep(0.005)
    assert list(stage.metrics.totals(stage.metrics.shadow_hooks)) == [("_unknown", "new", "match")]


def test_settings_say_how_to_compare() -> None:
    shadow = configuration("http://127.0.0.1:2/", compare="body", ignore=["ts"], sample="10%").apps["a"].shadow
    assert shadow == ShadowSettings("new", 0.1, DEFAULT_METHODS, Compare.BODY, frozenset({"ts"}))
