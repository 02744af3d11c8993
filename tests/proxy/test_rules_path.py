"""Rules through a real gateway: they decide also while the backend is down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateways import RunningGateway
from tests.support.pacing import (
    Answered,
    Mode,
    PacedBackend,
    backends,
    hook_body,
    serve,
    volley,
)

SPAM = "+4930123"
NOW, LONG_AGO = "2000-01-01 - 2999-12-31", "2000-01-01 - 2000-12-31 Europe/Berlin"


@pytest.fixture
def two() -> Iterator[list[PacedBackend]]:
    """The app's backend, and that of the night."""
    with backends(2) as running:
        yield running


def put(gateway: RunningGateway, two: list[PacedBackend], rules: list[dict[str, Any]], **app: Any) -> None:
    upstreams = {
        name: {"url": backend.url, "breaker": "off"} for name, backend in zip(("php", "night"), two, strict=True)
    }
    sections = {"defaults": app.pop("defaults")} if "defaults" in app else {}
    chosen = {} if "static" in app else {"upstream": "php"}
    # "night" is used, with any rules of the test
    apps = {"a": {**chosen, "rules": rules, **app}, "user-of-night": {"upstream": "night"}, "php": {"upstream": "php"}}
    serve(gateway, upstreams, apps, **sections)


def ask(gateway: RunningGateway, method: str = "OnCallEvent", **fields: Any) -> Answered:
    return volley(gateway, [hook_body("a", **fields)], method)[0]


def line_of(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    return gateway.access_line(answer.headers["x-request-id"])


def fate(gateway: RunningGateway, answer: Answered) -> tuple[int, str, str, str | None]:
    line = line_of(gateway, answer)
    return answer.status, line["source"], line["reason"], line.get("rule")


def test_one_number_is_blocked_in_one_line_while_php_is_down(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"name": "spam", "caller": f"{SPAM}*", "verdict": "reject"}], fallback="allow")
    two[0].kill()
    blocked = ask(gateway, caller=SPAM + "45")
    assert fate(gateway, blocked) == (403, "rule", "denied", "spam")
    assert blocked.body == b""
    assert blocked.proxy_error == "http_request_denied"
    assert fate(gateway, ask(gateway, caller="+4930999")) == (200, "fallback", "unreachable", None)
    line = line_of(gateway, blocked)
    assert line.get("upstream") is None
    assert gateway.metric("gateway_rule_hits_total", app="a", rule="spam", verdict="reject") == 1
    assert gateway.metric("gateway_rule_hits_total") == 1
    assert gateway.metric("gateway_hooks_total", app="a", source="rule", verdict="reject") == 1


def test_a_blocked_number_reaches_no_backend_and_all_others_do(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, [{"name": "spam", "caller": SPAM, "verdict": "reject"}])
    assert [ask(gateway, caller=caller).status for caller in (SPAM, SPAM + "4", "", "+49")] == [403, 200, 200, 200]
    assert ask(gateway).status == 200
    assert two[0].count == 4


def test_an_allowed_number_passes_with_its_own_body_while_php_is_down(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, [{"name": "emergency", "callee": ["110", "112"], "verdict": "allow"}])
    two[0].kill()
    body = hook_body("a", callee="112", caller="+49 \u00fc")
    (answer,) = volley(gateway, [body])
    assert fate(gateway, answer) == (200, "rule", "ok", "emergency")
    assert answer.body == body
    assert answer.headers["content-type"] == "application/json"
    assert gateway.metric("gateway_rule_hits_total", app="a", rule="emergency", verdict="allow") == 1


def test_a_rule_may_choose_the_upstream(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"name": "at night", "methods": "OnCallEvent", "time": NOW, "upstream": "night"}])
    answer = ask(gateway)
    assert fate(gateway, answer) == (200, "backend", "ok", "at night")
    assert line_of(gateway, answer)["upstream"] == "night"
    assert line_of(gateway, ask(gateway, "connect"))["upstream"] == "php"
    assert [backend.count for backend in two] == [1, 1]
    two[1].mode = Mode.DENY
    assert fate(gateway, ask(gateway)) == (403, "backend", "denied", "at night")
    two[1].kill()
    assert fate(gateway, ask(gateway)) == (403, "fallback", "unreachable", "at night")
    assert gateway.metric("gateway_rule_hits_total", app="a", rule="at night", verdict="allow") == 1
    assert gateway.metric("gateway_rule_hits_total", app="a", rule="at night", verdict="reject") == 2


def test_where_a_rule_s_upstream_cannot_be_reached_the_app_s_own_may_stand_in(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, [{"name": "at night", "time": NOW, "upstream": "night"}], failover=["php"])
    assert line_of(gateway, ask(gateway))["upstream"] == "night"
    two[1].kill()
    answer = ask(gateway)
    assert fate(gateway, answer) == (200, "backend", "ok", "at night")
    line = line_of(gateway, answer)
    assert (line["upstream"], line["failed_over_from"]) == ("php", "night")


