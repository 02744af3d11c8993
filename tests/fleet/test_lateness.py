"""When callers leave a slow server alone, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.lateness import CALM_AFTER, FIRST_REST, IN_A_ROW, REST, Lateness

HURRY, PATIENT = 0.002, 0.1
limits = st.sampled_from([HURRY, 0.005, PATIENT, 0.3, 1.0])


def slow(limit: float = HURRY, now: float = 100.0) -> Lateness:
    """A server that has just become slow."""
    lateness = Lateness()
    assert [lateness.note_late(limit, now, now) for _ in range(IN_A_ROW)] == [False] * (IN_A_ROW - 1) + [True]
    return lateness


def test_three_in_a_row_and_those_in_such_a_hurry_rest() -> None:
    lateness = slow()
    assert lateness.is_resting(HURRY, 100.0 + FIRST_REST / 2)
    assert lateness.is_resting(HURRY / 2, 100.0 + FIRST_REST / 2)
    assert not lateness.is_resting(PATIENT, 100.0)
    assert not lateness.is_resting(HURRY, 100.0 + FIRST_REST)


def test_a_rest_is_twice_as_long_as_the_one_before_until_an_answer_is_in_time() -> None:
    lateness, now = slow(), 100.0
    for length in (FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST, 8 * FIRST_REST, 16 * FIRST_REST, REST, REST):
        assert lateness.is_resting(HURRY, now + 0.99 * length)
        now += 1.01 * length
        assert not lateness.is_resting(HURRY, now)
        lateness.note_answer(HURRY * 5, now)  # late
        lateness.note_late(HURRY, now, now)
    lateness.note_answer(HURRY / 2, now)
    for _ in range(IN_A_ROW):
        lateness.note_late(HURRY, now + REST, now + REST, 0.5)
    assert lateness.is_resting(HURRY, now + REST + 0.49 * FIRST_REST)
    assert not lateness.is_resting(HURRY, now + REST + 0.51 * FIRST_REST)


def test_an_answer_in_time_between_them_begins_the_row_again() -> None:
    lateness = Lateness()
    for _ in range(10):
        lateness.note_late(HURRY, 0.0, 0.0)
        lateness.note_late(HURRY, 0.0, 0.0)
        lateness.note_answer(HURRY / 2, 0.0)
    assert not lateness.is_resting(HURRY, 0.0)


def test_an_answer_that_was_late_too_does_not() -> None:
    lateness = Lateness()
    for _ in range(IN_A_ROW):
        lateness.note_late(HURRY, 0.0, 0.0)
        lateness.note_answer(HURRY * 5, 0.0)
    assert lateness.is_resting(HURRY, 0.0)


def test_commands_that_were_on_their_way_together_count_once() -> None:
    lateness = Lateness()
    for number in range(100):
        lateness.note_late(HURRY, 1.0 + number / 1e6, 1.002 + number / 1e6)
    assert not lateness.is_resting(HURRY, 1.003)


def test_after_the_rest_one_more_is_enough_and_said_only_once() -> None:
    lateness = slow()
    now = 100.0 + FIRST_REST
    assert not lateness.note_late(HURRY, now, now), "it was slow before"
    assert lateness.is_resting(HURRY, now)


def test_it_is_quick_again_after_a_calm_time() -> None:
    lateness = slow()
    assert not lateness.note_answer(HURRY / 2, 100.0 + CALM_AFTER / 2)
    assert not lateness.note_answer(HURRY * 2, 100.0 + CALM_AFTER * 2), "that was late"
    assert lateness.note_answer(HURRY / 2, 100.0 + CALM_AFTER)
    assert lateness.limit == 0
    assert not lateness.note_answer(HURRY / 2, 100.0 + CALM_AFTER), "it has been said"
    assert slow(now=500.0).limit == HURRY


events = st.lists(
    st.tuples(st.just("late"), limits, st.floats(0, 3))
    | st.tuples(st.just("answer"), st.floats(0, 2), st.floats(0, 3)),
    max_size=40,
)


@given(events=events)
def test_whatever_comes_only_those_rest_for_whom_it_was_late_in_a_row(
    events: list[tuple[str, float, float]],
) -> None:
    lateness, now = Lateness(), 0.0
    last: list[float] = []
    """The limits of the late answers since, for each, one in time."""
    counted, until, said = float("-inf"), 0.0, 0
    resting = 0.0
    for kind, value, wait in events:
        now += wait
        if kind == "late":
            said += lateness.note_late(value, now - value, now)
            if now - value < counted:
                continue
            counted, last = now, [*last, value][-IN_A_ROW:]
            if len(last) == IN_A_ROW:
                resting, until = min(last), now + REST
        else:
            last = [limit for limit in last if limit <= value]
            said -= lateness.note_answer(value, now)
        assert said in (0, 1), "slow and quick take turns"
        for limit in (HURRY, 0.005, PATIENT, 0.3, 1.0):
            if lateness.is_resting(limit, now):
                assert limit <= resting
                assert now < until
        if len(last) == IN_A_ROW:
            assert lateness.is_resting(min(last), until - REST)
