"""A shadow on a hook's real way: its answer is always the backend's, and what the candidate did is reported."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.upstreams.mirror import MAX_TASKS
from tests.support.faulty import FaultyBackend, added_case, refused_port, reply, right_answer
from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import EMPTY, configuration, reloadable_gateway, take, volley

LOAD = 300
"""Hooks at once."""
ROUNDS = 5


@pytest.fixture
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


def config_of(backend: FaultyBackend, candidate: str, app: dict[str, Any] | None = None, **shadow: Any) -> str:
    """An app "a" whose backend answers right, and whose candidate is at this URL."""
    upstreams = {
        "php": {"url": backend.url_of("ok"), "headers": {"X-Api-Key": "key-of-php"}},
        "new": {"url": candidate, "headers": {"X-Api-Key": "key-of-new"}},
    }
    settings = {"upstream": "php", "timeout": "2s", "shadow": {"upstream": "new", **shadow}, **(app or {})}
    return configuration(upstreams, {"a": settings})


def body_of(number: int, session: str = "s", **fields: Any) -> bytes:
    return json.dumps({"appKey": "a", "sessionId": session, "callId": f"c{number}", **fields}).encode()


def counted(gateway: RunningGateway) -> dict[str, int]:
    """Outcomes of the app's shadow so far."""
    samples = re.findall(
        r'gateway_shadow_hooks_total\{app="a",.*outcome="(\w+)".*\} (\S+)', gateway.get("/metrics").text
    )
    return {outcome: int(float(count)) for outcome, count in samples}


def wait_for(gateway: RunningGateway, **outcomes: int) -> None:
    assert wait_until(lambda: counted(gateway) == outcomes), counted(gateway)


def copies(backend: FaultyBackend, case: str) -> list[bytes]:
    """The hooks that this case has had, each of which must be a copy."""
    requests = backend.requests_of(case)
    assert all(request.values("x-gateway-shadow") == [b"1"] for request in requests)
    return [request.body for request in requests]


def send(gateway: RunningGateway, body: bytes, method: str = "OnCallEvent") -> str:
    """Send a hook, see that its answer is the backend's own, and return its request id."""
    response = gateway.hook(method, body)
    assert response.status_code == 200
    assert response.content == right_answer(body)
    return str(response.headers["x-request-id"])


def shadow_in_journal(gateway: RunningGateway, request_id: str) -> dict[str, Any]:
    """What the journal tells of a hook's copy."""

    def told() -> dict[str, Any] | None:
        found = gateway.get("/api/decisions", params={"request_id": request_id}).json()["decisions"]
        return found[0]["shadow"] if found else None

    found: dict[str, Any] | None = wait_until(told)
    assert found is not None
    return found


def test_the_candidate_gets_the_hook_as_its_own_upstream_would_and_marked(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    with FaultyBackend() as candidate:
        take(gateway, config_of(backend, candidate.url_of("ok"), compare="body"))
        request_id = send(gateway, body_of(1))
        wait_for(gateway, match=1)
        (hook,), (copy,) = backend.requests, candidate.requests
    assert copy.body == hook.body
    assert copy.values("x-request-id") == hook.values("x-request-id")
    assert copy.values("x-gateway-shadow") == [b"1"]
    assert hook.values("x-gateway-shadow") == []
    assert (hook.values("x-api-key"), copy.values("x-api-key")) == ([b"key-of-php"], [b"key-of-new"])
    told = shadow_in_journal(gateway, request_id)
    assert (told["upstream"], told["outcome"], told["differences"]) == ("new", "match", [])


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("denied", "verdict_differs"),
        ("status_500", "candidate_failed"),
        ("body_notice_before", "candidate_failed"),
        ("reset_during_body", "candidate_failed"),
        ("hang", "candidate_failed"),
        ("ok_slow", "match"),
    ],
)
def test_whatever_the_candidate_does_the_answer_is_the_backend_s(
    gateway: RunningGateway, backend: FaultyBackend, case: str, outcome: str
) -> None:
    take(gateway, config_of(backend, backend.url_of(case)))
    request_id = send(gateway, body_of(1))
    wait_for(gateway, **{outcome: 1})
    assert copies(backend, case) == [body_of(1)]
    assert shadow_in_journal(gateway, request_id)["outcome"] == outcome
    assert gateway.metric("gateway_hooks_in_flight") == 0


def test_a_candidate_that_is_not_there_changes_nothing(gateway: RunningGateway, backend: FaultyBackend) -> None:
    with refused_port() as port:
        take(gateway, config_of(backend, f"http://127.0.0.1:{port}"))
        for number in range(20):
            send(gateway, body_of(number))
        wait_for(gateway, candidate_failed=20)
    assert gateway.metric("gateway_target_up", upstream="php") == 1


def test_what_differs_is_in_the_journal_field_by_field(gateway: RunningGateway, backend: FaultyBackend) -> None:
    def script(turn: Any) -> list[bytes]:
        return [reply(b'{"answer":"another","ts":1,"password":"hunter2","caller":"+4930123"}')]

    with added_case("differs", "Another body than the backend's.", script):
        take(gateway, config_of(backend, backend.url_of("differs"), compare="body", ignore=["ts"]))
        request_id = send(gateway, body_of(1))
        wait_for(gateway, body_differs=1)
    differing = gateway.get("/api/decisions", params={"shadow": "differs"}).json()["decisions"]
    (call,) = [call for call in differing if call["request_id"] == request_id]
    differences = {found["path"]: (found["ours"], found["theirs"]) for found in call["shadow"]["differences"]}
    assert set(differences) == {"answer", "caller", "password"}
    assert differences["answer"][1] == '"another"'
    assert differences["password"] == (None, "***")
    assert differences["caller"] == (None, '"******23"')
    assert "hunter2" not in json.dumps(call)


