"""What ``gateway check`` and ``gateway explain`` say about rules, splits, limits, shadows and rejections."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from gateway.policy.split import Share, Split
from tests.support.command_line import invoke

CONFIG: Final = """\
upstreams: {php: {url: http://h}, new: {url: http://i}, other: {url: http://j, retry: {attempts: 3}}}
defaults: {rules: [{callee: "112", verdict: allow}]}
apps:
  split:
    upstream: [{name: php, weight: 95}, {name: new, weight: 5}]
    failover: [new, other]
    failover_on: [unreachable, timeout]
    fallback: {unreachable: {allow: {callee: "1000"}}}
    rest_client_config: enforce
    response_check: repair
    rate_limit: 50/s burst 100
    rules:
      - {name: spam, caller: "+4930123*", verdict: reject}
      - {methods: OnCallEvent, time: "Mon-Fri 22:00-06:00 Europe/Berlin", upstream: other}
    shadow: {upstream: other, sample: 25%, compare: body, ignore: [ts]}
    methods:
      connect: {shadow: off}
      OnMessageEvent: {response_check: off, failover_on: error_status}
  plain: {upstream: php, rest_client_config: off}
  usual: {upstream: php}
  half: {upstream: php, rest_client_config: {mode: enforce, methods: {call: {restOnError: FAIL}}}}
  others: {upstream: php, rest_client_config: {methods: {call: {restOnError: FAIL}}}}
  open: {static: allow}
  guarded: {static: allow, rules: [{caller: "*13", verdict: reject}]}
server: {workers: 4}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


def gateway(*args: str | Path, stdin: bytes = b"") -> str:
    result = invoke(*args, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def checked(config: Path) -> dict[str, list[str]]:
    return blocks_of(gateway("check", "-c", config))


def blocks_of(said: str) -> dict[str, list[str]]:
    """The blocks below the table by their first lines."""
    blocks = said.rstrip("\n").split("\n\n")[1:]
    return {block.splitlines()[0]: [line.strip() for line in block.splitlines()[1:]] for block in blocks}


def explained(config: Path, app_key: str, method: str = "OnCallEvent", *args: str, **fields: str) -> dict[str, str]:
    """The first word of each line and the rest of it."""
    hook = {"appKey": app_key, "nodeId": "n", "sessionId": "s", **fields}
    out = gateway("explain", "-", "-m", method, "-c", config, *args, stdin=json.dumps(hook).encode())
    return {
        key: rest
        for line in out.splitlines()
        if not line.startswith(" ")
        for key, rest in [(line[:10].strip(), line[10:])]
    }


# --- check ---


EVENTS = "rules with a verdict and without methods do not apply to events, which go to the backend"


def test_what_an_app_sets_is_told_below_the_table_and_what_it_inherits_once(config: Path) -> None:
    blocks = checked(config)
    assert list(blocks)[:3] == ["defaults", "split", "guarded"]
    assert blocks["defaults"] == ["rules         defaults.rules[0]: callee 112: allow", EVENTS]
    assert blocks["split"] == [
        "rules         spam: caller +4930123*: reject",
        "rules[1]: method OnCallEvent, time Mon-Fri 22:00-06:00 Europe/Berlin: upstream other",
        EVENTS,
        "split         php 95%, new 5%; a session stays with its upstream",
        "failover      new then other",
        "on timeout, unreachable; 40% of the budget is reserved for failover",
        "rate limit    50/s burst 100; above it, overload",
        "answers       repair: a byte-order mark and PHP notices around the JSON object are removed",
        "shadow        other gets copies of OnCallEvent, OnMessageEvent, OnTransferEvent in 25% of the sessions; "
        "verdicts and bodies are compared, except ts",
        "connect:      shadow: off",
        "OnMessageEvent: failover: on error_status",
        "OnMessageEvent: answers: off: any 200 is valid, with any body",
    ]


def test_it_says_where_the_media_server_takes_what_a_fallback_changes(config: Path) -> None:
    (told,) = [lines for head, lines in checked(config).items() if "a field that a fallback changes" in head]
    suggested = "OnCallEvent: {restOnError: FAIL, restPolicy: OVERWRITE, restOverwrite: callee}"
    assert told[1:] == [
        f"split: callee: left to the backend; rest_client_config: {{mode: enforce, methods: {{{suggested}}}}} adds this"
    ]
    enforced = CONFIG.replace(
        "rest_client_config: enforce", f"rest_client_config: {{mode: enforce, methods: {{{suggested}}}}}"
    )
    config.write_text(enforced)
    (told,) = [lines for head, lines in checked(config).items() if "a field that a fallback changes" in head]
    assert told[1:] == ["split: callee: the gateway adds this to connect answers"]
    assert explained(config, "split")["changed"].endswith("; rest_client_config: enforce adds this")


def test_explain_shows_the_answer_the_failures_and_the_time_that_is_kept(config: Path) -> None:
    told = explained(config, "split", "call", sessionId="a")
    first = told["upstream"].split(" ")[0]
    assert told["failover"].endswith(
        f"when {first} is unreachable or times out; both upstreams may then process the same hook "
        "(apps.split.failover_on)"
    )
    assert told["reserve"] == f"40% of the budget is reserved for failover: {first} has 1.8s"
    assert "restOverwrite=callee" in told["changed"]
    hook = json.dumps({"appKey": "split"}).encode()
    assert 'unreachable: allow with callee="1000"' in gateway("explain", "-", "-c", config, stdin=hook)
    assert "reserve" not in explained(config, "split", "OnMessageEvent")
    assert "may then process" not in explained(config, "plain").get("failover", "")
    assert "no fields from the answer to an event" in explained(config, "split", "CallStatusEvent")["changed"]


def test_the_table_has_every_share(config: Path) -> None:
    table = gateway("check", "-c", config).split("\n\n", maxsplit=1)[0].splitlines()
    assert re.split(r" {2,}", table[2])[:4] == ["split", "(any)", "php 95%, new 5%", "3s"]


def test_it_says_what_a_reject_of_a_call_comes_to_app_by_app(config: Path) -> None:
    blocks = checked(config)
    head = "A reject of OnCallEvent stops the call only if the session's connect answer set restOnError=FAIL for it:"
    left = "left to their backends"
    assert blocks[head] == [
        "enforce  split: the gateway adds it to their connect answers",
        "enforce  half: the gateway adds the methods under rest_client_config.methods, "
        "but OnCallEvent is not listed there",
        f"off      plain: {left}, and not checked",
        f"warn     usual, guarded: {left}; the gateway counts connect answers without it, and ineffective rejections",
        f"warn     others: {left}; the gateway checks the methods under rest_client_config.methods, "
        "but OnCallEvent is not listed there",
        "rest_client_config: enforce makes rejects stop calls with any connect answer of the backend.",
    ]


def test_where_every_refusal_counts_or_nobody_refuses_nothing_is_advised(config: Path) -> None:
    config.write_text("upstreams: {u: {url: http://h}}\napps: {a: {upstream: u, rest_client_config: enforce}}\n")
    assert "makes rejects stop calls" not in gateway("check", "-c", config)
    config.write_text("apps: {a: {static: allow}, b: {static: reject}}\n")
    assert "OnCallEvent" not in gateway("check", "-c", config)


def test_many_apps_are_named_by_the_first_of_them(config: Path) -> None:
    apps = "".join(f"  app{number}: {{}}\n" for number in range(1000))
    config.write_text("upstreams: {u: {url: http://h}}\ndefaults: {upstream: u, rate_limit: 5/s}\napps:\n" + apps)
    said = gateway("check", "-c", config)
    blocks = blocks_of(said)
    assert list(blocks)[:1] == ["defaults"]
    assert len(blocks) == 3
    assert "warn     app0, app1, app2, app3, app4, app5, app6, app7 and 992 more: " in said


def test_the_record_is_told(config: Path, tmp_path: Path) -> None:
    config.write_text("record: {path: f, sample: 10%, failures_only: true}\napps: {a: {static: allow}}\n")
    assert list(checked(config)) == [f"10% of the sessions' hooks that failed recorded in {tmp_path / 'f'}"]


def test_the_spool_of_each_level_is_told(config: Path) -> None:
    config.write_text(
        "store: {url: 'sqlite:store.db'}\n"
        "defaults: {upstream: u, spool: {max_age: 36h, max_size: 1536KiB, attempts: 1}}\n"
        "upstreams: {u: {url: http://h}}\n"
        "apps: {a: {methods: {event: {spool: on}}}, b: {spool: off}}\n"
    )
    blocks = checked(config)
    assert blocks["defaults"] == [
        "spool         an event that cannot be delivered is kept for 36h, in at most 1536KiB for the app; a dead "
        "letter after 1 failed attempt of its own"
    ]
    assert blocks["a"] == [
        "event:        spool: an event that cannot be delivered is kept for 24h, in at most 1GiB for the app; a dead "
        "letter after 10 failed attempts of its own"
    ]
    assert blocks["b"] == ["spool         off: an event that cannot be delivered is lost"]


# --- explain ---


def test_explain_shows_what_is_kept_of_an_event_and_of_the_decision(config: Path) -> None:
    kept = "store: {url: 'sqlite:store.db'}\nhistory: {keep: 90d, bodies: failures}\n"
    config.write_text(kept + CONFIG.replace("  plain: {upstream: php,", "  plain: {upstream: php, spool: on,"))
    event = explained(config, "plain", "CallStatusEvent")
    assert event["spool"].startswith("an event that cannot be delivered is kept for 24h")
    assert event["spool"].endswith("(apps.plain.spool)")
    assert event["history"] == (
        "the decision is kept for 90d, if allowed as usual for 24h, in at most 2GiB, "
        "with the bodies of failures, masked"
    )
    hook = json.dumps({"appKey": "plain"}).encode()
    told = gateway("explain", "-", "-m", "CallStatusEvent", "-c", config, stdin=hook)
    assert "\n          100ms of the budget are reserved for keeping it\n" in told
    assert "set by the default; only for an event that cannot be kept\n" in told
    assert explained(config, "usual", "CallStatusEvent")["spool"] == (
        "off: an event that cannot be delivered is lost (the default)"
    )
    assert "spool" not in explained(config, "plain", "OnCallEvent")
    config.write_text(CONFIG)
    assert explained(config, "usual", "CallStatusEvent").keys().isdisjoint(("spool", "history"))


def test_the_rule_that_meets_the_hook_is_named_with_its_conditions_and_place(config: Path) -> None:
    told = explained(config, "split", "OnCallEvent", "--at", "2026-11-23T12:00", caller="+49301234567")
    assert told["rule"] == "spam (caller +4930123*): reject; number 1 of 3, matches at 2026-11-23 12:00 UTC"
    assert told["verdict"] == "reject: decided by this rule, no backend is contacted"
    assert "upstream" not in told


@pytest.mark.parametrize(
    ("at", "upstream"),
    [
        ("2026-11-23T21:00", "other (http://j), by rule rules[1]"),
        ("2026-11-23T22:00+01:00", "other (http://j), by rule rules[1]"),
        ("2026-11-23T21:59+01:00", None),
        ("2026-11-22T22:00", None),
    ],
)
def test_a_rule_with_a_time_meets_a_hook_that_comes_then(at: str, upstream: str | None, config: Path) -> None:
    told = explained(config, "split", "OnCallEvent", "--at", at)
    assert (told["upstream"] == upstream) == (upstream is not None)
    assert told["rule"].startswith("none of 3 matches at 2026-11-2" if upstream is None else "rules[1] (method ")
    assert upstream is None or "; number 2 of 3, matches at 2026-11-23 21:00 UTC" in told["rule"]


def test_a_rule_s_upstream_brings_its_own_retry(config: Path) -> None:
    assert explained(config, "split", at := "OnCallEvent", "--at", "2026-11-23T23:00")["retry"].startswith(
        "at most 3 attempts"
    )
    assert explained(config, "split", at, "--at", "2026-11-23T12:00")["retry"].startswith("at most 2 attempts")


def test_a_time_that_is_none_is_bad_usage(config: Path) -> None:
    result = invoke("explain", "-", "-c", config, "--at", "\x1b[2Jlater", stdin=b"{}")
    assert result.exit_code == 2
    assert result.stderr == (
        "gateway: --at '\\x1b[2Jlater': must be a time such as 2026-12-24T22:30 or 2026-12-24T22:30+01:00\n"
    )


@pytest.mark.parametrize("at", ["0001-01-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59", "9999-12-31T23:59-12:00"])
def test_a_time_that_has_no_date_in_every_zone_is_bad_usage(at: str, config: Path) -> None:
    result = invoke("explain", "-", "-c", config, "--at", at, stdin=b'{"appKey":"split"}')
    assert (result.exit_code, result.stderr.splitlines()[0].split(": ")[1]) == (2, f"--at '{at}'")


@pytest.mark.parametrize("at", ["0002-01-01T00:00+14:00", "9998-12-31T23:59-12:00"])
def test_any_other_time_can_be_asked_for(at: str, config: Path) -> None:
    assert explained(config, "split", "OnCallEvent", "--at", at)["rule"]


def test_a_session_is_told_its_share_and_the_others_of_the_app(config: Path) -> None:
    split = Split((Share("php", 95), Share("new", 5)))
    sessions = {split.choose(f"n s{number}"): f"s{number}" for number in range(200)}
    assert set(sessions) == {"php", "new"}
    for name, part, url in (("php", "95%", "http://h"), ("new", "5%", "http://i")):
        told = explained(config, "split", "call", sessionId=sessions[name])
        assert told["upstream"] == (
            f"{name} ({url}): it gets {part} of the sessions (php 95%, new 5%); this session stays there as long as "
            "the weights stay the same"
        )
        others = "other" if name == "new" else "new then other"
        assert told["failover"].startswith(f"{others}, when {name} is unreachable")


def test_a_hook_without_a_session_goes_to_any_share(config: Path) -> None:
    out = gateway("explain", "-", "-m", "call", "-c", config, stdin=b'{"appKey": "split"}')
    assert "upstream  any of them (php 95%, new 5%): the hook names no session\n" in out


def test_rate_answers_and_shadow_are_told(config: Path) -> None:
    noon = ("--at", "2026-11-23T12:00")
    told = explained(config, "split", "OnMessageEvent")
    rate = "50/s burst 100, for this app; above it, the fallback for overload"
    assert told["rate"] == f"{rate} (apps.split.rate_limit)"
    checked_by = "apps.split.methods.OnMessageEvent.response_check"
    assert told["answers"] == f"off: any 200 is valid, with any body ({checked_by})"
    shadow = "other gets copies of OnCallEvent, OnMessageEvent, OnTransferEvent in 25% of the sessions; "
    assert told["shadow"].startswith(shadow)
    assert explained(config, "split", "call")["shadow"].endswith("; this method is not copied")
    assert "shadow" not in explained(config, "split", "connect")
    ends = {
        explained(config, "split", "OnCallEvent", *noon, sessionId=f"s{n}")["shadow"].rpartition("; ")[2]
        for n in range(30)
    }
    assert ends == {"this hook is copied", "this hook is not copied: its session is not in the sample"}


def test_limits_of_a_fleet_are_told_as_such(config: Path) -> None:
    limits = "upstreams: {u: {url: 'http://h'}}\napps: {a: {upstream: u, max_in_flight: 9, rate_limit: 50/s}}\n"
    config.write_text(limits)
    assert explained(config, "a")["limit"] == "9 hooks of this app at once (apps.a.max_in_flight)"
    config.write_text("state: {url: 'redis://h'}\n" + limits)
    told, words = explained(config, "a"), "in the whole fleet: each replica has a share"
    assert told["limit"] == f"9 hooks of this app at once {words} (apps.a.max_in_flight)"
    assert told["rate"].startswith(f"50/s burst 50, for this app {words}; above it, the fallback for overload")


def test_it_is_explained_whether_a_hook_is_recorded(config: Path, tmp_path: Path) -> None:
    apps = "apps: {a: {static: allow}}\n"
    config.write_text(apps)
    assert "record" not in explained(config, "a")
    config.write_text("record: {path: f}\n" + apps)
    assert explained(config, "a")["record"] == f"in {tmp_path / 'f'}"
    config.write_text("record: {path: f, sample: 25%, failures_only: true}\n" + apps)
    only = ", only if no backend, rule or static app decides it"
    assert {explained(config, "a", sessionId=f"s{n}")["record"] for n in range(30)} == {
        f"in {tmp_path / 'f'}: its session is in the sample of 25%{only}",
        "no: its session is not in the sample of 25%",
    }
    out = gateway("explain", "-", "-c", config, stdin=b'{"appKey": "a", "sessionId": null, "callId": ""}')
    assert f"record    in {tmp_path / 'f'} with a chance of 25%: it names no session{only}\n" in out


def test_a_candidate_gets_no_copy_of_what_it_decides_itself(config: Path) -> None:
    told = explained(config, "split", "OnCallEvent", "--at", "2026-11-23T23:00")
    assert told["upstream"] == "other (http://j), by rule rules[1]"
    assert told["shadow"].endswith("; this hook is not copied: the shadow upstream decides it")


@pytest.mark.parametrize(
    ("app_key", "method", "told"),
    [
        ("split", "OnCallEvent", "stopped: .*; rest_client_config: enforce adds this"),
        (
            "split",
            "call",
            ".*; rest_client_config with restOnError=FAIL for call under methods makes rejections stop calls",
        ),
        (
            "usual",
            "OnCallEvent",
            ".*; rest_client_config with mode enforce makes rejections stop calls",
        ),
        (
            "usual",
            "call",
            ".* otherwise it continues; rest_client_config with mode enforce and restOnError=FAIL for call under "
            "methods makes rejections stop calls",
        ),
        ("usual", "connect", "the client's session is declined"),
        ("usual", "CallStatusEvent", "nothing: it has already happened and cannot be rejected"),
    ],
)
def test_what_a_403_does_is_told_with_what_makes_it_count(app_key: str, method: str, told: str, config: Path) -> None:
    assert re.fullmatch(told, explained(config, app_key, method)["on 403"])


@pytest.mark.parametrize(
    ("app_key", "told"),
    [
        ("split", "OnCallEvent.restOnError=FAIL: added to the answer if missing"),
        ("usual", "OnCallEvent.restOnError=FAIL is expected: answers without it are counted and sent unchanged"),
        ("plain", "nothing (rest_client_config is off)"),
    ],
)
def test_what_an_answer_to_connect_sets_is_told(app_key: str, told: str, config: Path) -> None:
    assert explained(config, app_key, "connect")["sets"] == told


def test_where_every_connect_is_refused_no_answer_sets_anything(config: Path) -> None:
    assert "sets" in explained(config, "guarded", "connect", caller="x")
    assert "sets" not in explained(config, "guarded", "connect", caller="x13")
    config.write_text("apps: {shut: {static: reject, rules: [{caller: vip, verdict: allow}]}}\n")
    assert "sets" not in explained(config, "shut", "connect")
    assert "sets" in explained(config, "shut", "connect", caller="vip")


def test_a_static_app_s_rules_come_before_its_verdict(config: Path) -> None:
    assert (
        explained(config, "guarded", caller="x13")["verdict"] == "reject: decided by this rule, no backend is contacted"
    )
    told = explained(config, "guarded", caller="x")
    assert told["verdict"] == "always allow: the app is static, no backend is contacted"
    assert told["rule"].startswith("none of 2 matches at ")
    assert explained(config, "open")["rule"].startswith("the only rule does not match at ")
