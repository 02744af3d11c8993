"""A target's breakers where apps share it: one tenant's silence closes it to that tenant and to no other."""

from __future__ import annotations

import pytest

from gateway.policy.breaker import BreakerSettings
from gateway.upstreams.admission import Admission, EjectionScope, Ticket

FAILURES = 3
OPEN_FOR = 5.0


@pytest.fixture
def admission() -> Admission:
    made = Admission()
    made.configure(BreakerSettings(FAILURES, 10.0, OPEN_FOR), shared=True)
    return made


def admitted(admission: Admission, tenant: str, now: float) -> Ticket:
    ticket = admission.admit(tenant, now)
    assert ticket is not None
    return ticket


def fail(admission: Admission, tenant: str, now: float, *, reached: bool, times: int = FAILURES) -> list[EjectionScope]:
    return [
        admission.record_failure(admitted(admission, tenant, now), tenant, now, reached=reached, hard=not reached)
        for _ in range(times)
    ]


def test_hooks_left_without_an_answer_close_the_target_to_their_tenant_alone(admission: Admission) -> None:
    assert fail(admission, "a", 1.0, reached=True) == [EjectionScope.NONE, EjectionScope.NONE, EjectionScope.APP]
    assert admission.admit("a", 1.0) is None
    assert admission.ready("b", 1.0)
    assert not admission.admits_all(1.0)
    assert [admission.is_ejected_for(tenant, 1.0) for tenant in "ab"] == [True, False]
    assert not admission.is_ejected(1.0)


def test_a_target_that_cannot_be_connected_to_is_closed_to_all(admission: Admission) -> None:
    fail(admission, "a", 1.0, reached=False)
    assert admission.admit("a", 1.0) is None
    assert admission.admit("b", 1.0) is None


def test_where_nobody_shares_the_target_every_failure_is_its_own(admission: Admission) -> None:
    admission.configure(BreakerSettings(FAILURES, 10.0, OPEN_FOR), shared=False)
    fail(admission, "a", 1.0, reached=True)
    assert admission.admit("b", 1.0) is None


def test_one_probe_of_the_tenant_s_goes_through_when_its_wait_is_over(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=True)
    assert admission.admit("a", OPEN_FOR - 0.1) is None
    admitted(admission, "a", OPEN_FOR)
    assert admission.admit("a", OPEN_FOR) is None


def test_a_tenant_s_success_opens_the_target_to_it_again(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=True)
    admission.record_success(admitted(admission, "a", OPEN_FOR), "a", OPEN_FOR)
    assert admission.admits_all(OPEN_FOR)
    assert fail(admission, "a", OPEN_FOR, reached=True, times=FAILURES - 1) == [EjectionScope.NONE] * (FAILURES - 1)


def test_a_success_between_makes_a_tenant_s_failures_no_row(admission: Admission) -> None:
    for now in range(4):
        fail(admission, "a", float(now), reached=True, times=FAILURES - 1)
        admission.record_success(admitted(admission, "a", float(now)), "a", float(now))
    assert admission.admits_all(5.0)


def test_a_probe_that_was_cancelled_leaves_its_place_to_the_next(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=True)
    admission.record_abandoned(admitted(admission, "a", OPEN_FOR), "a", OPEN_FOR)
    admitted(admission, "a", OPEN_FOR)


def test_the_last_resort_is_a_probe_per_tenant_and_wait(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=True)
    assert admission.admit_last("a", OPEN_FOR - 0.1) is None
    assert admission.admit_last("a", OPEN_FOR) is not None
    assert admission.admit_last("a", OPEN_FOR) is None


def test_a_last_resort_that_the_common_breaker_refuses_costs_the_tenant_nothing(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=True)
    fail(admission, "b", OPEN_FOR, reached=False)
    assert admission.admit_last("a", OPEN_FOR + 1) is None
    assert admission.admit_last("a", 2 * OPEN_FOR) is not None


def test_a_common_probe_that_is_left_without_an_answer_keeps_the_target_closed_to_all(admission: Admission) -> None:
    fail(admission, "a", 0.0, reached=False)
    ticket = admitted(admission, "b", OPEN_FOR)
    assert admission.record_failure(ticket, "b", OPEN_FOR, reached=True, hard=False) is EjectionScope.ALL
    assert admission.admit("c", OPEN_FOR) is None