def test_side_effects_are_copied_only_where_they_are_named(gateway: RunningGateway, backend: FaultyBackend) -> None:
    methods = ["connect", "call", "CallStatusEvent", "OnCallEvent"]
    take(gateway, config_of(backend, backend.url_of("denied")))
    for number, method in enumerate(methods):
        send(gateway, body_of(number), method)
    wait_for(gateway, verdict_differs=1)
    take(gateway, config_of(backend, backend.url_of("denied"), methods=["c*", "*StatusEvent"]))
    for number, method in enumerate(methods):
        send(gateway, body_of(10 + number), method)
    wait_for(gateway, verdict_differs=4)
    paths = [request.path.rsplit("/", 1)[1] for request in backend.requests_of("denied")]
    assert paths[0] == "OnCallEvent"
    assert sorted(paths[1:]) == ["CallStatusEvent", "call", "connect"]


def test_of_a_session_all_hooks_are_copied_or_none(gateway: RunningGateway, backend: FaultyBackend) -> None:
    take(gateway, config_of(backend, backend.url_of("denied"), sample="50%"))
    for number in range(120):
        send(gateway, body_of(number, f"s{number % 40}"))

    def per_session() -> Counter[str]:
        return Counter(json.loads(body)["sessionId"] for body in copies(backend, "denied"))

    assert wait_until(lambda: set(per_session().values()) == {3}), per_session()
    wait_for(gateway, verdict_differs=per_session().total())
    assert set(per_session().values()) == {3}
    assert 5 < len(per_session()) < 35


def test_what_the_backend_did_not_decide_is_not_copied(gateway: RunningGateway, backend: FaultyBackend) -> None:
    config = json.loads(config_of(backend, backend.url_of("denied"), {"dedupe": "10s"}))
    config["upstreams"]["php"]["url"] = backend.url_of("status_500")
    take(gateway, json.dumps(config))
    assert gateway.hook(body=body_of(1)).status_code == 403
    config["upstreams"]["php"]["url"] = backend.url_of("ok")
    take(gateway, json.dumps(config))
    for _ in range(3):
        send(gateway, body_of(2))
    wait_for(gateway, verdict_differs=1)
    assert copies(backend, "denied") == [body_of(2)]


def test_under_enforce_what_the_backends_said_is_compared_and_not_what_went_out(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    app = {"rest_client_config": "enforce"}
    take(gateway, config_of(backend, backend.url_of("ok"), app, compare="body", methods=["connect"]))
    answer = gateway.hook("connect", body_of(1)).json()
    assert answer["restClientConfig"]["OnCallEvent"]["restOnError"] == "FAIL"
    wait_for(gateway, match=1)


def test_with_a_hung_candidate_at_full_load_every_hook_is_answered_and_the_surplus_is_dropped(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    def answers(first: int) -> list[tuple[int, bytes]]:
        bodies = [body_of(number) for number in range(first, first + LOAD * ROUNDS)]
        got: list[tuple[int, bytes]] = []
        for begin in range(0, len(bodies), LOAD):
            got += [(answer.status, answer.body) for answer in volley(gateway, bodies[begin : begin + LOAD])]
        assert got == [(200, right_answer(body)) for body in bodies]
        return got

    plain = json.loads(config_of(backend, backend.url_of("hang"), {"timeout": "5s"}))
    del plain["apps"]["a"]["shadow"]
    take(gateway, json.dumps(plain))
    without = answers(0)
    take(gateway, config_of(backend, backend.url_of("hang"), {"timeout": "5s"}))
    with_shadow = answers(LOAD * ROUNDS)
    assert len(with_shadow) == len(without)
    assert counted(gateway)["dropped"] > 0
    assert backend.open_connections("hang") <= MAX_TASKS
    assert len(backend.requests_of("ok")) == 2 * LOAD * ROUNDS
    assert gateway.metric("gateway_hooks_in_flight") == 0
    take(gateway, EMPTY)  # takes the candidate away: all that it had in hand ends
    assert backend.wait_for_connections(0, "hang")


def test_a_mark_that_a_client_sets_reaches_no_backend(gateway: RunningGateway, backend: FaultyBackend) -> None:
    take(gateway, config_of(backend, backend.url_of("denied")))
    assert gateway.hook(body=body_of(1), headers={"X-Gateway-Shadow": "1"}).content == right_answer(body_of(1))
    assert backend.requests_of("ok")[0].values("x-gateway-shadow") == []
    wait_for(gateway, verdict_differs=1)


def test_a_reload_turns_the_shadow_off_at_once(gateway: RunningGateway, backend: FaultyBackend) -> None:
    take(gateway, config_of(backend, backend.url_of("denied")))
    send(gateway, body_of(1))
    wait_for(gateway, verdict_differs=1)
    text = json.loads(config_of(backend, backend.url_of("denied")))
    text["apps"]["a"]["shadow"] = "off"
    take(gateway, json.dumps(text))
    send(gateway, body_of(2))
    wait_for(gateway, verdict_differs=1)
    assert copies(backend, "denied") == [body_of(1)]


def test_a_gateway_that_stops_does_not_wait_for_a_candidate(tmp_path: Path, backend: FaultyBackend) -> None:
    with reloadable_gateway(tmp_path) as gateway:
        take(gateway, config_of(backend, backend.url_of("hang"), {"timeout": "10s"}))
        volley(gateway, [body_of(number) for number in range(MAX_TASKS + 10)])
        assert backend.wait_for_requests(MAX_TASKS, "hang")
        assert gateway.stop() == 0
        assert backend.wait_for_connections(0, "hang")
    assert not [line for line in gateway.lines() if line.get("level") == "error"]
