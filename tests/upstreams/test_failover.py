"""An upstream that fails: another one decides in its place, within the same budget.

First for one that cannot be reached at all; at the end, for every failure that failover_on names.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.faulty import full_backlog
from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import (
    Answered,
    Mode,
    PacedBackend,
    backends,
    hook_body,
    serve,
    targets,
    volley,
)

REFUSED_BY_FALLBACK = (403, "fallback", "unreachable")
BY_BACKEND = (200, "backend", "ok")


@pytest.fixture
def four() -> Iterator[list[PacedBackend]]:
    """Two targets of the upstream, and two upstreams to fall back on."""
    with backends(4) as running:
        yield running


def two_tiers(four: list[PacedBackend], app: dict[str, Any] | None = None, **php: Any) -> dict[str, Any]:
    """Arguments for serve()."""
    upstreams = {
        "php": {"targets": targets(*four[:2]), "breaker": "off", **php},
        "other": {"url": four[2].url, "breaker": "off"},
        "last": {"url": four[3].url, "breaker": "off"},
    }
    return {
        "upstreams": upstreams,
        "apps": {"a": {"upstream": "php", "failover": ["other", "last"], "timeout": "2s", **(app or {})}},
    }


def ask(gateway: RunningGateway, **fields: Any) -> Answered:
    return volley(gateway, [hook_body("a", **fields)])[0]


def line_of(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    return gateway.access_line(answer.headers["x-request-id"])


def fate(gateway: RunningGateway, answer: Answered) -> tuple[int, str, str]:
    line = line_of(gateway, answer)
    return answer.status, line["source"], line["reason"]


def counts(four: list[PacedBackend]) -> list[int]:
    return [backend.count for backend in four]


def test_where_every_target_refuses_the_next_upstream_decides(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four))
    four[0].kill()
    four[1].kill()
    answer = ask(gateway)
    line = line_of(gateway, answer)
    assert fate(gateway, answer) == BY_BACKEND
    assert (line["upstream"], line["target"], line["failed_over_from"]) == ("other", four[2].name, "php")
    call = gateway.get(f"/api/decisions/{line['request_id']}").json()
    asked = [(each["upstream"], each["target"], each["outcome"]) for each in call["attempts"]]
    assert sorted(asked[:2]) == [
        ("php", backend.name, "unreachable") for backend in sorted(four[:2], key=lambda b: b.name)
    ]
    assert asked[2:] == [("other", four[2].name, "ok")]
    assert counts(four) == [0, 0, 1, 0]
    assert gateway.metric("gateway_failovers_total", app="a", upstream="php") == 1
    assert gateway.metric("gateway_hooks_total", app="a", source="backend", reason="ok") == 1


def test_where_one_target_is_left_nobody_else_is_asked(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    serve(gateway, **two_tiers(four))
    four[0].kill()
    answers = [ask(gateway) for _ in range(6)]
    assert {fate(gateway, answer) for answer in answers} == {BY_BACKEND}
    assert counts(four) == [0, 6, 0, 0]
    assert not any("failed_over_from" in line_of(gateway, answer) for answer in answers)
    assert gateway.metric("gateway_failovers_total") == 0


def test_where_every_target_is_ejected_the_next_upstream_decides(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four, breaker={"failures": 1, "open_for": "1m"}))
    for backend in four[:2]:
        backend.mode = Mode.UNAVAILABLE
    opening = [fate(gateway, ask(gateway)) for _ in range(2)]
    assert opening == [(403, "fallback", "error_status")] * 2
    answer = ask(gateway)
    assert fate(gateway, answer) == BY_BACKEND
    assert line_of(gateway, answer)["failed_over_from"] == "php"
    assert counts(four) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (Mode.RESET, "unreachable"),
        (Mode.HOLD, "timeout"),
        (Mode.ERROR, "error_status"),
        (Mode.UNAVAILABLE, "error_status"),
        (Mode.HTML, "bad_answer"),
    ],
)
def test_a_hook_that_a_backend_may_have_seen_is_sent_to_no_other_upstream(
    gateway: RunningGateway, four: list[PacedBackend], mode: Mode, reason: str
) -> None:
    serve(gateway, **two_tiers(four, {"timeout": "1s" if mode is Mode.HOLD else "14s"}))
    for backend in four[:2]:
        backend.mode = mode
    answer = ask(gateway)
    assert fate(gateway, answer) == (403, "fallback", reason)
    assert sum(counts(four)[:2]) == 1
    assert counts(four)[2:] == [0, 0]
    assert "failed_over_from" not in line_of(gateway, answer)


def test_a_hook_seen_by_the_first_and_refused_by_the_second_target_is_sent_nowhere_else(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    retry = {"attempts": 2, "on": ["connect", "reset"]}
    serve(gateway, **two_tiers(four, retry=retry))
    four[0].mode = Mode.RESET
    four[1].kill()
    answers = [ask(gateway) for _ in range(4)]
    seen = four[0].count
    assert 1 <= seen <= 4
    assert {fate(gateway, answer) for answer in answers} == {REFUSED_BY_FALLBACK}
    assert counts(four)[2:] == [0, 0]


def test_an_overloaded_upstream_is_not_an_unreachable_one(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    serve(gateway, **two_tiers(four, {"max_in_flight": 1}))
    four[0].mode = four[1].mode = Mode.HOLD
    answers = volley(gateway, [hook_body("a") for _ in range(3)])
    assert sorted(fate(gateway, answer)[2] for answer in answers) == ["overload", "overload", "timeout"]
    assert counts(four)[2:] == [0, 0]


def test_the_upstreams_are_asked_in_their_order_until_one_is_there(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four))
    for backend in four[:3]:
        backend.kill()
    answer = ask(gateway)
    line = line_of(gateway, answer)
    assert fate(gateway, answer) == BY_BACKEND
    assert (line["upstream"], line["failed_over_from"]) == ("last", "php")
    assert counts(four) == [0, 0, 0, 1]


def test_where_nobody_is_there_the_fallback_decides(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    serve(gateway, **two_tiers(four))
    for backend in four:
        backend.kill()
    refused = ask(gateway)
    assert fate(gateway, refused) == REFUSED_BY_FALLBACK
    assert line_of(gateway, refused)["failed_over_from"] == "php"
    serve(gateway, **two_tiers(four, {"fallback": {"unreachable": "allow"}}))
    body = hook_body("a")
    (let_through,) = volley(gateway, [body])
    assert fate(gateway, let_through) == (200, "fallback", "unreachable")
    assert let_through.body == body
    assert gateway.metric("gateway_failovers_total", app="a", upstream="php") == 2


def test_an_upstream_that_is_not_there_itself_is_no_target_of_the_hook_s(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    ejecting = {"failures": 1, "window": "10s", "open_for": "60s"}
    serve(gateway, **two_tiers(four, {"failover": "other"}))
    for backend in four[:3]:
        backend.kill()
    named = two_tiers(four, {"failover": "other"})
    named["upstreams"]["other"]["breaker"] = ejecting
    serve(gateway, **named)
    lines = [line_of(gateway, ask(gateway)) for _ in range(2)]
    assert [(line["upstream"], line["target"]) for line in lines] == [("other", four[2].name), ("other", None)]


def test_where_the_only_other_upstream_is_the_one_that_is_not_there_nobody_stood_in(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    canary = {"upstream": [{"name": "php", "weight": 100}, {"name": "other", "weight": 0}], "failover": "php"}
    serve(gateway, **two_tiers(four, canary))
    four[0].kill()
    four[1].kill()
    refused = ask(gateway, sessionId="s")
    assert fate(gateway, refused) == REFUSED_BY_FALLBACK
    assert "failed_over_from" not in line_of(gateway, refused)
    assert gateway.metric("gateway_failovers_total", app="a") == 0
    assert gateway.metric("gateway_split_hooks_total", app="a", upstream="php", verdict="reject") == 1


def test_the_other_upstream_s_refusal_is_final(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    serve(gateway, **two_tiers(four))
    four[0].kill()
    four[1].kill()
    four[2].mode = Mode.DENY
    assert fate(gateway, ask(gateway)) == (403, "backend", "denied")
    assert counts(four) == [0, 0, 1, 0]


def test_the_other_upstream_s_failure_after_it_had_the_hook_is_final(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four, {"timeout": "2s"}))
    four[0].kill()
    four[1].kill()
    four[2].mode = Mode.RESET
    assert fate(gateway, ask(gateway)) == REFUSED_BY_FALLBACK
    four[2].mode = Mode.HOLD
    assert fate(gateway, ask(gateway)) == (403, "fallback", "timeout")
    assert counts(four) == [0, 0, 2, 0]


def test_what_the_first_upstream_used_up_of_the_budget_is_gone(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    with full_backlog() as silent:
        php = {"url": f"http://127.0.0.1:{silent}/rest/my_api", "connect_timeout": "300ms", "breaker": "off"}
        arguments = two_tiers(four, {"timeout": "3s"})
        arguments["upstreams"]["php"] = {**php, "retry": {"attempts": 1}}
        serve(gateway, **arguments)
        answer = ask(gateway)
        assert fate(gateway, answer) == BY_BACKEND
        (request,) = four[2].hooks
        assert 0 < request.told_ms <= 2700
        four[2].mode = Mode.HOLD
        late = ask(gateway)
        assert fate(gateway, late) == (403, "fallback", "timeout")
        assert 2500 <= line_of(gateway, late)["duration_ms"] < 5000


def test_the_upstream_is_asked_again_as_soon_as_it_is_back(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    serve(gateway, **two_tiers(four))
    four[0].kill()
    four[1].kill()
    assert line_of(gateway, ask(gateway))["upstream"] == "other"
    four[0].revive()
    four[1].revive()
    assert line_of(gateway, ask(gateway))["upstream"] == "php"
    assert wait_until(lambda: sum(counts(four)[:2]) == 1)


def test_an_app_without_failover_has_none_and_one_in_defaults_is_every_app_s(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    arguments = two_tiers(four)
    arguments["apps"] = {"a": {"upstream": "php"}, "b": {"upstream": "php", "failover": []}}
    four[0].kill()
    four[1].kill()
    serve(gateway, **arguments, defaults={"dedupe": "off", "failover": "other"})
    assert [answer.status for answer in volley(gateway, [hook_body("a"), hook_body("b")])] == [200, 403]
    serve(gateway, **arguments)
    assert [answer.status for answer in volley(gateway, [hook_body("a"), hook_body("b")])] == [403, 403]
    assert counts(four) == [0, 0, 1, 0]


def test_a_share_of_a_split_that_cannot_be_reached_is_stood_in_for_by_the_other(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    arguments = two_tiers(four)
    shares = [{"name": "php", "weight": 50}, {"name": "other", "weight": 50}]
    arguments["apps"]["a"].update({"upstream": shares, "failover": ["php", "other"]})
    serve(gateway, **arguments)
    four[0].kill()
    four[1].kill()
    answers = volley(gateway, [hook_body("a", sessionId=f"session {i}") for i in range(30)])
    assert {answer.status for answer in answers} == {200}
    assert counts(four) == [0, 0, 30, 0]
    failed_over = gateway.metric("gateway_failovers_total", app="a", upstream="php")
    assert 5 < failed_over < 25
    assert gateway.metric("gateway_failovers_total", app="a", upstream="other") == 0


def test_the_same_hook_come_again_gets_the_other_upstream_s_verdict(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four), defaults={})
    four[0].kill()
    four[1].kill()
    body = hook_body("a")
    answers = [volley(gateway, [body])[0] for _ in range(2)]
    assert [fate(gateway, answer)[1] for answer in answers] == ["backend", "duplicate"]
    assert counts(four) == [0, 0, 1, 0]
    assert gateway.metric("gateway_failovers_total", app="a", upstream="php") == 1


# --- failover_on ---

ALL = ["unreachable", "timeout", "error_status", "bad_answer"]


@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        (Mode.ERROR, "error_status"),
        (Mode.BAD_GATEWAY, "error_status"),
        (Mode.HTML, "bad_answer"),
        (Mode.HOLD, "timeout"),
        (Mode.RESET, "unreachable"),  # after it had the hook
    ],
)
def test_after_any_failure_that_is_named_the_next_upstream_decides_in_time(
    gateway: RunningGateway, four: list[PacedBackend], mode: Mode, cause: str
) -> None:
    serve(gateway, **two_tiers(four, {"failover_on": ALL, "timeout": "3s"}))
    for backend in four[:2]:
        backend.mode = mode
    answer = ask(gateway)
    line = line_of(gateway, answer)
    assert fate(gateway, answer) == BY_BACKEND
    assert (line["upstream"], line["failed_over_from"], line["failover_cause"]) == ("other", "php", cause)
    assert counts(four)[2:] == [1, 0]
    assert sum(counts(four)[:2]) == 1
    assert gateway.metric("gateway_failovers_total", app="a", upstream="php", cause=cause) == 1


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        (Mode.ERROR, ["unreachable", "timeout", "bad_answer"]),
        (Mode.HTML, ["unreachable", "timeout", "error_status"]),
        (Mode.HOLD, ["unreachable", "error_status", "bad_answer"]),
        (Mode.RESET, ["unreachable", "error_status", "bad_answer"]),
        (Mode.DENY, ALL),
    ],
)
def test_after_no_other_failure_and_never_after_a_refusal(
    gateway: RunningGateway, four: list[PacedBackend], mode: Mode, named: list[str]
) -> None:
    serve(gateway, **two_tiers(four, {"failover_on": named, "timeout": "1s" if mode is Mode.HOLD else "14s"}))
    for backend in four[:2]:
        backend.mode = mode
    answer = ask(gateway)
    assert answer.status == 403
    assert counts(four)[2:] == [0, 0]
    assert "failed_over_from" not in line_of(gateway, answer)


def test_each_upstream_is_told_its_own_share_of_the_budget(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    """60 % for the one that decides, then half of what is left, then all of it."""
    serve(gateway, **two_tiers(four, {"failover_on": ["timeout"], "timeout": "4s"}))
    for backend in four[:3]:
        backend.mode = Mode.HOLD
    answer = ask(gateway)
    assert fate(gateway, answer) == BY_BACKEND
    first = (four[0].hooks or four[1].hooks)[0].told_ms
    second, third = four[2].hooks[0].told_ms, four[3].hooks[0].told_ms
    assert 1500 < first <= 2400
    assert second <= 800
    assert third <= 800
    assert 2400 <= line_of(gateway, answer)["duration_ms"] < 5000


def test_a_failure_at_once_leaves_the_next_all_the_time_but_for_the_others_shares(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    serve(gateway, **two_tiers(four, {"failover_on": ALL, "failover": "other", "timeout": "4s"}))
    four[0].mode = four[1].mode = Mode.ERROR
    assert fate(gateway, ask(gateway)) == BY_BACKEND
    assert 2400 < four[2].hooks[0].told_ms <= 4000


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"failover_on": "timeout", "failover_reserve": "75%"}, 3500),
        ({"failover_on": "timeout", "failover_reserve": 0}, 14000),
        ({"failover_on": "error_status"}, 14000),
        ({}, 14000),
    ],
)
def test_the_reserve_is_a_key_and_only_kept_where_a_timeout_goes_over(
    gateway: RunningGateway, four: list[PacedBackend], settings: dict[str, Any], most: int
) -> None:
    serve(gateway, **two_tiers(four, {**settings, "timeout": "14s"}))
    assert fate(gateway, ask(gateway)) == BY_BACKEND
    (request,) = [*four[0].hooks, *four[1].hooks]
    assert most / 2 < request.told_ms <= most


def test_attempts_of_the_first_upstream_keep_within_its_share(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    retry = {"attempts": 2, "on": ["timeout"]}
    serve(gateway, **two_tiers(four, {"failover_on": "timeout", "failover": "other", "timeout": "4s"}, retry=retry))
    four[0].mode = four[1].mode = Mode.HOLD
    answer = ask(gateway)
    assert fate(gateway, answer) == BY_BACKEND
    assert counts(four) == [1, 1, 1, 0]
    assert four[2].hooks[0].told_ms <= 1600
    assert line_of(gateway, answer)["attempts"] == 3


def test_where_the_only_other_upstream_decides_itself_no_time_is_kept(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    canary = {"upstream": [{"name": "php", "weight": 100}, {"name": "other", "weight": 0}], "failover": "php"}
    serve(gateway, **two_tiers(four, {**canary, "failover_on": "timeout", "timeout": "4s"}))
    assert fate(gateway, ask(gateway, sessionId="s")) == BY_BACKEND
    (request,) = [*four[0].hooks, *four[1].hooks]
    assert request.told_ms > 2400


def test_a_failure_of_what_the_caller_sent_does_not_become_an_unreachable_backend(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    """The other upstream is down: a call that makes PHP fail must not be let through by its fallback."""
    serve(gateway, **two_tiers(four, {"failover_on": ALL, "failover": "other", "fallback": {"unreachable": "allow"}}))
    four[0].mode = four[1].mode = Mode.ERROR
    four[2].kill()
    answer = ask(gateway)
    assert fate(gateway, answer) == (403, "fallback", "error_status")
    assert "then other: " in line_of(gateway, answer)["error"]


def test_a_method_has_its_own_way_to_fail_over(gateway: RunningGateway, four: list[PacedBackend]) -> None:
    own = {"failover_on": "error_status", "methods": {"OnCallEvent": {"failover_on": ["unreachable"]}}}
    serve(gateway, **two_tiers(four, own))
    four[0].mode = four[1].mode = Mode.ERROR
    assert fate(gateway, ask(gateway)) == (403, "fallback", "error_status")
    answer = gateway.hook("call", hook_body("a"))
    assert answer.status_code == 200
    assert counts(four)[2:] == [1, 0]


def test_an_upstream_that_is_always_too_slow_is_ejected_and_its_hooks_wait_no_more(
    gateway: RunningGateway, four: list[PacedBackend]
) -> None:
    breaker = {"failures": 2, "open_for": "1m"}
    tiers = two_tiers(four, {"failover_on": ["unreachable", "timeout"], "timeout": "2s"}, breaker=breaker)
    serve(gateway, **tiers)
    four[0].mode = four[1].mode = Mode.HOLD
    assert {fate(gateway, ask(gateway)) for _ in range(8)} == {BY_BACKEND}
    assert sum(counts(four)[:2]) < 8
    assert line_of(gateway, ask(gateway))["failover_cause"] == "unreachable"


@pytest.mark.parametrize(
    ("named", "expected"),
    [(["timeout"], BY_BACKEND), (["error_status", "unreachable"], (403, "fallback", "overload"))],
)
def test_a_hook_that_waited_in_vain_for_a_free_connection_goes_over_as_one_that_timed_out(
    gateway: RunningGateway, four: list[PacedBackend], named: list[str], expected: tuple[int, str, str]
) -> None:
    """The one connection is held by a hook of another app, which has no other upstream."""
    busy = two_tiers(four, {"failover_on": named, "failover": "other", "timeout": "3s"}, max_connections=1)
    del busy["upstreams"]["php"]["targets"]
    busy["upstreams"]["php"]["url"] = four[0].url
    busy["apps"]["b"] = {"upstream": "php", "timeout": "10s"}
    serve(gateway, **busy)
    four[0].apps = {"b": Mode.HOLD}
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(volley, gateway, [hook_body("b")])
        assert wait_until(lambda: four[0].held)
        answer = ask(gateway)
        four[0].release()
        assert holding.result()[0].status == 200
    assert fate(gateway, answer) == expected
    assert counts(four) == [1, 0, int(expected == BY_BACKEND), 0]
    assert line_of(gateway, answer).get("failover_cause") == ("overload" if expected == BY_BACKEND else None)
