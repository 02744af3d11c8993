"""The admin port's view of this protocol's own matters, of gateways with one worker and with two."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.faulty import FaultyBackend, Turn, added_case, refused_port, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.matters import sections

NOTICE: Final = b"<br />\n<b>Notice</b>:  Undefined index: sip in <b>/srv/old.php</b> on line <b>7</b><br />\n"
PATIENCE: Final = 20.0


def polluted(turn: Turn) -> list[bytes]:
    return [reply(NOTICE + turn.request.body)]


def config(backend: FaultyBackend, refused: int, workers: int, recording: Path) -> dict[str, Any]:
    more: dict[str, dict[str, Any]] = {
        "enforced": {"upstream": "well", "rest_client_config": "enforce"},
        "hasty": {"upstream": "well", "rate_limit": "1/h burst 2"},
        "compared": {"upstream": "well", "shadow": {"upstream": "denied"}},
    }
    made = sections(backend, refused, "polluted_api", more)
    made["server"]["workers"] = workers
    return {**made, "record": {"path": str(recording)}}


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("insights")
    with (
        FaultyBackend() as backend,
        refused_port() as refused,
        added_case("polluted_api", "A notice, then the hook's own body.", polluted),
        running_gateway(
            json.dumps(config(backend, refused, request.param, directory / "hooks.jsonl")), directory
        ) as running,
    ):
        yield running


def send(gateway: RunningGateway, app: str, status: int, method: str = "OnCallEvent", **fields: Any) -> str:
    """Send a hook on a connection of its own, so that any worker may get it; its request id."""
    body = json.dumps({"appKey": app, "number": uuid.uuid4().hex, **fields}).encode()
    answer = gateway.hook(method, body, headers={"Connection": "close"})
    assert answer.status_code == status, answer.text
    return answer.headers["x-request-id"]


def call(gateway: RunningGateway, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get(f"/api/decisions/{request_id}").json()
    return found


def ids(gateway: RunningGateway, **query: Any) -> list[str]:
    answer = gateway.get("/api/decisions", params=query)
    assert answer.status_code == 200, answer.text
    return [each["request_id"] for each in answer.json()["decisions"]]


def told_of(gateway: RunningGateway, app: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the insights say of an app, once this holds."""
    found: list[dict[str, Any]] = []

    def is_told() -> bool:
        apps = gateway.get("/api/insights").json()["apps"]
        found[:] = [each for each in apps if each["app"] == app and is_so(each)]
        return bool(found)

    assert wait_until(is_told, PATIENCE), gateway.get("/api/insights").text
    return found[0]


def test_a_refusal_that_stops_nothing_is_found_and_counted_with_the_app_s_mode(gateway: RunningGateway) -> None:
    session = uuid.uuid4().hex
    send(gateway, "acme", 200, "connect", sessionId=session)
    request_id = send(gateway, "acme", 403, sessionId=session)
    assert call(gateway, request_id)["ineffective"]
    assert ids(gateway, ineffective=1, app="acme") == [request_id] == ids(gateway, failures=1, app="acme")
    app = told_of(gateway, "acme", lambda app: app["ineffective"]["total"] == 1)
    assert app["ineffective"]["methods"] == {"OnCallEvent": 1}
    assert app["client_config"] == {"mode": "warn", "methods": ["OnCallEvent"], "outcomes": {"missing": 1}}


def test_an_amended_answer_to_connect_says_so(gateway: RunningGateway) -> None:
    assert call(gateway, send(gateway, "enforced", 200, "connect", sessionId="e"))["client_config"] == "enforced"
    app = told_of(gateway, "enforced", lambda app: bool(app["client_config"]["outcomes"]))
    assert app["client_config"] == {"mode": "enforce", "methods": ["OnCallEvent"], "outcomes": {"enforced": 1}}


def test_an_answer_that_was_repaired_is_found_with_what_was_cut_away(gateway: RunningGateway) -> None:
    request_id = send(gateway, "old-php", 200, callId="x")
    found = call(gateway, request_id)
    assert (found["repaired"], "/srv/old.php" in found["cut"]) == ("before", True)
    assert ids(gateway, repaired=1) == [request_id]
    assert told_of(gateway, "old-php", lambda app: app["repaired"]["total"] == 1)["repaired"]["kinds"] == {"before": 1}


