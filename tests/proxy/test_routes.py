"""Which app serves an appKey, judged by a naive reading of the same rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import App, Config, loads
from gateway.model.decision import OTHER_METHOD
from gateway.model.hooks import CATALOGUE
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.retry import Retry, RetryOn
from gateway.policy.rules.globs import is_glob
from gateway.policy.rules.matcher import Rule, Rules
from gateway.proxy.routes import Route, Table, route_upstreams

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 15.0
"""Seconds for look-ups that a good matcher does in milliseconds and a backtracking one not in an hour."""


def matches(glob: str, text: str) -> bool:
    """``*`` is any run of characters, ``?`` any one: the definition, spelt out."""
    reachable = {0}
    for char in glob:
        if char == "*":
            reachable = set(range(min(reachable), len(text) + 1)) if reachable else set()
        else:
            reachable = {at + 1 for at in reachable if at < len(text) and char in ("?", text[at])}
    return len(text) in reachable


def table_of(*names: str, **rest: Any) -> Table:
    return Table(Config.model_validate({"apps": {name: {"static": "reject"} for name in names}, **rest}))


def app_of(table: Table, app_key: str, method: str = "OnCallEvent") -> str | None:
    found = table.find(app_key, method)
    return None if found is None else found[0].name


def route_for(table: Table, app_key: str, method: str) -> Route:
    found = table.find(app_key, method)
    assert found is not None
    return found[1]


names = st.text("ab.*?", min_size=1, max_size=6)
app_keys = st.text("ab.\n", min_size=1, max_size=8) | st.text("ab*?", min_size=1, max_size=4)


@given(st.sets(names, min_size=1, max_size=8), app_keys)
def test_the_exact_name_wins_and_then_the_longest_glob_that_matches(apps: set[str], app_key: str) -> None:
    found = app_of(table_of(*sorted(apps)), app_key)
    globs = [name for name in apps if is_glob(name) and matches(name, app_key)]
    if app_key in apps and not is_glob(app_key):
        assert found == app_key
    elif globs:
        assert found in globs
        assert len(found or "") == max(map(len, globs))
    else:
        assert found is None


@given(st.text(max_size=12), st.text(max_size=12))
def test_outside_star_and_question_mark_every_character_stands_for_itself(name: str, app_key: str) -> None:
    literal = "".join(char for char in name if char.isprintable() and char not in "*?")
    for glob in (f"{literal}?*", f"*{literal}?"):
        assert app_of(table_of(glob), app_key) == (glob if matches(glob, app_key) else None)
    assert app_of(table_of(f"*{literal}*"), app_key + literal) == f"*{literal}*"


@pytest.mark.parametrize(
    ("app_key", "served_by"),
    [
        ("tenant-1", "tenant-1"),
        ("tenant-22", "tenant-??"),
        ("tenant-2", "tenant-*"),
        ("tenant-", "tenant-*"),
        ("tenant", "*"),
        ("tenant-x-admin", "tenant-*-admin"),
        ("TENANT-1", "*"),
        ("tenant-??", "tenant-??"),
        ("tenant-1\n", "tenant-??"),
    ],
)
def test_the_rules_by_example(app_key: str, served_by: str) -> None:
    table = table_of("*", "tenant-*", "tenant-??", "tenant-*-admin", "tenant-1")
    assert app_of(table, app_key) == served_by


def test_an_app_key_that_reads_like_a_glob_matches_only_what_the_glob_matches() -> None:
    assert app_of(table_of("a?"), "a*") == "a?"
    assert app_of(table_of("a*"), "*") is None


def test_of_ten_thousand_prefixes_each_finds_its_own() -> None:
    table = table_of(*(f"tenant-{number}-*" for number in range(10_000)))
    assert app_of(table, "tenant-77-x") == "tenant-77-*"
    assert app_of(table, "tenant-7") is None


def test_no_app_key_however_long_keeps_the_matcher_busy() -> None:
    script = (
        "import sys; from gateway.config import Config; from gateway.proxy.routes import Table\n"
        "table = Table(Config.model_validate({'apps': {'*a*a*a*a*b': {'static': 'reject'}}}))\n"
        "print(table.find('a' * 250_000, 'connect'), table.find('a' * 250_000 + 'b', 'connect') is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split() == ["None", "True"]


def test_without_a_match_no_app_serves_unless_the_configuration_names_one() -> None:
    assert app_of(table_of("a", "b*"), "c") is None
    named = table_of("a", "b*", unknown_app="b*")
    assert app_of(named, "c") == "b*"
    assert app_of(named, "a") == "a"


CONFIG = """
upstreams: {one: {url: http://one/}, two: {url: http://two/}}
defaults: {timeout: 4s, fallback: {timeout: allow}}
apps:
  plain: {upstream: one}
  full:
    upstream: one
    timeout: 2s
    fallback: {overload: allow}
    methods:
      OnCallEvent: {timeout: 1500ms}
      connect: {fallback: reject}
      Own: {}
  blocked: {static: reject}
  open: {static: allow}
hook_types: {Listed: event}
"""


def test_a_route_holds_what_the_method_sets_then_the_app_then_the_defaults() -> None:
    table = Table(loads(CONFIG).config)
    expected = {
        ("plain", "OnCallEvent"): ("plain", "one", None, 4.0, Fallback(frozenset({Cause.TIMEOUT}))),
        ("full", "call"): ("full", "one", None, 2.0, Fallback(frozenset({Cause.OVERLOAD}))),
        ("full", "OnCallEvent"): ("full", "one", None, 1.5, Fallback(frozenset({Cause.OVERLOAD}))),
        ("full", "connect"): ("full", "one", None, 2.0, Fallback()),
        ("full", "Own"): ("full", "one", None, 2.0, Fallback(frozenset({Cause.OVERLOAD}))),
    }
    found = {key: (app_of(table, *key), *msgspec.structs.astuple(route_for(table, *key))[:4]) for key in expected}
    assert found == expected


LIMITS = """
server: {workers: 2}
upstreams: {u: {url: "http://127.0.0.1:1/x", retry: {attempts: 3}}}
apps:
  plain: {upstream: u}
  limited:
    upstream: u
    max_in_flight: 5
    dedupe: off
    retry: {attempts: 1}
    methods:
      call: {dedupe: 2s, retry: {attempts: 4, on: [reset]}}
"""


@pytest.mark.parametrize(
    ("app", "method", "retry", "dedupe", "limit"),
    [
        ("plain", "OnCallEvent", Retry(3), 10.0, None),
        ("plain", "connect", Retry(3), 10.0, None),
        ("plain", "CallStatusEvent", Retry(3), None, None),
        ("limited", "OnCallEvent", Retry(1), None, 5),
        ("limited", "call", Retry(4, frozenset({RetryOn.RESET})), 2.0, 5),
    ],
)
def test_a_route_holds_retry_repeats_and_the_limit_of_all_workers(
    app: str, method: str, retry: Retry, dedupe: float | None, limit: int | None
) -> None:
    route = route_for(Table(loads(LIMITS).config), app, method)
    assert (route.retry, route.dedupe, route.max_in_flight) == (retry, dedupe, limit)


def test_a_static_app_has_its_verdict_and_no_upstream() -> None:
    table = Table(loads(CONFIG).config)
    for app, verdict in (("blocked", Verdict.REJECT), ("open", Verdict.ALLOW)):
        route = route_for(table, app, "connect")
        assert (route.upstream, route.static) == (None, verdict)


def test_the_routes_for_people_are_the_routes_that_hooks_take() -> None:
    table = Table(loads(CONFIG).config)
    assert table.route_for("full", None) == route_for(table, "full", "call")
    assert table.route_for("full", "connect") == route_for(table, "full", "connect")


@pytest.mark.parametrize(
    ("app_key", "why"),
    [
        ("a", "an app of exactly this name is configured"),
        ("bee", "'b*' is the longest glob that matches"),
        ("c", "no app matches; unknown_app names 'a'"),
    ],
)
def test_the_reason_for_a_route_is_said_in_words(app_key: str, why: str) -> None:
    match = table_of("a", "b*", unknown_app="a").explain(app_key, "connect")
    assert match is not None
    assert match.reason == why


def test_a_hook_that_no_app_serves_has_nothing_to_explain() -> None:
    assert table_of("a").explain("b", "connect") is None


@given(st.lists(st.text(max_size=20), max_size=20))
def test_method_labels_come_from_the_catalogue_and_the_configuration_alone(methods: list[str]) -> None:
    table = Table(loads(CONFIG).config)
    known = {*CATALOGUE, "Own", "Listed"}
    for method in [*methods, *known]:
        assert table.method_label(method) == (method if method in known else OTHER_METHOD)


def test_the_reference_knows_globs() -> None:
    cases = json.loads('[["*","",1],["?","",0],["a*b","ab",1],["a*b","aXb",1],["a*b","abX",0],["a?b","aXb",1]]')
    assert [[glob, text, int(matches(glob, text))] for glob, text, _ in cases] == cases


def test_apps_that_are_configured_alike_share_their_routes_and_no_others_do() -> None:
    table = Table(
        loads(
            "upstreams: {u: {url: http://127.0.0.1:1/x}}\n"
            "defaults: {upstream: u, rules: [{caller: '+49*', verdict: reject}]}\n"
            "apps: {a: {}, b: {upstream: u}, late: {timeout: 9s}, own: {methods: {call: {fallback: allow}}}, proof: "
            "{credentials: {username: u, password: p}}, shut: {rest_client_config: off}}\n"
        ).config
    )
    for method in ("OnCallEvent", "connect", "call"):
        usual = route_for(table, "a", method)
        assert route_for(table, "b", method) is usual
        for other in ("late", "proof", "shut"):
            assert route_for(table, other, method) != usual
        assert (route_for(table, "own", method) is usual) is (method != "call")
    assert table.find("a", "call") != table.find("b", "call"), "each has its own live state"


BASE: dict[str, Any] = {"upstream": "u", "failover": "w", "failover_on": "timeout"}
DIFFERENT: dict[str, Any] = {
    "upstream": "v",
    "failover": "v",
    "failover_on": "error_status",
    "failover_reserve": "10%",
    "static": "allow",
    "timeout": "1s",
    "fallback": "allow",
    "retry": {"attempts": 3},
    "dedupe": "2s",
    "max_in_flight": 5,
    "rate_limit": "5/s",
    "rules": [{"methods": "event", "verdict": "reject"}],
    "rest_client_config": "enforce",
    "response_check": "repair",
    "event_answers": "strict",
    "spool": {"max_age": "1h"},
    "shadow": {"upstream": "w", "methods": "ErrorEvent"},
    "credentials": {"username": "u", "password": "p"},
    "signature": {"keys": ["k"]},
    "methods": {"event": {"timeout": "1s"}},
}
"""For each key of an app a value that makes a difference to events."""


def test_every_key_of_an_app_has_a_value_that_makes_a_difference() -> None:
    assert set(DIFFERENT) == set(App.model_fields)


@pytest.mark.parametrize("key", DIFFERENT)
def test_apps_that_differ_in_a_key_share_no_route(key: str, tmp_path: Path) -> None:
    own = {} if key == "static" else BASE
    document = {
        "store": {"url": f"sqlite:{tmp_path}/store.db"},
        "upstreams": {name: {"url": f"http://127.0.0.1:1/{name}"} for name in "uvw"},
        "apps": {"usual": BASE, "other": {**own, key: DIFFERENT[key]}},
    }
    table = Table(loads(json.dumps(document)).config)
    assert route_for(table, "other", "ErrorEvent") != route_for(table, "usual", "ErrorEvent")


# --- rules ---

RULED = """
upstreams: {u: {url: "http://h"}, v: {url: "http://i"}}
defaults: {rules: [{callee: "112", verdict: allow}, {callee: "9*", upstream: v}]}
apps:
  plain: {upstream: u}
  own: {upstream: u, rules: [{name: spam, caller: "1", verdict: reject}]}
  other: {upstream: u, rules: [{name: spam, caller: "2", verdict: reject}]}
  static: {static: reject, rules: [{name: spam, caller: "1", verdict: allow}]}
  twin: {upstream: u, rules: [{name: spam, caller: "1", verdict: allow}]}
  bare: {static: reject}
"""


@pytest.mark.parametrize(
    ("app", "found"),
    [
        ("plain", [None, "defaults.rules[0]", "defaults.rules[1]"]),
        ("own", ["spam", "defaults.rules[0]", "defaults.rules[1]"]),
        ("other", [None, "defaults.rules[0]", "defaults.rules[1]"]),
        ("static", ["spam", "defaults.rules[0]", None]),
        ("twin", ["spam", "defaults.rules[0]", "defaults.rules[1]"]),
        ("bare", [None, "defaults.rules[0]", None]),
    ],
)
def test_an_app_has_its_own_rules_then_those_of_defaults_that_it_can_follow(app: str, found: list[str | None]) -> None:
    rules = route_for(Table(loads(RULED).config), app, "OnCallEvent").rules
    assert rules is not None
    hooks = (("1", None), ("3", "112"), ("3", "99"))
    met = [rules.match(caller, callee, "OnCallEvent", 0) for caller, callee in hooks]
    assert [None if rule is None else rule.name for rule in met] == found


def test_the_rules_of_defaults_are_compiled_once_for_all_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 10,000 blocked numbers, copied for each of 1,000 tenants, would be gigabytes."""
    filed: list[str] = []
    file = Rules._file

    def noted(self: Rules, place: int, rule: Rule, *more: Any) -> Any:
        filed.append(rule.name)
        return file(self, place, rule, *more)

    monkeypatch.setattr(Rules, "_file", noted)
    Table(loads(RULED).config)
    assert sorted(filed) == ["defaults.rules[0]"] * 2 + ["defaults.rules[1]"] * 2 + ["spam"] * 4
    # Twice: the first one for static apps too, the second, which names an upstream, for events by itself.


def test_a_route_knows_the_upstreams_of_all_its_rules() -> None:
    table = Table(loads(RULED).config)
    asked = [route_upstreams(route_for(table, app, "OnCallEvent")) for app in ("plain", "own", "static")]
    assert asked == [{"u", "v"}, {"u", "v"}, set()]


def test_the_names_of_rules_are_those_of_the_app_and_of_defaults() -> None:
    names = Table(loads(RULED).config).rules
    pairs = [("own", "spam"), ("own", "defaults.rules[0]"), ("plain", "spam"), ("gone", "defaults.rules[0]")]
    assert [pair in names for pair in pairs] == [True, True, False, False]
