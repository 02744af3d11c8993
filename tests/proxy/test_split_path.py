"""Sessions shared out among upstreams by weight, through a real gateway: each session's hooks meet one backend."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.support.gateways import RunningGateway, running_gateway
from tests.support.pacing import (
    Mode,
    PacedBackend,
    backends,
    configuration,
    hook_body,
    serve,
    take,
    volley,
)

SESSIONS = [f"/127.0.0.1:{5000 + i}/192.168.1.5:8443-{i:08x}" for i in range(60)]
"""As the media server writes them."""
METHODS = ["connect", "RegistrationStatusEvent", "OnCallEvent"]


@pytest.fixture
def both() -> Iterator[list[PacedBackend]]:
    with backends(2) as running:
        yield running


def route_upstreams(both: Sequence[PacedBackend]) -> dict[str, Any]:
    return {name: {"url": backend.url} for name, backend in zip(("php", "new"), both, strict=True)}


def canary(new: int, **settings: Any) -> dict[str, Any]:
    """An app of which so many per cent go to the new backend."""
    return {"upstream": [{"name": "php", "weight": 100 - new}, {"name": "new", "weight": new}], **settings}


def sessions_of(backend: PacedBackend) -> set[str]:
    return {json.loads(request.body)["sessionId"] for request in backend.hooks}


def where(
    gateway: RunningGateway,
    both: Sequence[PacedBackend],
    sessions: Sequence[str] = SESSIONS,
    methods: Sequence[str] = METHODS,
    **fields: str,
) -> dict[str, str]:
    """Which backend each session's hooks met; all of a session's met the same."""
    for backend in both:
        backend.hooks.clear()
    for method in methods:
        answers = volley(gateway, [hook_body("a", sessionId=session, **fields) for session in sessions], method)
        assert {answer.status for answer in answers} == {200}
    php, new = map(sessions_of, both)
    assert php.isdisjoint(new)
    assert php | new == set(sessions)
    return {session: "php" if session in php else "new" for session in sessions}


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Where the sessions went that have another backend than before."""
    return {backend for session, backend in after.items() if before[session] != backend}


def test_all_hooks_of_a_session_meet_one_backend(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50, methods={"OnCallEvent": {"timeout": "14s"}})})
    counts = Counter(where(gateway, both).values())
    assert min(counts["php"], counts["new"]) > 10


def test_a_canary_goes_from_5_over_50_to_100_per_cent_and_is_rolled_back_at_once(
    gateway: RunningGateway, both: list[PacedBackend]
) -> None:
    steps = {}
    for share in (5, 50, 100):
        serve(gateway, route_upstreams(both), {"a": canary(share)})
        steps[share] = where(gateway, both)
    assert moved(steps[5], steps[50]) == {"new"}
    assert moved(steps[50], steps[100]) == {"new"}
    assert set(steps[100].values()) == {"new"}
    serve(gateway, route_upstreams(both), {"a": canary(0)})
    assert set(where(gateway, both).values()) == {"php"}
    serve(gateway, route_upstreams(both), {"a": canary(5)})
    assert where(gateway, both) == steps[5]


def test_a_reload_of_something_else_moves_no_session(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    before = where(gateway, both)
    backwards: dict[str, Any] = {**canary(50, timeout="10s"), "upstream": canary(50)["upstream"][::-1]}
    serve(gateway, route_upstreams(both), {"b": {"static": "reject"}, "a": backwards})
    assert where(gateway, both) == before


def test_two_workers_and_another_process_agree_on_every_session(
    gateway: RunningGateway, both: list[PacedBackend], tmp_path: Any
) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    before = where(gateway, both)
    text = configuration(route_upstreams(both), {"a": canary(50)}, server={"workers": 2})
    with running_gateway(text, tmp_path) as other:
        assert where(other, both, methods=METHODS * 2) == before
        for share, only in ((100, "new"), (0, "php")):
            take(other, configuration(route_upstreams(both), {"a": canary(share)}, server={"workers": 2}))
            assert set(where(other, both).values()) == {only}


def test_the_session_decides_and_nothing_else_of_the_hook(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    before = where(gateway, both, caller="1", nodeId="node-1")
    assert where(gateway, both, caller="2", nodeId="node-1") == before


def test_sessions_of_two_media_servers_with_one_id_are_two(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    before = where(gateway, both, nodeId="node-1")
    assert where(gateway, both, nodeId="node-2") != before


@pytest.mark.parametrize("fields", [{}, {"sessionId": None}, {"sessionId": ""}])
def test_hooks_without_a_session_are_shared_out_one_by_one(
    gateway: RunningGateway, both: list[PacedBackend], fields: dict[str, Any]
) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    answers = volley(gateway, [hook_body("a", **fields) for _ in range(60)])
    assert {answer.status for answer in answers} == {200}
    assert all(10 < backend.count < 50 for backend in both)


def test_an_app_of_a_glob_shares_out_too(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a*": canary(50)})
    assert set(where(gateway, both).values()) == {"php", "new"}


def test_log_and_metrics_tell_which_backend_was_asked(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    both[1].mode = Mode.DENY
    answers = volley(gateway, [hook_body("a", sessionId=session) for session in SESSIONS])
    lines = [gateway.access_line(answer.headers["x-request-id"]) for answer in answers]
    assert Counter(line["upstream"] for line in lines) == {"php": both[0].count, "new": both[1].count}
    assert {(line["upstream"], line["status"]) for line in lines} == {("php", 200), ("new", 403)}
    assert gateway.metric("gateway_split_hooks_total", app="a", upstream="php", verdict="allow") == both[0].count
    assert gateway.metric("gateway_split_hooks_total", app="a", upstream="new", verdict="reject") == both[1].count
    assert gateway.metric("gateway_split_hooks_total", app="a", upstream="new", verdict="allow") == 0


def test_an_app_with_one_upstream_is_not_counted_among_the_split(
    gateway: RunningGateway, both: list[PacedBackend]
) -> None:
    serve(gateway, {"php": {"url": both[0].url}}, {"a": {"upstream": "php"}})
    assert volley(gateway, [hook_body("a", sessionId="s")])[0].status == 200
    assert gateway.metric("gateway_split_hooks_total", app="a") == 0


def test_a_hook_that_was_refused_before_its_backend_was_chosen_is_nobody_s_share(
    gateway: RunningGateway, both: list[PacedBackend]
) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50, credentials={"username": "u", "password": "p"})})
    (answer,) = volley(gateway, [hook_body("a", sessionId="s")])
    assert answer.status == 401
    assert gateway.access_line(answer.headers["x-request-id"])["upstream"] is None
    assert gateway.metric("gateway_split_hooks_total", app="a") == 0


def test_adversarial_session_ids_of_any_kind_get_an_answer(gateway: RunningGateway, both: list[PacedBackend]) -> None:
    serve(gateway, route_upstreams(both), {"a": canary(50)})
    odd = ["", "\n", "é\u0000", "x" * 200_000, 5, -0.5, True, {"a": 1}, [1]]
    answers = volley(gateway, [hook_body("a", sessionId=session) for session in odd])
    assert {answer.status for answer in answers} == {200}
