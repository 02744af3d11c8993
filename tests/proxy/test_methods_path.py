"""Hooks of every kind through a real gateway: events that reach the backend, streams that run on, keys for methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.model.hooks import CATALOGUE, KEEP_ALIVE, MethodType, method_type
from gateway.model.verdicts import Cause
from tests.support.gateways import RunningGateway
from tests.support.pacing import Answered, Mode, PacedBackend, backends, hook_body, serve, volley

EMERGENCY: Final = {"name": "emergency", "callee": ["110", "112"], "verdict": "allow"}
EVENTS: Final = [name for name, kind in CATALOGUE.items() if kind is MethodType.EVENT]
EVERY: Final = dict.fromkeys((cause.value for cause in Cause), "allow")


@pytest.fixture
def two() -> Iterator[list[PacedBackend]]:
    with backends(2) as running:
        yield running


def put(gateway: RunningGateway, two: list[PacedBackend], app: dict[str, Any], **sections: Any) -> None:
    upstreams = {name: {"url": it.url, "breaker": "off"} for name, it in zip(("php", "new"), two, strict=True)}
    used = {"php": {"upstream": "php"}, "new": {"upstream": "new"}}
    chosen = {} if "static" in app or "upstream" in app else {"upstream": "php"}
    serve(gateway, upstreams, {"a": {**chosen, **app}, **used}, **sections)


def ask(gateway: RunningGateway, method: str = "OnCallEvent", **fields: Any) -> Answered:
    return volley(gateway, [hook_body("a", **fields)], method)[0]


def line_of(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    return gateway.access_line(answer.headers["x-request-id"])


def fate(gateway: RunningGateway, answer: Answered) -> tuple[int, str, str]:
    line = line_of(gateway, answer)
    return answer.status, line["source"], line["reason"]


# --- rules with a verdict ---


@pytest.mark.parametrize("place", ["app", "defaults"])
def test_events_of_an_emergency_call_reach_the_backend_s_records(
    gateway: RunningGateway, two: list[PacedBackend], place: str
) -> None:
    app = {"rules": [EMERGENCY]} if place == "app" else {}
    put(gateway, two, app, defaults={"dedupe": "off"} | ({} if place == "app" else {"rules": [EMERGENCY]}))
    for method in ("OnCallEvent", "call", "OnMessageEvent", "connect", "OnNewEvent"):
        assert fate(gateway, ask(gateway, method, callee="112")) == (200, "rule", "ok")
    assert two[0].count == 0
    for number, method in enumerate([*EVENTS, "NewEvent"], 1):
        assert fate(gateway, ask(gateway, method, callee="112")) == (200, "backend", "ok")
        assert two[0].count == number
    two[0].kill()
    assert fate(gateway, ask(gateway, callee="112")) == (200, "rule", "ok")
    assert fate(gateway, ask(gateway, "CallStatusEvent", callee="112")) == (403, "fallback", "unreachable")


def test_a_rule_that_names_events_answers_them_and_one_with_an_upstream_meets_all(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    rules = [
        {"name": "told", "methods": ["event"], "caller": "1", "verdict": "allow"},
        {"name": "named", "methods": ["*StatusEvent", "call"], "caller": "2", "verdict": "reject"},
        {"name": "questions", "methods": ["incoming", "direct"], "caller": "3", "verdict": "reject"},
        {"name": "elsewhere", "caller": "4", "upstream": "new"},
    ]
    put(gateway, two, {"rules": rules})
    met: dict[tuple[str, str], str | None] = {}
    for caller in "1234":
        for method in ("OnCallEvent", "call", "connect", "CallStatusEvent", "ErrorEvent", KEEP_ALIVE):
            met[caller, method] = line_of(gateway, ask(gateway, method, caller=caller)).get("rule")
    assert {key: rule for key, rule in met.items() if rule is not None} == {
        ("1", "CallStatusEvent"): "told", ("1", "ErrorEvent"): "told",
        ("2", "CallStatusEvent"): "named", ("2", "call"): "named",
        ("3", "OnCallEvent"): "questions", ("3", "call"): "questions", ("3", KEEP_ALIVE): "questions",
        **{("4", method): "elsewhere" for caller, method in met if caller == "4"},
    }  # fmt: skip
    assert two[1].count == 6


def test_hook_types_say_what_a_rule_takes_a_method_for(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    put(gateway, two, {"rules": [EMERGENCY]}, hook_types={"CallStatusEvent": "incoming", "newQuestion": "event"})
    found = {
        method: fate(gateway, ask(gateway, method, callee="110"))[1] for method in ("CallStatusEvent", "newQuestion")
    }
    assert found == {"CallStatusEvent": "rule", "newQuestion": "backend"}


# --- events ---


def test_an_event_is_answered_with_its_own_body_where_the_backend_says_nothing(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, {"methods": {"ErrorEvent": {"event_answers": "strict"}}})
    two[0].mode = Mode.HTML
    body = hook_body("a", status="FINISH")
    (answer,) = volley(gateway, [body], "CallStatusEvent")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == "application/json"
    assert "proxy-status" not in answer.headers
    assert line_of(gateway, answer)["substituted"] == "a body that is not one JSON object"
    assert fate(gateway, ask(gateway, "ErrorEvent")) == (403, "fallback", "bad_answer")
    two[0].mode = Mode.DENY
    assert fate(gateway, ask(gateway, "CallStatusEvent")) == (403, "backend", "denied")
    assert gateway.metric("gateway_upstream_attempts_total", upstream="php", outcome="ok") == 1


# --- streams ---


def test_a_backend_that_fails_lets_streams_run_on_where_the_configuration_says_so(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    defaults = {"dedupe": "off", "methods": {KEEP_ALIVE: {"fallback": EVERY}}}
    put(gateway, two, {"fallback": "reject"}, defaults=defaults)
    two[0].mode = Mode.HTML
    assert fate(gateway, ask(gateway, KEEP_ALIVE)) == (200, "fallback", "bad_answer")
    two[0].mode = Mode.DENY
    assert fate(gateway, ask(gateway, KEEP_ALIVE)) == (403, "backend", "denied")
    two[0].kill()
    assert fate(gateway, ask(gateway, KEEP_ALIVE)) == (200, "fallback", "unreachable")
    assert fate(gateway, ask(gateway, "call")) == (403, "fallback", "unreachable")


def test_viewers_of_hls_are_shared_out_though_they_have_one_session(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, {"upstream": [{"name": "php", "weight": 50}, {"name": "new", "weight": 50}]})
    session = {"nodeId": "n@192.0.2.1", "sessionId": "/192.0.2.7:1/192.0.2.1:2"}
    hls = {"nodeId": "n@192.0.2.1", "sessionId": "test-HLS"}
    for method, fields, parts in (
        ("playStream", session, 1),
        ("playHLS", session, 2),
        ("playHLS", hls, 2),
        ("StreamStatusEvent", hls, 2),
    ):
        for backend in two:
            backend.hooks.clear()
        answers = volley(gateway, [hook_body("a", token=str(number), **fields) for number in range(40)], method)
        assert {answer.status for answer in answers} == {200}
        assert sum(bool(backend.count) for backend in two) == parts


def test_a_refused_viewer_of_hls_is_refused_whatever_any_session_said(
    gateway: RunningGateway, two: list[PacedBackend]
) -> None:
    put(gateway, two, {})
    sessions = ({"nodeId": "n", "sessionId": "test-HLS"}, {"nodeId": "n", "sessionId": "/192.0.2.7:1/192.0.2.1:2"})
    for fields in sessions:
        assert ask(gateway, "connect", **fields).status == 200  # its answer sets no restOnError
    two[0].mode = Mode.DENY
    for fields in sessions:
        answer = ask(gateway, "playHLS", **fields)
        assert answer.status == 403
        assert "ineffective" not in line_of(gateway, answer)
        means = told(gateway, answer)["means"]
        assert means == "The media server rejects the viewer despite any restOnError: playHLS comes without a connect."
    answer = ask(gateway, KEEP_ALIVE, **sessions[1])
    assert line_of(gateway, answer)["ineffective"] is True
    assert told(gateway, answer)["means"].startswith("The media server logs it and the stream continues")
    assert gateway.metric("gateway_ineffective_rejects_total", app="a", method=KEEP_ALIVE) == 1
    assert gateway.metric("gateway_ineffective_rejects_total") == 1


def told(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    found = gateway.get("/api/decisions", params={"q": answer.headers["x-request-id"]}).json()
    first: dict[str, Any] = found["decisions"][0]
    return first


# --- keys ---


def test_settings_by_name_glob_and_type_reach_the_hooks(gateway: RunningGateway, two: list[PacedBackend]) -> None:
    app = {"timeout": "3s", "methods": {"CallStatusEvent": {"timeout": "1s"}, "*StatusEvent": {"timeout": "2s"}}}
    common = {
        "dedupe": "off",
        "methods": {"event": {"timeout": "4s"}, "connect": {"timeout": "5s"}, "Stream*": {"timeout": "6s"}},
    }
    put(gateway, two, app, defaults=common, hook_types={"reconnect": "connect"})
    methods = [
        "CallStatusEvent", "MessageStatusEvent", "BrandNewStatusEvent", "OnCallEvent", "ErrorEvent", "BrandNewEvent",
        "connect", "reconnect", "StreamsStatEvent", KEEP_ALIVE, "Streaming", "StreamStatusEvent",
    ]  # fmt: skip
    lines = [line_of(gateway, ask(gateway, method)) for method in methods]
    budgets = [line["budget_ms"] / 1000 for line in lines]
    assert budgets == [1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0, 6.0, 6.0, 2.0]
    labels = [line["method"] for line in lines]
    assert labels == [method if method in {**CATALOGUE, "reconnect": 0} else "_other" for method in methods]
    assert method_type("Streaming") is MethodType.DIRECT
    assert json.loads(two[0].hooks[0].body)["appKey"] == "a"
