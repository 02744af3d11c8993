"""A target that is closed to an app is so at all workers, and to no other app."""

from __future__ import annotations

import math

from gateway.policy.breaker import BreakerSettings
from gateway.policy.shared import SharedBreaker
from gateway.upstreams.admission import Admission, EjectionScope
from tests.policy.shared.workers import Workers, workers

SETTINGS = BreakerSettings(failures=4, window=60.0, open_for=5.0)


def attach(running: Workers) -> list[Admission]:
    made = []
    for memory in running.memories:
        admission = Admission(SharedBreaker.attach(memory, "target u http://a"))
        admission.configure(SETTINGS, shared=True)
        made.append(admission)
    return made


def hang(admission: Admission, app: str, now: float) -> EjectionScope:
    """A hook of this app is taken there and left without an answer."""
    ticket = admission.admit(app, now)
    assert ticket is not None
    return admission.failed(ticket, app, now, reached=True, hard=False, silent_since=math.inf)


def answer(admission: Admission, app: str, now: float) -> None:
    ticket = admission.admit(app, now)
    assert ticket is not None
    admission.succeeded(ticket, app, now)


def test_an_app_s_hooks_that_hang_at_all_workers_close_the_target_to_it_everywhere_and_to_no_other() -> None:
    with workers(2) as running:
        one, other = attach(running)
        assert [hang(each, "a", running.now) for each in (one, other, one, other)] == [
            *(EjectionScope.NONE, EjectionScope.NONE, EjectionScope.NONE),
            EjectionScope.APP,
        ]
        assert [each.admit("a", running.now) for each in (one, other)] == [None, None]
        for each in (one, other):
            answer(each, "b", running.now)
        running.advance(SETTINGS.open_for)
        assert one.ready("a", running.now)
        probe = one.admit("a", running.now)
        assert probe is not None
        assert other.admit("a", running.now) is None
        one.succeeded(probe, "a", running.now)
        for each in (one, other):
            answer(each, "a", running.now)
        assert all(each.admits_all(running.now) for each in (one, other))


def test_an_answer_at_one_worker_ends_the_row_of_an_app_at_another() -> None:
    with workers(2) as running:
        one, other = attach(running)
        for _ in range(3):
            assert hang(one, "a", running.now) is EjectionScope.NONE
        answer(other, "a", running.now)
        assert [hang(one, "a", running.now) for _ in range(4)][-1] is EjectionScope.APP
        assert other.admit("a", running.now) is None, "it looks again"


def test_an_operator_s_restoration_opens_it_to_every_app() -> None:
    with workers(2) as running:
        one, other = attach(running)
        for _ in range(4):
            hang(one, "a", running.now)
        assert other.admit("a", running.now) is None
        for each in (one, other):
            each.restore(running.now)
        for each in (one, other):
            answer(each, "a", running.now)


def test_a_worker_that_has_the_target_no_more_leaves_it_to_the_others() -> None:
    with workers(2) as running:
        one, other = attach(running)
        for _ in range(4):
            hang(one, "a", running.now)
        assert other.admit("a", running.now) is None
        one.leave()
        assert other.admit("a", running.now) is None
        assert other.ejected_apps(running.now).keys() == {"a"}
