"""What ``gateway status``, ``decisions`` and ``top`` say about this protocol's own matters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.insights import Insights
from gateway.cli import render_insights
from gateway.cli.render_decisions import decision_line
from gateway.model.decision import Decision
from gateway.model.verdicts import Ruling, backend_allow, backend_reject
from gateway.policy.comparison import Difference
from gateway.policy.shadow import ShadowResult
from gateway.telemetry.decision_view import DecisionFormatter
from gateway.telemetry.journal import Journal
from tests.cli.commands import Run, gateway
from tests.support.faulty import FaultyBackend, Turn, added_case, refused_port, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.matters import sections

ESCAPE: Final = "\x1b[2J"
NOTICE: Final = b"<br />\n<b>Notice</b>:  Undefined index: sip in <b>/srv/old.php</b> on line <b>7</b><br />\n"
NAMES: Final = {"ineffective": 1, "client_config": 1, "repaired": 1, "shadow": 2, "split": 2, "failovers": 2} | {
    "ineffective_changes": 1,
    "excluded": 1,
    "rate_limited": 0,
    "rules": 2,
}
"""Labels of each counter after the app."""


def polluted(turn: Turn) -> list[bytes]:
    return [reply(NOTICE + turn.request.body)]


def config(backend: FaultyBackend, refused: int) -> str:
    slow = {"upstream": "well", "rate_limit": "1/m burst 1"}
    return json.dumps(sections(backend, refused, "polluted_cli", {"slow": slow}))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        FaultyBackend() as backend,
        refused_port() as refused,
        added_case("polluted_cli", "A notice, then the hook's own body.", polluted),
        running_gateway(config(backend, refused), tmp_path_factory.mktemp("noted")) as gateway,
    ):
        hooks: list[tuple[str, str, dict[str, str]]] = [
            ("connect", "acme", {}),
            ("OnCallEvent", "acme", {"callId": "ignored"}),
            ("OnCallEvent", "old-php", {"callId": "polluted"}),
            ("OnCallEvent", "ruled", {"caller": "+493012399", "callId": "spammed"}),
            ("OnCallEvent", "canary", {}),
            ("OnCallEvent", "away", {"callId": "elsewhere"}),
            ("OnCallEvent", "slow", {}),
            ("OnCallEvent", "slow", {"callId": "too fast"}),
        ]
        for method, app, fields in hooks:
            gateway.hook(method, body=json.dumps({"appKey": app, "sessionId": f"of {app}", **fields}).encode())
        yield gateway


def ask(running: RunningGateway, *args: str) -> Run:
    return gateway(*args, "--admin", running.admin)


@pytest.mark.parametrize(
    ("option", "call_id", "words"),
    [
        (["--ineffective"], "ignored", "the media server ignores this rejection"),
        (["--repaired"], "polluted", "repaired=before"),
        (["--rule", "spam"], "spammed", "rule/denied .*rule=spam"),
        (["--source", "rule"], "spammed", "rule=spam"),
        (["--app", "away"], "elsewhere", "failed_over_from=gone"),
    ],
)
def test_decisions_are_found_and_shown_by_what_few_of_them_have(
    running: RunningGateway, option: list[str], call_id: str, words: str
) -> None:
    run = ask(running, "decisions", *option)
    (line,) = run.out.splitlines()
    assert (run.status, run.err) == (0, "")
    assert f"call={call_id}" in line
    assert re.search(words, line)


def test_a_filter_of_shadows_that_cannot_be_is_wrong_usage(running: RunningGateway) -> None:
    run = ask(running, "decisions", "--shadow", "other")
    assert run.status == 2
    assert "shadow must be one of differs, match" in run.err
    assert ask(running, "decisions", "--shadow", "differs").out == ""


def test_a_decision_shows_what_was_removed_and_which_rule_matched(running: RunningGateway) -> None:
    def shown(call_id: str) -> str:
        (call,) = running.get("/api/decisions", params={"call_id": call_id}).json()["decisions"]
        return ask(running, "decisions", call["request_id"]).out

    assert re.search(
        r"^repaired +before; removed text:\n.*Notice.*/srv/old\.php", shown("polluted"), re.MULTILINE | re.DOTALL
    )
    assert re.search(r"^rule +spam decided; no backend was contacted$", shown("spammed"), re.MULTILINE)
    assert re.search(r"^failover +from gone, which failed: unreachable$", shown("elsewhere"), re.MULTILINE)
    assert re.search(
        r"^ignored +the media server ignores this rejection; set rest_client_", shown("ignored"), re.MULTILINE
    )


def test_status_has_a_line_for_all_that_is_noteworthy(running: RunningGateway) -> None:
    out = ask(running, "status").out
    for line in (
        r"acme: rejections the media server ignores: .* \(OnCallEvent 1\); set rest_client_config: enforce",
        r"old-php: repaired answers: .* since start \(before 1\); gateway decisions --app old-php --repaired",
        r"ruled: rule spam: .*/s, 1 match since start",
        r"canary: traffic split \(actual\): .* 100\.0 % \(weight [13]\)",
        r"away: gone (is|was) down: .* hooks/s \(1 total\) failed over",
        r"slow: over the rate limit: .*, 1 since start",
    ):
        assert re.search(f"^{line}", out, re.MULTILINE), out


def test_top_has_one_line_of_what_goes_on_now(running: RunningGateway) -> None:
    def is_news() -> bool:
        told = running.get("/api/insights?apps=0").json()
        return bool(told["total"]["ineffective"]["per_second"])

    running.get("/api/insights")  # from now on it is looked at what is counted
    running.hook(appKey="acme", sessionId="of acme", callId="again")
    assert wait_until(is_news, 20)
    assert "rejections/s ignored" in ask(running, "top").out


# --- in words ---


def told(ruling: Ruling, shadow: ShadowResult | None = None) -> dict[str, Any]:
    decision = Decision(ruling, 1.7e9, "id", "a", "OnCallEvent", 1.0, 0.01)
    journal = Journal()
    journal.record(decision)
    call: dict[str, Any] = msgspec.to_builtins(DecisionFormatter(1).format(decision, shadow))
    return call


def test_a_candidate_that_differs_is_told_with_every_difference() -> None:
    shadow = ShadowResult("new", "body_differs", 200, "", 12.5, (Difference("a.b", '"x"', None),))
    call = told(backend_allow(b"{}"), shadow)
    assert "new:body_differs" in decision_line(call).plain
    lines = list(render_insights.details(call))
    assert lines == [("candidate", "new with 200 after 12 ms: body differs"), ("", 'a.b: "x" -> nothing')]


@pytest.mark.parametrize(
    ("mode", "methods", "outcomes", "remedy"),
    [
        ("warn", ["OnCallEvent"], {"missing": 1}, "set rest_client_config: enforce"),
        (
            "warn",
            ["call"],
            {"missing": 1},
            "set rest_client_config: enforce and add OnCallEvent with restOnError: FAIL to rest_client_config.methods",
        ),
        ("enforce", ["call"], {}, "add OnCallEvent with restOnError: FAIL to rest_client_config.methods"),
        ("enforce", ["OnCallEvent"], {"unreadable": 1}, "fix its unreadable connect answers"),
        ("enforce", ["OnCallEvent"], {"enforced": 1}, "wait until its sessions reconnect"),
    ],
)
def test_the_remedy_for_ignored_rejections_is_one_that_helps(
    mode: str, methods: list[str], outcomes: dict[str, int], remedy: str
) -> None:
    counted: Any = {name: {} for name in NAMES} | {"recorded": {}}
    counted["ineffective"] = {("acme", "OnCallEvent"): 1.0}
    counted["client_config"] = {("acme", outcome): float(count) for outcome, count in outcomes.items()}
    told = Insights(counted, [counted], 2.0).as_json(10)
    told["recorded"]["path"] = None
    told["apps"][0]["client_config"] |= {"mode": mode, "methods": methods}
    (line,) = render_insights.notes(told)
    assert line.plain.endswith(f"(OnCallEvent 1); {remedy}")


def test_a_candidate_that_agrees_takes_no_room_in_a_line() -> None:
    call = told(backend_allow(b"{}"), ShadowResult("new", "match", 200, "", 1.0, ()))
    assert render_insights.annotation_text(call).plain == ""


def test_adversarial_nothing_that_was_cut_away_or_compared_steers_the_terminal() -> None:
    ruling = backend_reject().annotate(rule=ESCAPE, repaired="before", cut=ESCAPE * 10, failed_over_from=ESCAPE)
    call = told(ruling, ShadowResult(ESCAPE, ESCAPE, 200, ESCAPE, 1.0, (Difference(ESCAPE, ESCAPE, ESCAPE),)))
    texts = [
        render_insights.annotation_text(call).plain,
        *(text for line in render_insights.details(call) for text in line),
    ]
    assert "\x1b" not in "".join(texts)


counts = st.integers(0, 10**9).map(float)
words = st.text(max_size=20)
totals = st.fixed_dictionaries(
    {name: st.dictionaries(st.tuples(*[words] * (1 + labels)), counts, max_size=4) for name, labels in NAMES.items()}
    | {"recorded": st.dictionaries(st.tuples(st.sampled_from(["written", "dropped"])), counts)}
)


@given(totals, st.none() | words, st.none() | st.sampled_from(["off", "warn", "enforce"]))
def test_whatever_was_counted_is_told_in_printable_lines(totals: Any, path: str | None, mode: str | None) -> None:
    told = Insights(totals, [totals], 2.0).as_json(10)
    told["recorded"]["path"] = path
    for app in told["apps"]:
        app["client_config"] |= {"mode": mode, "methods": ["OnCallEvent"]}
        app["split"] = [{**share, "weight": None} for share in app["split"]]
    lines = render_insights.notes(told)
    assert len(lines) <= 31
    assert all(line.plain.isprintable() for line in lines)
    glance = render_insights.at_a_glance(told)
    now = [figure["per_second"] for name, figure in told["total"].items() if name != "rules"]
    assert (glance is not None) == any([*now, told["recorded"]["dropped"]["per_second"]])
