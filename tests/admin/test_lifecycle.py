"""The phases of the process, and what an operator's drain does to them."""

from __future__ import annotations

from gateway.admin.lifecycle import Lifecycle, Phase


def test_the_phases_go_one_way() -> None:
    lifecycle = Lifecycle()
    assert (lifecycle.phase, lifecycle.ending) == (Phase.STARTING, False)
    lifecycle.ready()
    assert (lifecycle.phase, lifecycle.ending) == (Phase.READY, False)
    lifecycle.drain()
    assert (lifecycle.phase, lifecycle.ending) == (Phase.DRAINING, True)
    lifecycle.ready()
    lifecycle.drain_for_operator(on=False)
    assert (lifecycle.phase, lifecycle.ending) == (Phase.DRAINING, True), "the end cannot be undone"


def test_an_operator_s_drain_can_be_undone() -> None:
    lifecycle = Lifecycle()
    lifecycle.ready()
    lifecycle.drain_for_operator(on=True)
    assert (lifecycle.phase, lifecycle.drained, lifecycle.ending) == (Phase.DRAINING, True, False)
    lifecycle.drain_for_operator(on=False)
    assert (lifecycle.phase, lifecycle.drained) == (Phase.READY, False)


def test_a_drain_before_the_start_takes_effect_when_hooks_are_served() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain_for_operator(on=True)
    assert (lifecycle.phase, lifecycle.drained) == (Phase.STARTING, True)
    lifecycle.ready()
    assert lifecycle.phase is Phase.DRAINING
