"""What processes tell each other: answers survive the way, orders are remembered, reports of one target become one."""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.inquiry import (
    Drain,
    FindCalls,
    FollowCalls,
    HoldTarget,
    Nobody,
    Orders,
    Question,
    ReportTargets,
    decoded,
    encoded,
)
from gateway.journal import Attempt, Call, Found, News, Wanted
from gateway.server.channel import Ask, Channel, Told
from gateway.upstreams.report import Standing, TargetReport, together

CALL: Final = Call(
    "id", "2026-01-01T00:00:00.000Z", "a", "OnCallEvent", None, "s", "c", "*", "*", "allow", "backend", "ok", 200, "",
    "u", "t", 1500.0, 2.5, 2.0, (Attempt("u", "t", 0.1, 2.0, 0.0, "ok", ""),), 5, "It goes on.",
)  # fmt: skip
REPORT: Final = TargetReport(
    "u", "http://t/", "t", Standing.UP, None, None, (), None, 1, 2, 3, 4, 0.5, {7: 2}, 0, None
)  # fmt: skip


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (FindCalls(Wanted(app="a", since=1.5)), Found([CALL], 1, 7, "2026-01-01T00:00:00.000Z")),
        (FollowCalls({5: (3, 4)}, 20), News((5, 6), [CALL], 2)),
        (ReportTargets(), [REPORT, msgspec.structs.replace(REPORT, state=Standing.HELD, last_error=(1.5, "no"))]),
        (HoldTarget("u", "http://t/", held=True), True),
        (Drain(on=False), False),
    ],
)
def test_questions_and_answers_survive_the_way_between_processes(question: Question[Any], told: Any) -> None:
    assert pickle.loads(pickle.dumps(question)) == question
    assert decoded(question, encoded(told)) == told


async def test_where_nobody_decides_hooks_nobody_answers() -> None:
    told = await Nobody().ask(ReportTargets())
    assert (told.by, told.incomplete) == ({}, ())


@pytest.mark.parametrize("size", [0, 1, 15 * 1024, 15 * 1024 + 1, 1_000_000])
async def test_a_long_answer_travels_in_pieces_that_hold_up_nobody(size: int) -> None:
    ours, theirs = socket.socketpair()
    near, far = await Channel.over(ours), await Channel.over(theirs)
    telling = asyncio.create_task(far.tell(3, b"x" * size))
    pieces = []
    async with asyncio.timeout(10):
        while True:
            told = await near.receive()
            assert isinstance(told, Told)
            assert told.number == 3
            assert told.piece is not None
            assert len(told.piece) <= 15 * 1024
            pieces.append(told.piece)
            if told.last:
                break
        await telling
        near.send(Ask(4, ReportTargets()))
        assert await far.receive() == Ask(4, ReportTargets())
    assert b"".join(pieces) == b"x" * size
    near.close()
    far.close()


# --- orders ---
@given(
    st.lists(
        st.one_of(
            st.builds(HoldTarget, st.sampled_from("uv"), st.sampled_from("st"), st.booleans()),
            st.builds(Drain, st.booleans()),
            st.just(ReportTargets()),
        ),
        max_size=20,
    )
)
def test_the_standing_orders_are_those_that_were_not_taken_back(given_orders: list[Question[Any]]) -> None:
    orders = Orders()
    held: set[tuple[str, str]] = set()
    drained = False
    for order in given_orders:
        orders.note(order)
        match order:
            case HoldTarget(upstream, url, on):
                (held.add if on else held.discard)((upstream, url))
            case Drain(on):
                drained = on
    standing = orders.standing()
    assert {(each.upstream, each.url) for each in standing if isinstance(each, HoldTarget) and each.held} == held
    assert [each for each in standing if isinstance(each, Drain)] == ([Drain(on=True)] if drained else [])
    assert len(standing) == len(held) + drained


# --- several processes' reports ---


def test_counts_add_up_and_the_worst_state_brings_its_reason() -> None:
    up = msgspec.structs.replace(REPORT, closed_to=("a",), usual=0.7, last_error=(9.0, "late"))
    early = msgspec.structs.replace(
        REPORT, state=Standing.EJECTED, since=5.0, why="refused", retry_in=3.0, closed_to=("b", "a"),
        ejections=2, times={7: 1, 8: 1}, last_error=(8.0, "early"), workers_ejected=1,
    )  # fmt: skip
    late = msgspec.structs.replace(early, since=6.0, why="reset", retry_in=2.0)
    assert together([up, late, early]) == msgspec.structs.replace(
        REPORT, state=Standing.EJECTED, since=5.0, why="refused", retry_in=2.0, closed_to=("a", "b"),
        in_flight=3, queued=6, connections=9, max_connections=12, usual=0.7, times={7: 4, 8: 2}, ejections=4,
        last_error=(9.0, "late"), workers=3, workers_ejected=2,
    )  # fmt: skip


def test_one_report_is_what_it_was() -> None:
    assert together([REPORT]) == REPORT


@given(st.lists(st.sampled_from(Standing), min_size=1, max_size=5))
def test_states_rank_from_up_to_held(states: list[Standing]) -> None:
    ranking = [Standing.UP, Standing.PARTLY, Standing.PROBING, Standing.EJECTED, Standing.HELD]
    assert together([msgspec.structs.replace(REPORT, state=state) for state in states]).state == max(
        states, key=ranking.index
    )
