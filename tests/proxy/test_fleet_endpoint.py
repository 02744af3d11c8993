"""Two real gateways and a real server: what reaches both is decided once, and both know a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import Answered, Mode, PacedBackend, Volley, hook_body, volley
from tests.support.redis import RedisServer, redis_server
from tests.support.replicas import Pair, decision, pair

APP: dict[str, Any] = {"upstream": "u", "timeout": "10s"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


@pytest.fixture(scope="module")
def running(backend: PacedBackend, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(backend, redis, tmp_path_factory.mktemp("pair")) as gateways:
        yield gateways


@pytest.fixture
def gateways(running: Pair) -> Pair:
    running.backend.release(Mode.OK)
    running.backend.hooks.clear()
    running.serve({"a": APP})
    return running


def ask(gateway: RunningGateway, body: bytes, method: str = "OnCallEvent") -> Answered:
    return volley(gateway, [body], method)[0]


def source(gateway: RunningGateway, answer: Answered) -> tuple[str, str]:
    """Who decided, and why, as logged."""
    line = gateway.access_line(answer.headers["x-request-id"])
    return line["source"], line["reason"]


@pytest.mark.parametrize("method", ["connect", "OnCallEvent"])
@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [(Mode.OK, 200, "ok"), (Mode.DENY, 403, "denied"), (Mode.ERROR, 403, "error_status")],
)
def test_a_hook_that_reaches_both_is_decided_once(
    gateways: Pair, method: str, mode: Mode, status: int, reason: str
) -> None:
    a, b, backend = gateways.a, gateways.b, gateways.backend
    before = b.metric("gateway_hooks_total", source="duplicate", reason=reason, method=method)
    backend.mode = Mode.HOLD
    body = hook_body("a")
    first = Volley(a, [body], method)
    assert wait_until(lambda: backend.held == 1)
    second = Volley(b, [body, body], method)
    assert wait_until(lambda: b.metric("gateway_hooks_in_flight", app="a") == 2)
    backend.release(mode)
    answers = first.answers() + second.answers() + [ask(b, body, method), ask(a, body, method)]
    assert backend.count == 1
    assert len({(answer.status, answer.body, answer.proxy_error) for answer in answers}) == 1
    assert answers[0].status == status
    assert source(a, answers[0])[1] == source(b, answers[1])[1] == reason
    assert source(b, answers[1])[0] == source(b, answers[2])[0] == source(b, answers[3])[0] == "duplicate"
    assert b.metric("gateway_hooks_total", source="duplicate", reason=reason, method=method) == before + 3


def test_an_answer_that_was_given_is_there_for_the_other_gateway_for_as_long_as_dedupe_says(gateways: Pair) -> None:
    gateways.serve({"a": {**APP, "dedupe": "300ms"}})
    body = hook_body("a")
    first, second = ask(gateways.a, body), ask(gateways.b, body)
    assert first.body == second.body
    assert wait_until(lambda: ask(gateways.b, body).body != first.body)


def test_another_body_method_or_app_is_another_hook(gateways: Pair) -> None:
    gateways.serve({"a": APP, "b": APP})
    same = b'{"appKey": "a", "callId": "1"}'
    hooks = [
        (same, "OnCallEvent"),
        (same, "connect"),
        (b'{"appKey": "b", "callId": "1"}', "OnCallEvent"),
        (b'{"appKey": "a", "callId": "1" }', "OnCallEvent"),
    ]
    answers = [ask(gateway, *hook) for hook in hooks for gateway in (gateways.a, gateways.b)]
    assert gateways.backend.count == len(hooks)
    assert len({answer.body for answer in answers}) == len(hooks)


def test_only_connects_and_incoming_hooks_with_dedupe_are_claimed(gateways: Pair) -> None:
    gateways.serve({"a": {**APP, "dedupe": "1m"}, "off": {**APP, "dedupe": "off"}})
    expected = {("a", "call"): 2, ("a", "OnMessageEvent"): 1, ("a", "CallStatusEvent"): 2, ("off", "OnCallEvent"): 2}
    seen = {}
    for app, method in expected:
        body, before = hook_body(app), gateways.backend.count
        for gateway in (gateways.a, gateways.b):
            ask(gateway, body, method)
        seen[app, method] = gateways.backend.count - before
    assert seen == expected


def test_a_hook_waits_for_the_other_gateway_within_its_own_budget(gateways: Pair) -> None:
    gateways.backend.mode = Mode.HOLD
    body = hook_body("a")
    first = Volley(gateways.a, [body])
    assert wait_until(lambda: gateways.backend.held == 1)
    gateways.serve({"a": {**APP, "timeout": "300ms"}})
    late = ask(gateways.b, body)
    assert (late.status, late.proxy_error) == (403, "http_response_timeout")
    line = gateways.b.access_line(late.headers["x-request-id"])
    assert line["error"] == "the same hook, in flight at another replica, came to no verdict"
    gateways.backend.release(Mode.OK)
    assert first.answers()[0].status == 200
    assert gateways.backend.count == 1


def test_many_pairs_at_once_reach_the_backend_once_each(gateways: Pair) -> None:
    late = sum(gateway.metric("gateway_state_late_total") for gateway in (gateways.a, gateways.b))
    bodies = [hook_body("a") for _ in range(200)]
    answers = gateways.pairs(bodies, lines=8)
    late = sum(gateway.metric("gateway_state_late_total") for gateway in (gateways.a, gateways.b)) - late
    twice = gateways.backend.count - len(bodies)
    assert twice == 0 or late > 0  # on a busy machine, an answer of the state's server may come too late
    assert sum(one.body != other.body for one, other in answers) == twice
    assert all(answer.status == 200 for both in answers for answer in both)


# --- sessions ---


def reject(gateways: Pair, gateway: RunningGateway, session: str, method: str = "call") -> dict[str, Any]:
    """A rejection by the backend in this session, as the journal and the access log have it."""
    gateways.backend.mode = Mode.DENY
    answer = ask(gateway, hook_body("a", nodeId="n", sessionId=session), method)
    assert answer.status == 403
    shown = decision(gateway, answer)
    assert gateway.access_line(answer.headers["x-request-id"]).get("ineffective", False) is shown["ineffective"]
    return shown


def connect(gateways: Pair, gateway: RunningGateway, session: str) -> None:
    gateways.backend.mode = Mode.OK
    assert ask(gateway, hook_body("a", nodeId="n", sessionId=session), "connect").status == 200


def test_a_rejection_in_a_session_of_the_other_gateway_is_annotated(gateways: Pair) -> None:
    before = gateways.b.metric("gateway_ineffective_rejects_total", app="a")
    connect(gateways, gateways.a, "s1")
    assert reject(gateways, gateways.b, "s1")["ineffective"] is True
    assert reject(gateways, gateways.b, "s1")["ineffective"] is True
    assert gateways.b.metric("gateway_ineffective_rejects_total", app="a") == before + 2
    assert reject(gateways, gateways.b, "a session that nobody knows")["ineffective"] is False


def test_a_rejection_that_stops_the_call_in_a_session_of_the_other_gateway_is_none_to_report(gateways: Pair) -> None:
    enforced = {"mode": "enforce", "methods": {"call": {"restOnError": "FAIL"}}}
    gateways.serve({"a": {**APP, "rest_client_config": enforced}})
    connect(gateways, gateways.a, "s2")
    assert reject(gateways, gateways.b, "s2")["ineffective"] is False
    assert reject(gateways, gateways.b, "s2", "hold")["ineffective"] is True


def test_changed_fields_that_the_other_gateway_s_session_does_not_take_are_reported(
    gateways: Pair,
) -> None:
    fallback = {"error_status": {"allow": {"callee": "7"}}}
    gateways.serve({"a": {**APP, "methods": {"call": {"fallback": fallback}}}})
    connect(gateways, gateways.a, "s3")
    gateways.backend.mode = Mode.ERROR
    answer = ask(gateways.b, hook_body("a", nodeId="n", sessionId="s3", callee="1"), "call")
    assert answer.status == 200
    shown = decision(gateways.b, answer)
    assert (shown["changed_fields"], shown["ignored_fields"]) == ("callee", "callee")


# --- the state's server fails ---


def test_a_server_that_hangs_or_dies_makes_the_gateways_be_alone_until_it_is_back(
    gateways: Pair, redis: RedisServer
) -> None:
    def both_decided(session: str) -> bool:
        """Whether both gateways answered, each for itself."""
        gateways.backend.mode = Mode.OK
        body, before = hook_body("a"), gateways.backend.count
        answers = gateways.both(body)
        assert [answer.status for answer in answers] == [200, 200]
        connect(gateways, gateways.a, session)
        assert reject(gateways, gateways.b, session)["method"] == "call"
        return gateways.backend.count == before + 4

    def shared() -> bool:
        body, before = hook_body("a"), gateways.backend.count
        assert [answer.status for answer in gateways.both(body)] == [200, 200]
        return gateways.backend.count == before + 1

    gateways.backend.mode = Mode.OK
    assert shared()
    redis.pause()
    try:
        assert both_decided("hangs")
    finally:
        redis.resume()
    gateways.backend.mode = Mode.OK
    assert wait_until(shared)
    redis.kill()
    try:
        assert wait_until(lambda: gateways.b.metric("gateway_state_degraded", feature="dedupe") == 1)
        assert both_decided("dead")
    finally:
        redis.start()
    gateways.backend.mode = Mode.OK
    assert wait_until(shared)
    assert wait_until(lambda: gateways.b.metric("gateway_state_degraded", feature="sessions") == 0)
    connect(gateways, gateways.a, "back")
    assert reject(gateways, gateways.b, "back")["ineffective"] is True
