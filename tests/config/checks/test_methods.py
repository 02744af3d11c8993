"""What keys and lists of methods cannot say, and streams that a failing backend would end."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from gateway.config import ConfigError, loads
from gateway.model.hooks import KEEP_ALIVE
from gateway.model.verdicts import Cause
from tests.config.texts import BACKEND, ONE_UPSTREAM, of_u, warnings_of

QUIET: Final = "defaults: {methods: {StreamKeepAliveEvent: {fallback: reject}}}\n" + ONE_UPSTREAM
"""Three lines less would be one warning more."""
NO_METHOD: Final = "neither in the catalogue of methods nor in hook_types"
NO_MATCH: Final = "matches no method of the catalogue and of hook_types"
SWALLOWED: Final = "matches events too: the rule answers them here, and they are missing in the backend's records; name the methods, or the types that ask: connect, direct, incoming"


def of_a(settings: str) -> str:
    return QUIET + "apps: {a: {upstream: u, " + settings + "}}\n"


ALL: Final = "{timeout: allow, unreachable: allow, overload: allow, bad_answer: allow, error_status: allow}"


def warned(app: Any, defaults: Any = None, **more: Any) -> list[tuple[str, str]]:
    apps = {"a": app} if "a" not in app else app
    document = {"upstreams": {"u": {"url": "http://h"}}, "apps": apps, **more}
    if defaults is not None:
        document["defaults"] = {"upstream": "u", **defaults}
    return [(it.path, it.message) for it in loads(json.dumps(document)).warnings]


EVERY: Final = dict.fromkeys((cause.value for cause in Cause), "allow")


WARNED = [
    (of_u("rest_client_config: {methods: {OnCalEvent: {restOnError: FAIL}}}"), '2:56: apps.a.rest_client_config.methods.OnCalEvent: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (of_u("rules: [{methods: OnCalEvent, verdict: allow}]"), '2:34: apps.a.rules[0].methods: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (of_u("rules: [{methods: [OnCallEvent, 'Zebra*'], verdict: allow}]"), "2:57: apps.a.rules[0].methods[1]: matches no method of the catalogue and of hook_types"),
    (of_u("shadow: {upstream: v, methods: [OnCal]}"), "2:57: apps.a.shadow.methods[0]: neither in the catalogue of methods nor in hook_types"),
    (of_u("shadow: {upstream: v, methods: ['x?']}"), "2:57: apps.a.shadow.methods[0]: matches no method of the catalogue and of hook_types"),
    (BACKEND + "apps: {a: {upstream: u, methods: {OnCalEvent: {}}}}\n", '2:35: apps.a.methods.OnCalEvent: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (BACKEND + "apps: {a: {upstream: u, methods: {Zebra: {}}}}\n", "2:35: apps.a.methods.Zebra: neither in the catalogue of methods nor in hook_types; if the media server has it, give its type there"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_a_mistyped_method_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_a("methods: {'Zebra*': {}}"), f'3:35: apps.a.methods."Zebra*": {NO_MATCH}'),
        (of_a("methods: {OnCalEvent: {}}"), f'3:35: apps.a.methods.OnCalEvent: {NO_METHOD}; did you mean "OnCallEvent"?'),
        (of_a("methods: {events: {}}"), f'3:35: apps.a.methods.events: {NO_METHOD}; did you mean "event"?'),
        (of_a("methods: {Event: {}}"), f'3:35: apps.a.methods.Event: {NO_METHOD}; did you mean "event"?'),
        (ONE_UPSTREAM + "defaults: {methods: {StreamKeepAliveEvent: {fallback: reject}, 'x?': {}}}\napps: {a: {upstream: u}}\n", f'2:64: defaults.methods."x?": {NO_MATCH}'),
        (ONE_UPSTREAM + "defaults: {methods: {StreamKeepAliveEvent: {fallback: reject}, incomming: {}}}\napps: {a: {upstream: u}}\n", f'2:64: defaults.methods.incomming: {NO_METHOD}; did you mean "incoming"?'),
        (of_a("methods: {OnCallEvent: {event_answers: strict}}"), "3:49: apps.a.methods.OnCallEvent.event_answers: does nothing here: it is for methods of type event"),
        (of_a("methods: {incoming: {event_answers: any}}"), "3:46: apps.a.methods.incoming.event_answers: does nothing here: it is for methods of type event"),
        (of_a("methods: {StreamKeepAliveEvent: {event_answers: any}}"), "3:58: apps.a.methods.StreamKeepAliveEvent.event_answers: does nothing here: it is for methods of type event"),
        (of_a("methods: {incoming: {retry: {on: [timeout]}}}"), "3:54: apps.a.methods.incoming.retry.on: a backend may act on the hook more than once"),
        (of_a("methods: {'*': {retry: {on: [timeout]}}}"), '3:49: apps.a.methods."*".retry.on: a backend may act on the hook more than once'),
        (of_a("rules: [{callee: '110', methods: '*Event', verdict: allow}]"), f"3:49: apps.a.rules[0].methods: {SWALLOWED}"),
        (of_a("rules: [{methods: [call, '*'], verdict: reject}]"), f"3:50: apps.a.rules[0].methods[1]: {SWALLOWED}"),
        (of_a("rules: [{methods: [evnt], verdict: reject}]"), f'3:44: apps.a.rules[0].methods[0]: {NO_METHOD}; did you mean "event"?'),
        (of_a("rest_client_config: {methods: {event: {restOnError: FAIL}}}"), "3:64: apps.a.rest_client_config.methods.event.restOnError: does nothing here: an event has happened already and cannot be rejected"),
        (of_a("rest_client_config: {methods: {'*StatusEvent': {restOnError: FAIL}}}"), '3:73: apps.a.rest_client_config.methods."*StatusEvent".restOnError: does nothing here: an event has happened already and cannot be rejected'),
        (of_a("rest_client_config: {methods: {playHLS: {restOnError: FAIL}}}"), "3:66: apps.a.rest_client_config.methods.playHLS.restOnError: does nothing here: the media server stops a rejected playHLS in any case, and no connect comes before it"),
        (of_a("rest_client_config: {methods: {'x*': {restOnError: FAIL}}}"), f'3:56: apps.a.rest_client_config.methods."x*": {NO_MATCH}'),
        (QUIET + "apps: {a: {static: allow, event_answers: any}}\n", "3:27: apps.a.event_answers: has no effect: the app is static, so no backend is asked"),
    ],
)  # fmt: skip
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in loads(text).warnings] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    "text",
    [
        of_a("methods: {event: {timeout: 1s, event_answers: strict}, connect: {}, direct: {}, incoming: {}}"),
        of_a("methods: {'*StatusEvent': {event_answers: any}, '*': {event_answers: any}}"),
        of_a("methods: {event: {retry: {on: [timeout]}}, '*StatusEvent': {retry: {on: [timeout]}}}"),
        of_a("rules: [{methods: [event, 'On*', Incoming], verdict: reject}]"),
        of_a("rules: [{methods: ['*StatusEvent', StreamsStatEvent], verdict: allow}]"),
        of_a("rules: [{methods: '*', upstream: u}]"),
        of_a("rest_client_config: {methods: {incoming: {restOnError: FAIL}, '*': {restOnError: FAIL}}}"),
        of_a("rest_client_config: {methods: {event: {restPolicy: OVERWRITE}}}"),
    ],
)
def test_what_does_no_harm_is_no_cause_for_a_warning(text: str) -> None:
    assert loads(text).warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_a("methods: {'a-b': {}}"), "3:35: apps.a.methods.a-b: must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming"),
        (of_a("methods: {'" + "x" * 64 + "*': {}}"), f'3:35: apps.a.methods."{"x" * 59}…": must be a method\'s name, such a name with * and ? for what varies, or connect, direct, event or incoming'),
        (of_a("event_answers: all"), '3:25: apps.a.event_answers: must be any or strict, not "all"'),
        (of_a("event_answers: "), "3:25: apps.a.event_answers: must be any or strict, not empty"),
        ("defaults: {methods: {event: {event_answers: 1}}}\n", "1:30: defaults.methods.event.event_answers: must be any or strict, not 1"),
        ("defaults: {methods: {event: {shadow: off}}}\n", "1:30: defaults.methods.event.shadow: unknown key"),
        ("defaults: {methods: {event: {timeout: 20s}}}\n", "1:30: defaults.methods.event.timeout: timeout 20s must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
        ("defaults: {methods: }\n", "1:12: defaults.methods: must be a mapping, not empty"),
        ("hook_types: {event: direct}\n", "1:14: hook_types.event: means all methods of a type: no method can have this name"),
        ("hook_types: {'*Event': event}\n", "1:14: hook_types.\"*Event\": must be a method's name: a letter, then at most 63 letters, digits or _"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("app", "defaults"),
    [
        ({}, {}),
        ({"fallback": "allow"}, {}),
        ({"fallback": {**EVERY, "error_status": "reject"}}, {}),
        ({"fallback": "reject"}, {"fallback": EVERY}),
        ({"methods": {"OnCallEvent": {"fallback": EVERY}, "event": {"fallback": EVERY}}}, {}),
        ({"methods": {"direct": {"fallback": "reject"}}}, {"fallback": EVERY}),
        ({"methods": {KEEP_ALIVE: {"timeout": "1s"}}}, {}),
        ({}, {"methods": {"Stream*": {"fallback": "allow"}}}),
    ],
)
def test_a_backend_that_fails_would_end_streams_and_nobody_said_so(app: Any, defaults: Any) -> None:
    ((path, message),) = warned(app, defaults)
    assert path == "defaults"
    assert message.startswith("a failing backend ends every live stream")
    assert "apps: a)" in message
    assert ALL in message


@pytest.mark.parametrize(
    ("app", "defaults"),
    [
        ({"fallback": EVERY}, {}),
        ({}, {"fallback": EVERY}),
        ({"methods": {KEEP_ALIVE: {"fallback": EVERY}}}, {}),
        ({"fallback": "reject"}, {"methods": {KEEP_ALIVE: {"fallback": EVERY}}}),
        ({"methods": {"*": {"fallback": "reject"}}}, {"methods": {KEEP_ALIVE: {"fallback": EVERY}}}),
        ({"methods": {"direct": {"fallback": EVERY}}}, {}),
        ({"methods": {"Stream*": {"fallback": EVERY}}}, {}),
        ({"methods": {KEEP_ALIVE: {"fallback": "reject"}}}, {}),
        ({}, {"methods": {KEEP_ALIVE: {"fallback": "reject"}}}),
        ({}, {"methods": {KEEP_ALIVE: {"fallback": {**EVERY, "error_status": "reject"}}}}),
        ({"static": "allow"}, None),
        ({"static": "reject"}, None),
    ],
)
def test_a_setting_that_says_so_is_no_cause_for_a_warning(app: Any, defaults: Any) -> None:
    assert warned(app, defaults) == []


def test_half_a_setting_is_told_what_it_lacks() -> None:
    rest = ": a backend that fails in this way ends every live stream whose session set FAIL; write allow, or reject if that is intended"
    partly = {"timeout": "allow", "unreachable": "allow", "overload": "reject"}
    assert warned({"methods": {KEEP_ALIVE: {"fallback": "allow"}}}, {}) == [
        (f"apps.a.methods.{KEEP_ALIVE}.fallback", "has no verdict for bad_answer, error_status" + rest)
    ]
    two: dict[str, Any] = {"a": {}, "b": {}}
    assert warned(two, {"methods": {KEEP_ALIVE: {"fallback": partly}}}) == [
        (f"defaults.methods.{KEEP_ALIVE}.fallback", "has no verdict for bad_answer, error_status" + rest)
    ]


def test_of_many_apps_there_is_one_warning_and_none_that_allows_is_named() -> None:
    apps = {name: {"upstream": "u"} for name in ("a", "tenant-*", "c", "d", "e")}
    apps["quiet"] = {"upstream": "u", "fallback": EVERY}  # type: ignore[dict-item]
    ((path, message),) = warned(apps)
    assert path == "apps"
    assert '(apps: a, "tenant-*", c and 2 more)' in message


def test_a_method_named_in_hook_types_is_no_cause_for_a_warning() -> None:
    loaded = loads(BACKEND + "apps: {a: {upstream: u, methods: {Zebra: {}}}}\nhook_types: {Zebra: event}\n")
    assert warnings_of(loaded) == []
