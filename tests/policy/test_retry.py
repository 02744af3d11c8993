"""When a failed hook may be tried again, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.verdicts import Cause, Failure, ProxyError
from gateway.policy.retry import MIN_LEFT, Retry, RetryOn, attempt_budget, may_retry, retry_kind

ALL = frozenset(RetryOn)
SECONDS = st.floats(0, 100)
RETRIES = st.builds(Retry, st.integers(1, 6), st.frozensets(st.sampled_from(RetryOn)))
KINDS = st.none() | st.sampled_from(RetryOn)


def failure(cause: Cause) -> Failure:
    return Failure(cause, ProxyError.PROXY_INTERNAL_ERROR, "it failed")


def test_the_names_are_those_of_the_configuration() -> None:
    assert [kind.value for kind in RetryOn] == ["connect", "reset", "timeout", "error_status", "bad_answer"]


def test_unless_told_otherwise_a_hook_is_tried_twice_and_only_where_nobody_can_have_acted() -> None:
    assert Retry() == Retry(attempts=2, on=frozenset({RetryOn.CONNECT}))


@pytest.mark.parametrize("cause", Cause)
def test_a_harmless_failure_is_a_connect_whatever_its_cause(cause: Cause) -> None:
    assert retry_kind(failure(cause), retry_safe=True) is RetryOn.CONNECT


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.UNREACHABLE, RetryOn.RESET),
        (Cause.TIMEOUT, RetryOn.TIMEOUT),
        (Cause.ERROR_STATUS, RetryOn.ERROR_STATUS),
        (Cause.BAD_ANSWER, RetryOn.BAD_ANSWER),
        (Cause.OVERLOAD, None),
    ],
)
def test_a_failure_that_may_have_been_acted_on_keeps_its_own_name(cause: Cause, kind: RetryOn | None) -> None:
    assert retry_kind(failure(cause), retry_safe=False) is kind


@given(RETRIES, KINDS, SECONDS, SECONDS, st.integers(0, 3))
def test_never_more_attempts_than_allowed(
    retry: Retry, kind: RetryOn | None, left: float, usual: float, over: int
) -> None:
    assert not may_retry(retry, retry.attempts + over, kind, left, usual)


@given(RETRIES, st.integers(1, 6), KINDS, SECONDS, SECONDS)
def test_only_what_was_asked_for_is_tried_again(
    retry: Retry, made: int, kind: RetryOn | None, left: float, usual: float
) -> None:
    if may_retry(retry, made, kind, left, usual):
        assert kind in retry.on


@given(RETRIES, st.integers(1, 6), KINDS, SECONDS, SECONDS)
def test_a_retry_always_has_the_targets_usual_time_and_ten_milliseconds(
    retry: Retry, made: int, kind: RetryOn | None, left: float, usual: float
) -> None:
    if may_retry(retry, made, kind, left, usual):
        assert left >= max(usual, 0.010)


@pytest.mark.parametrize(("left", "allowed"), [(0.0, False), (0.0099, False), (0.010, True)])
def test_below_ten_milliseconds_nothing_is_tried_though_the_target_is_quick(left: float, allowed: bool) -> None:
    assert may_retry(Retry(), 1, RetryOn.CONNECT, left, usual=0.0) is allowed


@given(st.integers(2, 6), st.sampled_from(RetryOn), SECONDS, SECONDS)
def test_where_nothing_speaks_against_it_a_hook_is_tried_again(
    attempts: int, kind: RetryOn, more: float, usual: float
) -> None:
    assert may_retry(Retry(attempts, ALL), attempts - 1, kind, max(usual, MIN_LEFT) + more, usual)


@given(RETRIES, st.integers(1, 6), KINDS, SECONDS, SECONDS, SECONDS)
def test_more_time_never_forbids_what_less_time_allows(
    retry: Retry, made: int, kind: RetryOn | None, left: float, more: float, usual: float
) -> None:
    if may_retry(retry, made, kind, left, usual):
        assert may_retry(retry, made, kind, left + more, usual)


@given(RETRIES, SECONDS, SECONDS)
def test_a_failure_without_a_kind_is_final(retry: Retry, left: float, usual: float) -> None:
    assert not may_retry(retry, 1, None, left, usual)


@given(st.integers(1, 6), st.integers(0, 8), SECONDS)
def test_an_attempt_has_all_that_is_left_where_slow_ones_are_not_tried_again(
    attempts: int, made: int, left: float
) -> None:
    assert attempt_budget(Retry(attempts, ALL - {RetryOn.TIMEOUT}), made, left) == left


@given(st.integers(1, 6), SECONDS)
def test_the_last_attempt_has_all_that_is_left(attempts: int, left: float) -> None:
    assert attempt_budget(Retry(attempts, ALL), attempts - 1, left) == left


@given(st.integers(1, 6), SECONDS)
def test_attempts_that_all_take_their_time_get_even_shares_and_spend_the_budget_together(
    attempts: int, budget: float
) -> None:
    retry, left, shares = Retry(attempts, ALL), budget, []
    for made in range(attempts):
        shares.append(attempt_budget(retry, made, left))
        left -= shares[-1]
    assert shares == pytest.approx([budget / attempts] * attempts)
    assert left == pytest.approx(0, abs=1e-9)


@given(RETRIES, st.integers(0, 8), SECONDS)
def test_no_attempt_gets_more_than_is_left(retry: Retry, made: int, left: float) -> None:
    assert 0 <= attempt_budget(retry, made, left) <= left
