"""Active health checks: what eject a target and bring it back beside its hooks, and what never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import (
    EMPTY,
    Mode,
    PacedBackend,
    Volley,
    backends,
    hook_body,
    serve,
    take,
    targets,
    volley,
)

APPS = {"a": {"upstream": "u", "timeout": "10s"}}
CHECK = {"path": "/alive", "interval": "300ms", "timeout": "300ms"}
FOREVER = "1h"


@pytest.fixture
def gateway(process: RunningGateway) -> Iterator[RunningGateway]:
    yield process
    take(process, EMPTY)  # ends the checks before their backends


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def checked(*backends: PacedBackend, **health: Any) -> dict[str, dict[str, Any]]:
    """An upstream whose breaker never probes by itself, so that only a check brings a target back."""
    check = {**CHECK, **health}
    return {"u": {"targets": targets(*backends), "breaker": {"open_for": FOREVER}, "health": check}}


def status(gateway: RunningGateway) -> int:
    return volley(gateway, [hook_body("a")])[0].status


def up(gateway: RunningGateway, backend: PacedBackend) -> float:
    return gateway.metric("gateway_target_up", upstream="u", target=backend.name)


def wait_for_checks(backend: PacedBackend, more: int) -> bool:
    asked = len(backend.check_requests)
    return bool(wait_until(lambda: len(backend.check_requests) >= asked + more))


def test_a_check_asks_the_path_it_was_given_on_the_targets_host(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, checked(backend, path="/alive?deep=1"), APPS)
    assert wait_for_checks(backend, 2)
    assert {(request.path, request.headers["host"]) for request in backend.check_requests} == {
        ("/alive?deep=1", backend.name)
    }


def test_a_target_not_checked_yet_counts_as_healthy(gateway: RunningGateway, backend: PacedBackend) -> None:
    backend.checks = lambda number: Mode.HOLD
    serve(gateway, checked(backend, interval="1h", timeout="1h"), APPS)
    assert wait_until(lambda: len(backend.check_requests) == 1)
    assert up(gateway, backend) == 1
    assert status(gateway) == 200


@pytest.mark.parametrize("mode", [Mode.ERROR, Mode.DENY, Mode.HOLD, Mode.RESET])
def test_two_failed_checks_eject_and_one_good_one_restores(
    gateway: RunningGateway, backend: PacedBackend, mode: Mode
) -> None:
    serve(gateway, checked(backend), APPS)
    assert status(gateway) == 200
    backend.checks = lambda number: mode
    assert wait_until(lambda: up(gateway, backend) == 0)
    answer = volley(gateway, [hook_body("a")])[0]
    assert (answer.status, answer.proxy_error, backend.count) == (403, "destination_unavailable", 1)
    assert gateway.metric("gateway_target_ejections_total", target=backend.name) == 1
    number = len(backend.check_requests)
    backend.checks = lambda asked: Mode.OK if asked == number + 2 else mode
    assert wait_until(lambda: up(gateway, backend) == 1)


def test_a_target_that_refuses_connections_is_ejected_and_comes_back(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, checked(backend), APPS)
    backend.kill()
    assert wait_until(lambda: up(gateway, backend) == 0)
    backend.revive()
    assert wait_until(lambda: up(gateway, backend) == 1)
    assert status(gateway) == 200


def test_one_failed_check_between_good_ones_ejects_nobody(gateway: RunningGateway, backend: PacedBackend) -> None:
    backend.checks = lambda number: Mode.ERROR if number % 2 else Mode.OK
    serve(gateway, checked(backend, interval="1s", timeout="1s"), APPS)
    assert wait_for_checks(backend, 5)
    assert gateway.metric("gateway_target_ejections_total", target=backend.name) == 0
    assert status(gateway) == 200


def test_a_status_other_than_the_expected_one_fails_the_check(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, checked(backend, expect=403), APPS)
    assert wait_until(lambda: up(gateway, backend) == 0)
    backend.checks = lambda number: Mode.DENY
    assert wait_until(lambda: up(gateway, backend) == 1)


def test_a_check_needs_none_of_the_hooks_connections(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstreams = checked(backend)
    upstreams["u"]["max_connections"] = 1
    serve(gateway, upstreams, APPS)
    backend.mode = Mode.HOLD
    held = Volley(gateway, [hook_body("a")])
    assert wait_until(lambda: backend.held == 1)
    assert wait_for_checks(backend, 3)
    assert up(gateway, backend) == 1
    backend.release()
    assert [answer.status for answer in held.answers()] == [200]
    hooks, checks = ({one.connection for one in some} for some in (backend.hooks, backend.check_requests))
    assert not hooks & checks


def test_hooks_that_are_refused_never_fail_a_check(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, checked(backend), APPS)
    backend.mode = Mode.DENY
    assert {status(gateway) for _ in range(30)} == {403}
    assert wait_for_checks(backend, 3)
    assert backend.count == 30
    assert gateway.metric("gateway_target_ejections_total", target=backend.name) == 0


def test_a_good_check_does_not_bring_back_what_hooks_found_dead(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, checked(backend), APPS)
    backend.mode = Mode.UNAVAILABLE
    assert {status(gateway) for _ in range(6)} == {403}
    assert wait_for_checks(backend, 3)
    assert up(gateway, backend) == 0
    assert backend.count == 5


def test_hooks_go_round_a_target_whose_check_fails(gateway: RunningGateway) -> None:
    with backends(2) as (ill, well):
        ill.checks = lambda number: Mode.ERROR
        serve(gateway, checked(ill, well), APPS)
        assert wait_until(lambda: up(gateway, ill) == 0)
        assert {status(gateway) for _ in range(10)} == {200}
        assert (ill.count, well.count) == (0, 10)
        take(gateway, EMPTY)


def test_checks_end_with_the_reload_that_takes_them_away(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstreams = checked(backend)
    serve(gateway, upstreams, APPS)
    assert wait_for_checks(backend, 2)
    del upstreams["u"]["health"]
    serve(gateway, upstreams, APPS)
    assert wait_until(lambda: not backend.is_connected)  # a check that was under way has arrived by then
    assert status(gateway) == 200
    asked = len(backend.check_requests)
    assert not wait_until(lambda: len(backend.check_requests) > asked, 0.5)


def test_checks_end_with_the_target_that_a_reload_takes_away(gateway: RunningGateway) -> None:
    with backends(2) as (goes, stays):
        serve(gateway, checked(goes, stays), APPS)
        assert wait_for_checks(goes, 2)
        serve(gateway, checked(stays), APPS)
        assert wait_until(lambda: not goes.is_connected)  # a check that was under way has arrived by then
        asked = len(goes.check_requests)
        assert wait_for_checks(stays, 3)
        assert len(goes.check_requests) == asked
        take(gateway, EMPTY)


def order(gateway: RunningGateway, backend: PacedBackend, what: str) -> str:
    answer = gateway.post(f"/api/upstreams/u/{backend.name}/{what}").json()
    return str(answer["result"])


def test_good_checks_do_not_bring_back_what_an_operator_ejected(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, checked(backend), APPS)
    backend.checks = lambda number: Mode.ERROR
    assert wait_until(lambda: up(gateway, backend) == 0)
    assert order(gateway, backend, "eject") == "ejected"
    backend.checks = lambda number: Mode.OK
    assert wait_for_checks(backend, 3)
    assert up(gateway, backend) == 0
    assert status(gateway) == 403
    assert order(gateway, backend, "restore") == "restored"
    assert status(gateway) == 200


def test_what_an_operator_restored_is_ejected_again_while_its_checks_fail(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, checked(backend), APPS)
    backend.checks = lambda number: Mode.ERROR
    assert wait_until(lambda: up(gateway, backend) == 0)
    ejections = gateway.metric("gateway_target_ejections_total", target=backend.name)
    assert order(gateway, backend, "restore") == "restored"
    assert wait_until(lambda: gateway.metric("gateway_target_ejections_total", target=backend.name) > ejections)
    assert up(gateway, backend) == 0