def test_a_rule_outside_its_time_is_none(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"time": LONG_AGO, "verdict": "reject"}, {"time": f"Mon; {NOW}", "verdict": "allow"}])
    assert fate(gateway, ask(gateway)) == (200, "rule", "ok", "rules[1]")


def test_rules_come_before_a_static_verdict(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"name": "vip", "caller": "vip", "verdict": "allow"}], static="reject")
    assert fate(gateway, ask(gateway, caller="vip")) == (200, "rule", "ok", "vip")
    assert fate(gateway, ask(gateway, caller="x")) == (403, "static", "denied", None)
    assert two[0].count == 0


def test_the_first_rule_wins_and_those_of_defaults_come_last(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(
        gateway,
        two,
        [{"caller": "vip", "verdict": "allow"}, {"name": "own", "caller": "v*", "verdict": "reject"}],
        defaults={"dedupe": "off", "rules": [{"caller": "*", "verdict": "reject"}]},
    )
    assert fate(gateway, ask(gateway, caller="vip")) == (200, "rule", "ok", "rules[0]")
    assert fate(gateway, ask(gateway, caller="via")) == (403, "rule", "denied", "own")
    assert fate(gateway, ask(gateway, caller="x")) == (403, "rule", "denied", "defaults.rules[0]")
    assert fate(gateway, ask(gateway)) == (200, "backend", "ok", None)
    (other,) = volley(gateway, [hook_body("php", caller="x")])
    assert fate(gateway, other) == (403, "rule", "denied", "defaults.rules[0]")


def test_a_connect_may_be_refused_by_a_rule(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"methods": ["connect"], "verdict": "reject"}])
    assert ask(gateway, "connect").status == 403
    assert ask(gateway).status == 200


def test_a_rule_decides_nothing_for_whoever_does_not_prove_whose_hook_it_is(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    credentials = {"username": "wcs", "password": "secret"}
    put(gateway, two, [{"name": "vip", "caller": "vip", "verdict": "allow"}], credentials=credentials)
    assert fate(gateway, ask(gateway, caller="vip"))[:2] == (401, "gateway")
    assert gateway.metric("gateway_rule_hits_total") == 0


def test_a_reload_blocks_a_number_and_lets_it_through_again(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    statuses = []
    for rules in ([], [{"caller": SPAM, "verdict": "reject"}], []):
        put(gateway, two, rules)
        statuses.append(ask(gateway, caller=SPAM).status)
    assert statuses == [200, 403, 200]


def test_a_rule_overrules_the_split_and_the_memory_of_repeats(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    body = hook_body("a", caller=SPAM, sessionId="s")
    put(gateway, two, [], upstream=[{"name": "php", "weight": 1}, {"name": "night", "weight": 0}], defaults={})
    assert volley(gateway, [body])[0].status == 200
    put(
        gateway,
        two,
        [{"caller": SPAM, "verdict": "reject"}, {"caller": "x", "upstream": "night"}],
        upstream=[{"name": "php", "weight": 1}, {"name": "night", "weight": 0}],
        defaults={},
    )
    assert volley(gateway, [body])[0].status == 403
    assert line_of(gateway, ask(gateway, caller="x", sessionId="s"))["upstream"] == "night"


@pytest.mark.parametrize(
    "caller",
    [
        rb'"caller":"\u002b4930123"',
        rb'"c\u0061ller":"+4930123"',
        rb'"caller":"vip","caller":"+4930123"',
        b'"caller" : \n "+4930123"',
    ],
)
def test_adversarial_spellings_of_a_blocked_number_are_blocked(
    gateway: RunningGateway, two: list[PacedBackend], caller: bytes
) -> None:
    put(gateway, two, [{"caller": "vip", "verdict": "allow"}, {"name": "spam", "caller": SPAM, "verdict": "reject"}])
    body = b'{"appKey":"a",%b}' % caller
    assert json.loads(body)["caller"] == SPAM
    (answer,) = volley(gateway, [body])
    assert fate(gateway, answer) == (403, "rule", "denied", "spam")
    assert two[0].count == 0


def test_adversarial_number_may_stand_there_as_a_json_number(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"caller": "4930123", "verdict": "reject"}])
    assert [ask(gateway, caller=caller).status for caller in (4930123, "4930123", 4930124)] == [403, 403, 200]


def test_adversarial_callee_that_would_have_a_glob_backtrack_keeps_nobody_waiting(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, [{"callee": "*a" * 20 + "*b", "verdict": "reject"}])
    answers = volley(gateway, [hook_body("a", callee="a" * 100_000 + end) for end in ("", "b")] + [hook_body("a")])
    assert [answer.status for answer in answers] == [200, 403, 200]


def test_adversarial_caller_s_name_shows_in_no_metric(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, [{"caller": "evil*", "verdict": "reject"}])
    volley(gateway, [hook_body("a", caller=f"evil{i}") for i in range(20)])
    assert gateway.metric("gateway_rule_hits_total", app="a", rule="rules[0]", verdict="reject") == 20
    assert "evil" not in gateway.get("/metrics").text
