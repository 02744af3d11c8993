"""Requests to workers: replies survive the way, actions are remembered, reports of one target become one."""

from __future__ import annotations

import pickle
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.rpc import (
    ActiveActions,
    ApplyShares,
    Drain,
    FindDecisions,
    FollowDecisions,
    HintFailing,
    MeasureDemand,
    NoWorkers,
    ReportTargets,
    RpcRequest,
    SetEjected,
    decode_reply,
    encode_reply,
)
from gateway.fleet.shares import Measured, Share, Shares
from gateway.telemetry.decision_view import Attempt, DecisionFilter, DecisionView
from gateway.telemetry.journal import JournalUpdate, SearchResult
from gateway.upstreams.status import TargetReport, TargetState, merge_reports

CALL: Final = DecisionView(
    "id", "2026-01-01T00:00:00.000Z", "a", "OnCallEvent", None, "s", "c", "*", "*", "allow", "backend", "ok", 200, "",
    "u", "t", 1500.0, 2.5, 2.0, (Attempt("u", "t", 0.1, 2.0, 0.0, "ok", ""),), 5, "It goes on.",
)  # fmt: skip
REPORT: Final = TargetReport(
    "u", "http://t/", "t", TargetState.UP, None, None, (), None, 1, 2, 3, 4, 0.5, {7: 2}, 0, None
)  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (
            FindDecisions(DecisionFilter(app="a", since=1.5)),
            SearchResult([CALL], [(1, "r")], 1, 7, "2026-01-01T00:00:00.000Z"),
        ),
        (FollowDecisions({5: (3, 4)}, 20), JournalUpdate((5, 6), [CALL], 2)),
        (
            ReportTargets(),
            [REPORT, msgspec.structs.replace(REPORT, state=TargetState.EJECTED_BY_OPERATOR, last_error=(1.5, "no"))],
        ),
        (SetEjected("u", "http://t/", ejected=True), True),
        (HintFailing("u", "http://t/"), True),
        (Drain(on=False), False),
        (MeasureDemand(), {"rate:a": Measured(100.0, 12.5), "connections:u:1": Measured(64.0, 3.0, 2.0)}),
        (ApplyShares(Shares(4, {"rate:a": Share(70.0, 100.0)})), True),
    ],
)
def test_requests_and_replies_survive_the_way_between_processes(request_: RpcRequest[Any], reply: Any) -> None:
    assert pickle.loads(pickle.dumps(request_)) == request_
    assert decode_reply(request_, encode_reply(reply)) == reply


async def test_a_process_without_workers_gets_no_replies() -> None:
    replies = await NoWorkers().ask(ReportTargets())
    assert (replies.by_pid, replies.incomplete) == ({}, ())


# --- actions ---


@given(
    st.lists(
        st.one_of(
            st.builds(SetEjected, st.sampled_from("uv"), st.sampled_from("st"), st.booleans()),
            st.builds(Drain, st.booleans()),
            st.builds(ApplyShares, st.builds(Shares, st.integers(1, 3))),
            st.just(ReportTargets()),
        ),
        max_size=20,
    )
)
def test_the_actions_in_force_are_those_that_no_later_one_ended(given_actions: list[RpcRequest[Any]]) -> None:
    actions = ActiveActions()
    ejected: set[tuple[str, str]] = set()
    drained, shares = False, list[Shares]()
    for action in given_actions:
        actions.record(action)
        match action:
            case SetEjected(upstream, url, on):
                (ejected.add if on else ejected.discard)((upstream, url))
            case Drain(on):
                drained = on
            case ApplyShares(given):
                shares = [given]
    in_force = actions.in_force()
    assert {(each.upstream, each.url) for each in in_force if isinstance(each, SetEjected) and each.ejected} == ejected
    assert [each for each in in_force if isinstance(each, Drain)] == ([Drain(on=True)] if drained else [])
    assert [each.shares for each in in_force if isinstance(each, ApplyShares)] == shares
    assert len(in_force) == len(ejected) + drained + len(shares)


# --- several processes' reports ---


def test_counts_add_up_and_the_worst_state_brings_its_reason() -> None:
    up = msgspec.structs.replace(REPORT, ejected_for=("a",), latency=0.7, last_error=(9.0, "late"))
    early = msgspec.structs.replace(
        REPORT, state=TargetState.EJECTED, since=5.0, reason="refused", retry_in=3.0, ejected_for=("b", "a"),
        ejections=2, times={7: 1, 8: 1}, last_error=(8.0, "early"), workers_ejected=1,
    )  # fmt: skip
    late = msgspec.structs.replace(early, since=6.0, reason="reset", retry_in=2.0)
    assert merge_reports([up, late, early]) == msgspec.structs.replace(
        REPORT, state=TargetState.EJECTED, since=5.0, reason="refused", retry_in=2.0, ejected_for=("a", "b"),
        in_flight=3, queued=6, connections=9, max_connections=12, latency=0.7, times={7: 4, 8: 2}, ejections=4,
        last_error=(9.0, "late"), workers=3, workers_ejected=2,
    )  # fmt: skip


def test_one_report_is_what_it_was() -> None:
    assert merge_reports([REPORT]) == REPORT


@given(st.lists(st.sampled_from(TargetState), min_size=1, max_size=5))
def test_states_rank_from_up_to_held(states: list[TargetState]) -> None:
    ranking = [
        TargetState.UP,
        TargetState.PARTLY,
        TargetState.PROBING,
        TargetState.EJECTED,
        TargetState.EJECTED_BY_OPERATOR,
    ]
    assert merge_reports([msgspec.structs.replace(REPORT, state=state) for state in states]).state == max(
        states, key=ranking.index
    )