def test_what_a_rule_decided_is_found_by_its_name_and_is_no_failure(gateway: RunningGateway) -> None:
    request_id = send(gateway, "ruled", 403, caller="+493012399")
    found = call(gateway, request_id)
    assert (found["source"], found["rule"], found["upstream"], found["attempts"]) == ("rule", "spam", None, [])
    assert ids(gateway, rule="spam") == [request_id] == ids(gateway, source="rule")
    assert ids(gateway, app="ruled", failures=1) == []
    (rule,) = told_of(gateway, "ruled", lambda app: bool(app["rules"]))["rules"]
    assert (rule["rule"], rule["total"], rule["verdicts"]) == ("spam", 1, {"reject": 1})


def test_shares_are_told_with_their_weights_and_add_up(gateway: RunningGateway) -> None:
    for number in range(40):
        body = json.dumps({"appKey": "canary", "sessionId": f"s-{number}"}).encode()
        assert gateway.hook(body=body).status_code in (200, 403)
    app = told_of(gateway, "canary", lambda app: sum(share["total"] for share in app["split"]) == 40)
    assert {share["upstream"]: share["weight"] for share in app["split"]} == {"well": 3, "denied": 1}
    assert sum(share["share_of_total"] for share in app["split"]) == pytest.approx(1, abs=0.001)


def test_a_hook_put_elsewhere_names_both_upstreams(gateway: RunningGateway) -> None:
    found = call(gateway, send(gateway, "away", 200))
    assert (found["failed_over_from"], found["upstream"]) == ("gone", "well")
    (failover,) = told_of(gateway, "away", lambda app: bool(app["failovers"]))["failovers"]
    assert (failover["upstream"], failover["total"]) == ("gone", 1)


def test_hooks_past_the_rate_limit_are_counted(gateway: RunningGateway) -> None:
    for _ in range(6):
        gateway.hook(body=json.dumps({"appKey": "hasty", "number": uuid.uuid4().hex}).encode())
    refused = len(ids(gateway, app="hasty", reason="overload"))
    assert refused > 0
    assert told_of(gateway, "hasty", lambda app: app["rate_limited"]["total"] == refused)


def test_what_a_candidate_saw_otherwise_is_found_with_where_it_differs(gateway: RunningGateway) -> None:
    request_id = send(gateway, "compared", 200)
    assert wait_until(lambda: ids(gateway, shadow="differs") == [request_id], PATIENCE)
    shadow = call(gateway, request_id)["shadow"]
    assert (shadow["upstream"], shadow["outcome"], shadow["status"]) == ("denied", "verdict_differs", 403)
    assert shadow["differences"] == [{"path": "verdict", "ours": "allow", "theirs": "reject"}]
    (shadow,) = told_of(gateway, "compared", lambda app: bool(app["shadow"]))["shadow"]
    assert (shadow["agreement"], shadow["outcomes"]) == (0, {"verdict_differs": 1})


def test_the_recording_is_told_with_where_it_goes(gateway: RunningGateway) -> None:
    def recorded() -> dict[str, Any]:
        found: dict[str, Any] = gateway.get("/api/insights").json()["recorded"]
        return found

    send(gateway, "ruled", 200)
    assert wait_until(lambda: recorded()["written"]["total"] > 0, PATIENCE)
    assert recorded()["path"].endswith("hooks.jsonl")
    assert recorded()["dropped"]["total"] == 0


def test_upstreams_name_every_app_that_may_ask_them(gateway: RunningGateway) -> None:
    shown = {each["name"]: each["apps"] for each in gateway.get("/api/upstreams").json()["upstreams"]}
    assert shown["denied"] == ["acme", "canary"]
    assert shown["well"] == ["acme", "ruled", "canary", "away", "enforced", "hasty", "compared"]


@pytest.mark.parametrize("apps", ["-1", "x", "1001"])
def test_a_number_of_apps_that_cannot_be_is_refused(gateway: RunningGateway, apps: str) -> None:
    assert gateway.get("/api/insights", params={"apps": apps}).status_code == 400


def test_so_many_apps_are_told_and_all_are_counted(gateway: RunningGateway) -> None:
    send(gateway, "ruled", 403, caller="+493012399")
    assert wait_until(lambda: gateway.get("/api/insights?apps=0").json()["app_count"] > 0, PATIENCE)
    assert gateway.get("/api/insights?apps=0").json()["apps"] == []
