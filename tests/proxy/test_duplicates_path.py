"""The same hook more than once through a real gateway: the backend decides it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.proxy.dedupe import MAX_JOINED
from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import (
    Answered,
    Mode,
    PacedBackend,
    Volley,
    hook_body,
    leaving,
    serve,
    volley,
)

APP = {"upstream": "u", "timeout": "14s"}
ON: dict[str, Any] = {}
"""The defaults as they are where nobody sets them."""


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def ask(gateway: RunningGateway, body: bytes, method: str = "OnCallEvent") -> Answered:
    return volley(gateway, [body], method)[0]


def source(gateway: RunningGateway, answer: Answered) -> tuple[str, str]:
    """Who decided, and why, as logged."""
    line = gateway.wait_for_line(lambda line: line.get("request_id") == answer.headers["x-request-id"])
    return line["source"], line["reason"]


@pytest.mark.parametrize("method", ["connect", "OnCallEvent"])
@pytest.mark.parametrize("mode", [Mode.OK, Mode.DENY])
def test_a_hook_sent_four_times_at_once_and_once_later_is_decided_once(
    gateway: RunningGateway, backend: PacedBackend, method: str, mode: Mode
) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP}, defaults=ON)
    body = hook_body("a")
    backend.mode = Mode.HOLD
    together = Volley(gateway, [body] * 4, method)
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 4)
    assert wait_until(lambda: backend.held == 1)
    backend.release(mode)
    answers = [*together.answers(), ask(gateway, body, method)]
    assert backend.count == 1
    assert len({(answer.status, answer.body, answer.proxy_error) for answer in answers}) == 1
    assert answers[0].status == (200 if mode is Mode.OK else 403)
    assert bool(answers[0].body) is (mode is Mode.OK)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 5
    reason = "ok" if mode is Mode.OK else "denied"
    sources = Counter(source(gateway, answer) for answer in answers)
    assert sources == {("backend", reason): 1, ("duplicate", reason): 4}
    counted = {"app": "a", "method": method, "reason": reason}
    assert gateway.metric("gateway_hooks_total", source="duplicate", **counted) == 4
    assert gateway.metric("gateway_hooks_total", source="backend", **counted) == 1


def test_another_body_method_or_app_is_another_hook(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP, "b": APP}, defaults=ON)
    same = b'{"appKey": "a", "callId": "1"}'
    hooks = [
        (same, "OnCallEvent"),
        (same, "connect"),
        (b'{"appKey": "b", "callId": "1"}', "OnCallEvent"),
        (b'{"appKey": "a", "callId": "1" }', "OnCallEvent"),
        (b'{"appKey": "a", "callId": "1", "caller": "2"}', "OnCallEvent"),
    ]
    answers = [ask(gateway, *hook) for hook in hooks]
    assert backend.count == len(hooks)
    assert len({answer.body for answer in answers}) == len(hooks)
    assert {source(gateway, answer) for answer in answers} == {("backend", "ok")}


def test_hooks_of_other_methods_may_well_be_sent_twice(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP}, defaults=ON)
    body = hook_body("a")
    for method in ("sendDTMF", "StreamKeepAliveEvent", "NoSuchMethod"):
        assert {source(gateway, ask(gateway, body, method)) for _ in range(2)} == {("backend", "ok")}
    assert backend.count == 6


def test_dedupe_may_be_set_per_app_and_method(gateway: RunningGateway, backend: PacedBackend) -> None:
    apps: dict[str, dict[str, Any]] = {
        "off": {**APP, "dedupe": "off"},
        "on": {**APP, "dedupe": "1m", "methods": {"sendDTMF": {"dedupe": "off"}}},
        "one": {**APP, "methods": {"call": {"dedupe": "1m"}, "OnCallEvent": {"dedupe": "off"}}},
    }
    serve(gateway, {"u": {"url": backend.url}}, apps, defaults=ON)
    expected = {
        ("off", "OnCallEvent"): 2, ("off", "connect"): 2,
        ("on", "call"): 1, ("on", "OnCallEvent"): 1, ("on", "sendDTMF"): 2,
        ("one", "call"): 1, ("one", "OnCallEvent"): 2, ("one", "connect"): 1, ("one", "hold"): 2,
    }  # fmt: skip
    seen = {}
    for app, method in expected:
        body, before = hook_body(app), backend.count
        assert [ask(gateway, body, method).status for _ in range(2)] == [200, 200]
        seen[app, method] = backend.count - before
    assert seen == expected


def test_a_verdict_is_kept_no_longer_than_dedupe_says(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": {**APP, "dedupe": "300ms"}})
    body = hook_body("a")
    assert ask(gateway, body).status == 200
    assert wait_until(lambda: ask(gateway, body).status == 200 and backend.count > 1)


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.ERROR, Mode.HTML])
def test_a_hook_that_a_backend_had_gets_the_same_verdict_again_though_it_failed(
    gateway: RunningGateway, backend: PacedBackend, mode: Mode
) -> None:
    timeout = "1s" if mode is Mode.HOLD else "14s"
    serve(gateway, {"u": {"url": backend.url}}, {"a": {**APP, "timeout": timeout}}, defaults=ON)
    backend.mode = mode
    body = hook_body("a")
    first = ask(gateway, body)
    backend.release()
    again = ask(gateway, body)
    assert backend.count == 1
    assert (first.status, again.status) == (403, 403)
    assert first.proxy_error == again.proxy_error != ""
    reason = {Mode.HOLD: "timeout", Mode.ERROR: "error_status", Mode.HTML: "bad_answer"}[mode]
    assert source(gateway, first) == ("fallback", reason)
    assert source(gateway, again) == ("duplicate", reason)


def test_a_hook_that_never_reached_a_backend_may_ask_again(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url, "breaker": "off"}}, {"a": APP}, defaults=ON)
    body = hook_body("a")
    backend.kill()
    assert source(gateway, ask(gateway, body)) == ("fallback", "unreachable")
    backend.revive()
    assert source(gateway, ask(gateway, body)) == ("backend", "ok")
    assert source(gateway, ask(gateway, body)) == ("duplicate", "ok")
    assert backend.count == 1


def test_a_hook_refused_by_an_open_breaker_or_a_limit_may_ask_again(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 1, "open_for": "1h"}}
    serve(gateway, {"u": upstream}, {"a": {**APP, "max_in_flight": 1}}, defaults=ON)
    backend.mode = Mode.UNAVAILABLE
    assert ask(gateway, hook_body("a")).status == 403
    body = hook_body("a")
    assert source(gateway, ask(gateway, body)) == ("fallback", "unreachable")
    backend.mode = Mode.OK
    assert gateway.post(f"/api/upstreams/u/{backend.name}/restore").json()["result"] == "restored"
    assert ask(gateway, body).status == 200
    backend.mode = Mode.HOLD
    held = Volley(gateway, [hook_body("a")])
    assert wait_until(lambda: backend.held == 1)
    other = hook_body("a")
    assert source(gateway, ask(gateway, other)) == ("fallback", "overload")
    backend.release()
    assert [answer.status for answer in held.answers()] == [200]
    assert source(gateway, ask(gateway, other)) == ("backend", "ok")


def test_a_repeat_needs_no_place_of_its_own_under_the_apps_limit(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": {**APP, "max_in_flight": 1}}, defaults=ON)
    body = hook_body("a")
    backend.mode = Mode.HOLD
    first = Volley(gateway, [body])
    assert wait_until(lambda: backend.held == 1)
    repeats = Volley(gateway, [body] * 3)
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 4)
    backend.release()
    assert [answer.status for one in (first, repeats) for answer in one.answers()] == [200] * 4
    assert backend.count == 1


def test_a_verdict_outlives_a_reload(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP}, defaults=ON)
    body = hook_body("a")
    first = ask(gateway, body)
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP, "b": APP}, defaults=ON)
    again = ask(gateway, body)
    assert (first.body, source(gateway, again), backend.count) == (again.body, ("duplicate", "ok"), 1)


def test_a_repeat_after_its_caller_left_gets_the_verdict_of_the_first(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": APP}, defaults=ON)
    body = hook_body("a")
    backend.mode = Mode.HOLD
    with leaving(gateway, body):
        assert wait_until(lambda: backend.held == 1)
    repeat = Volley(gateway, [body])
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 2)
    backend.release()
    (answer,) = repeat.answers()
    assert (answer.status, source(gateway, answer), backend.count) == (200, ("duplicate", "ok"), 1)


def test_repeats_that_wait_take_no_place_of_another_app_s_hooks_nor_of_their_own_app_s(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps: dict[str, dict[str, Any]] = {"a": {**APP, "max_in_flight": 2}, "b": APP}
    serve(gateway, {"u": {"url": backend.url}}, apps, defaults=ON, server={"max_in_flight": 4})
    backend.apps["a"] = Mode.HOLD
    body = hook_body("a")
    repeated = Volley(gateway, [body] * 100)
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 100)
    assert backend.count == 1
    assert [answer.status for answer in volley(gateway, [hook_body("b")] * 3)] == [200] * 3
    own = Volley(gateway, [hook_body("a")])
    assert wait_until(lambda: backend.held == 2)
    assert source(gateway, ask(gateway, hook_body("a"))) == ("fallback", "overload")
    backend.release()
    assert [answer.status for one in (repeated, own) for answer in one.answers()] == [200] * 101
    assert len([request for request in backend.hooks if request.body == body]) == 1


def test_repeats_past_those_that_may_wait_are_answered_at_once_with_the_verdict_for_overload(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    app = {**APP, "fallback": {"overload": "allow"}}
    serve(gateway, {"u": {"url": backend.url}}, {"a": app}, defaults=ON)
    backend.mode = Mode.HOLD
    body, more = hook_body("a"), 10
    repeated = Volley(gateway, [body] * (1 + MAX_JOINED + more))
    overload = {"app": "a", "source": "fallback", "reason": "overload"}
    assert wait_until(lambda: gateway.metric("gateway_hooks_total", **overload) == more)
    backend.release()
    answers = repeated.answers()
    assert {answer.status for answer in answers} == {200}
    assert len([answer for answer in answers if answer.proxy_error]) == more
    assert backend.count == 1
