"""Calls, upstreams and an operator's orders on the admin port, of gateways with one worker and with two."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.server.workers.processes import OUTAGE
from tests.support.faulty import FaultyBackend, gated_case, refused_port
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.telemetry.test_journal import CONTRACT_FIELDS

TOKEN: Final = "token-of-the-admin"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
SECRET_PATH: Final = "path-out-of-the-environment"
IN_THE_BODY: Final = "sdp-of-the-hook"
TARGET_FIELDS: Final = (
    "target url weight backup state since reason ejected_for retry_in_seconds in_flight queued connections "
    "max_connections fleet_max_connections usual_ms p50_ms p95_ms p99_ms ejections last_error workers_ejected workers"
).split()
UNTIL_RESTORED: Final = "1h"
_numbers = itertools.count()


def config_of(backend: FaultyBackend, refused: int, workers: int, more: str = "") -> str:
    gone = f"http://127.0.0.1:{refused}/gone"
    return f"""
server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', workers: {workers}}}
{more}
defaults: {{timeout: 5s, fallback: reject}}
upstreams:
  ok: {{url: "{backend.url_of("ok")}"}}
  denied: {{url: "{backend.url_of("denied")}"}}
  empty: {{url: "{backend.url_of("length_zero")}"}}
  stale: {{url: "{backend.url_of("close_after_idle")}"}}
  one: {{url: "{backend.url}/gated", max_connections: 1}}
  pair:
    targets: [{{url: "{backend.url_of("ok")}"}}, {{url: "{gone}", backup: true}}]
    breaker: {{failures: 2, open_for: {UNTIL_RESTORED}}}
  down: {{url: "{gone}", breaker: {{failures: 2, open_for: {UNTIL_RESTORED}}}}}
  first-gone:
    targets: [{{url: "{gone}"}}, {{url: "{backend.url_of("ok")}", backup: true}}]
    breaker: off
apps:
  ok: {{upstream: ok}}
  denied: {{upstream: denied}}
  empty: {{upstream: empty}}
  stale: {{upstream: stale}}
  one: {{upstream: one}}
  pair: {{upstream: pair}}
  down: {{upstream: down}}
  first-gone: {{upstream: first-gone}}
  blocked: {{static: reject}}
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def refused() -> Iterator[int]:
    with refused_port() as port:
        yield port


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def gateway(
    request: pytest.FixtureRequest, backend: FaultyBackend, refused: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = config_of(backend, refused, request.param)
    with running_gateway(config, tmp_path_factory.mktemp("api")) as running:
        yield running


def pids(gateway: RunningGateway) -> list[int]:
    workers: list[int] = gateway.get("/api/status").json()["workers"]
    return workers


def send(gateway: RunningGateway, app: str, call_id: str = "c", **fields: Any) -> httpx.Response:
    """A hook like no other, on a connection of its own, so that any worker may get it."""
    body = {"appKey": app, "callId": call_id, "sdp": IN_THE_BODY, "number": next(_numbers), **fields}
    return gateway.hook(body=json.dumps(body).encode(), headers={"Connection": "close"})


def decisions(gateway: RunningGateway, **query: Any) -> dict[str, Any]:
    answer = gateway.get("/api/decisions", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["incomplete"] == []
    return found


def decision(gateway: RunningGateway, **query: Any) -> dict[str, Any]:
    """The one call that matches."""
    found = decisions(gateway, **query)
    assert found["matched"] == 1, found
    one: dict[str, Any] = found["decisions"][0]
    return one


def targets(gateway: RunningGateway, upstream: str) -> list[dict[str, Any]]:
    shown = gateway.get("/api/upstreams").json()["upstreams"]
    found: list[dict[str, Any]] = next(each["targets"] for each in shown if each["name"] == upstream)
    return found


def states(gateway: RunningGateway, upstream: str) -> list[str]:
    return [target["state"] for target in targets(gateway, upstream)]


def act(gateway: RunningGateway, upstream: str, number: int, what: str) -> dict[str, Any]:
    """Eject or restore one of the upstream's targets."""
    name = targets(gateway, upstream)[number]["target"]
    answer = gateway.post(f"/api/upstreams/{upstream}/{name}/{what}")
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    assert (done["upstream"], done["target"]) == (upstream, name)
    return done


# --- decisions ---


def test_a_decision_has_all_fields_of_the_contract(gateway: RunningGateway) -> None:
    answer = send(gateway, "denied", "told", nodeId="n", sessionId="s", caller="49301234567", callee="100")
    told = decision(gateway, call_id="told")
    assert sorted(told) == sorted(CONTRACT_FIELDS)
    line = gateway.access_line(answer.headers["x-request-id"])
    for field in line.keys() & told.keys() - {"attempts"}:
        assert told[field] == line[field], field
    assert told["time"] == line["ts"]
    assert told["worker"] in pids(gateway)
    assert told["caller"] == "*********67"
    assert "restOnError" in told["means"]
    (attempt,) = told["attempts"]
    assert (attempt["target"], attempt["outcome"], attempt["error"]) == (told["target"], "denied", "")
    assert 0 <= attempt["began_ms"] < attempt["began_ms"] + attempt["duration_ms"] <= told["duration_ms"]


def test_decisions_of_all_workers_come_in_one_list_newest_first(gateway: RunningGateway) -> None:
    workers = set(pids(gateway))

    def met_all() -> bool:
        send(gateway, "ok", "spread")
        return {each["worker"] for each in decisions(gateway, call_id="spread", limit=1000)["decisions"]} == workers

    assert wait_until(met_all, 20.0), "the kernel gave every connection to one worker"
    found = decisions(gateway, limit=1000)
    times = [each["time"] for each in found["decisions"]]
    assert times == sorted(times, reverse=True)
    assert found["held"] == found["matched"] == len(times)
    assert found["oldest"] == times[-1]
    assert len(decisions(gateway, limit=2)["decisions"]) == 2


def test_filters_hold_together(gateway: RunningGateway) -> None:
    for app in ("ok", "denied", "empty", "blocked"):
        send(gateway, app, f"filtered-{app}", caller="0301234567")
    gateway.hook(body=b"no hook", headers={"X-Request-Id": "filtered-no-hook"})
    found = [each["call_id"] for each in decisions(gateway, q="FILTERED-", failures=1)["decisions"]]
    assert sorted(found, key=str) == [None, "filtered-empty"]
    expected = {"verdict": "reject", "source": "fallback", "reason": "bad_answer", "app": "empty", "since": "5m"}
    assert decision(gateway, q="filtered-", **expected)["call_id"] == "filtered-empty"
    assert decisions(gateway, q="filtered-", verdict="allow", app="denied")["matched"] == 0
    assert decision(gateway, request_id="filtered-no-hook")["status"] == 400
    assert decisions(gateway, q="0301234567", call_id="filtered-ok")["matched"] == 1
    assert decisions(gateway, q="0301", call_id="filtered-ok")["matched"] == 0
    assert decisions(gateway, call_id="filtered-ok", until="1h")["matched"] == 0


def test_a_mistaken_query_is_answered_with_400_in_plain_words(gateway: RunningGateway) -> None:
    for query, words in (({"limit": "0"}, "limit"), ({"appp": "x"}, "'appp'"), ({"since": "noon"}, "since")):
        answer = gateway.get("/api/decisions", params=query)
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/plain")
        assert words in answer.text


def test_one_call_is_found_by_its_request_id(gateway: RunningGateway) -> None:
    request_id = send(gateway, "ok", "by-id").headers["x-request-id"]
    answer = gateway.get(f"/api/decisions/{request_id}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["call_id"] == "by-id"
    assert gateway.get("/api/decisions/no-such-id").status_code == 404


# --- the story ---


def test_a_retry_is_told_with_what_failed_before_it(gateway: RunningGateway) -> None:
    assert send(gateway, "first-gone", "retried").status_code == 200
    first, second = (told := decision(gateway, call_id="retried"))["attempts"]
    assert (first["outcome"], second["outcome"]) == ("unreachable", "ok")
    assert first["error"].endswith("connection refused")
    assert (first["target"], second["target"]) == tuple(each["target"] for each in targets(gateway, "first-gone"))
    assert second["target"] == told["target"]
    assert second["began_ms"] >= first["began_ms"] + first["duration_ms"] - 0.01


def test_a_connection_that_had_been_closed_is_told_as_an_attempt(gateway: RunningGateway) -> None:
    with httpx.Client(trust_env=False, timeout=20.0) as one_connection:
        for number in range(2):
            body = json.dumps({"appKey": "stale", "callId": "stale", "sessionId": number}).encode()
            assert one_connection.post(f"{gateway.url}/OnCallEvent", content=body).status_code == 200
    newest, oldest = decisions(gateway, call_id="stale")["decisions"]
    assert [each["outcome"] for each in oldest["attempts"]] == ["ok"]
    assert [each["outcome"] for each in newest["attempts"]] == ["unreachable", "ok"]
    assert len({each["target"] for each in newest["attempts"]}) == 1


def queued_and_connected(gateway: RunningGateway) -> int:
    (target,) = targets(gateway, "one")
    return int(target["queued"] + target["connections"])


def test_a_hook_that_had_to_queue_says_for_how_long(gateway: RunningGateway, backend: FaultyBackend) -> None:
    with gated_case() as opened, httpx.Client(trust_env=False, timeout=20.0) as client:
        hooks = [json.dumps({"appKey": "one", "callId": f"queued-{n}"}).encode() for n in range(6)]
        threads = [threading.Thread(target=client.post, args=(f"{gateway.url}/call",), kwargs={"content": hook})
                   for hook in hooks]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            # All workers together have one connection.
            assert wait_until(lambda: queued_and_connected(gateway) == 6)
            (target,) = targets(gateway, "one")
            assert target["in_flight"] == 6
            assert target["connections"] == target["max_connections"] == 1
        finally:
            opened.set()
            for thread in threads:
                thread.join()
    attempts = [each["attempts"][0] for each in decisions(gateway, q="queued-")["decisions"]]
    waited = [each for each in attempts if each["queued_ms"] > 0]
    assert len(waited) == target["queued"]
    assert all(each["queued_ms"] <= each["duration_ms"] for each in waited), "they are measured with one clock"


def test_who_asked_no_backend_has_no_attempts(gateway: RunningGateway) -> None:
    send(gateway, "blocked", "static")
    told = decision(gateway, call_id="static")
    assert (told["attempts"], told["upstream"], told["budget_ms"]) == ([], None, None)


# --- upstreams ---


def test_every_upstream_is_told_with_its_settings_and_its_targets(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    send(gateway, "ok")
    shown = gateway.get("/api/upstreams").json()["upstreams"]
    assert [each["name"] for each in shown] == "ok denied empty stale one pair down first-gone".split()
    ok, pair = shown[0], shown[5]
    assert {key: ok[key] for key in ("balance", "apps", "app_count", "retry")} == {
        "balance": "round_robin", "apps": ["ok"], "app_count": 1, "retry": {"attempts": 2, "on": ["connect"]},
    }  # fmt: skip
    (target,) = ok["targets"]
    assert list(target) == TARGET_FIELDS
    assert (target["url"], target["state"]) == (backend.url_of("ok"), "up")
    assert target["reason"] is None
    assert target["workers"] == len(pids(gateway))
    assert target["max_connections"] == 64
    assert 0 < target["p50_ms"] <= target["p95_ms"] <= target["p99_ms"]
    assert [each["backup"] for each in pair["targets"]] == [False, True]
    assert pair["targets"][1]["p50_ms"] is None


def test_a_target_that_the_breaker_ejected_says_why_and_since_when(gateway: RunningGateway) -> None:
    began = send(gateway, "down", "first").headers["x-request-id"]

    def ejected() -> bool:
        send(gateway, "down")
        return bool(targets(gateway, "down")[0]["workers_ejected"] == len(pids(gateway)))

    assert wait_until(ejected, 20.0)
    (target,) = targets(gateway, "down")
    assert target["state"] == "ejected"
    assert target["reason"].endswith("connection refused")
    assert target["last_error"]["text"] == target["reason"]
    first, since, last = map(
        datetime.fromisoformat,
        (gateway.get(f"/api/decisions/{began}").json()["time"], target["since"], target["last_error"]["time"]),
    )
    inexact = timedelta(seconds=2)  # the event loop's clock stands still at times
    assert first - inexact <= since <= last + inexact
    assert 0 < target["retry_in_seconds"] <= 3600
    assert target["ejections"] >= 1
    send(gateway, "down", "after")
    told = decision(gateway, call_id="after")
    assert (told["reason"], told["attempts"], told["target"]) == ("unreachable", [], None)
    assert act(gateway, "down", 0, "restore")["result"] == "restored"
    assert states(gateway, "down") == ["up"]


# --- actions ---


@contextlib.contextmanager
def ejected(gateway: RunningGateway, upstream: str, number: int) -> Iterator[dict[str, Any]]:
    try:
        yield act(gateway, upstream, number, "eject")
    finally:
        act(gateway, upstream, number, "restore")


def test_an_ejected_target_gets_no_hook_of_any_worker_until_it_is_restored(gateway: RunningGateway) -> None:
    with ejected(gateway, "first-gone", 0) as done:
        assert done["result"] == "ejected"
        assert "warning" not in done
        assert act(gateway, "first-gone", 0, "eject")["result"] == "unchanged"
        out, other = targets(gateway, "first-gone")
        assert (out["state"], other["state"]) == ("ejected_by_operator", "up")
        assert (out["reason"], out["retry_in_seconds"]) == ("ejected by an operator", None)
        assert out["workers_ejected"] == len(pids(gateway))
        for number in range(8):
            assert send(gateway, "first-gone", f"out-{number}").status_code == 200
        told = decisions(gateway, q="out-")["decisions"]
        assert [[each["outcome"] for each in one["attempts"]] for one in told] == [["ok"]] * 8
    assert states(gateway, "first-gone") == ["up", "up"]
    assert act(gateway, "first-gone", 0, "restore")["result"] == "unchanged"


def test_the_last_target_is_ejected_all_the_same_with_a_warning(gateway: RunningGateway) -> None:
    with ejected(gateway, "ok", 0) as done:
        assert done["result"] == "ejected"
        assert "No other target of ok is up" in done["warning"]
        assert send(gateway, "ok", "nobody").status_code == 403
        told = decision(gateway, call_id="nobody")
        assert (told["reason"], told["attempts"]) == ("unreachable", [])
        assert "an operator ejected it" in told["error"]
    assert send(gateway, "ok").status_code == 200


def test_an_ejected_target_stays_so_over_reloads(gateway: RunningGateway) -> None:
    before = gateway.config.read_text()
    with ejected(gateway, "pair", 0):
        try:
            changes = gateway.reload(before.replace("failures: 2", "failures: 3"))["changes"]
            assert changes == ["upstream pair, down changed"]
            assert states(gateway, "pair") == ["ejected_by_operator", "up"]
            without = before.replace(before[before.index("  pair:") : before.index("  down:")], "")
            gateway.reload(without.replace("  pair: {upstream: pair}\n", ""))
            assert "pair" not in [each["name"] for each in gateway.get("/api/upstreams").json()["upstreams"]]
        finally:
            gateway.reload(before)
        assert states(gateway, "pair") == ["ejected_by_operator", "up"], "it was away, and is back as it was"


def test_a_target_keeps_its_name_when_another_of_its_host_joins_it(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    before = gateway.config.read_text()
    (old,) = targets(gateway, "ok")
    both = f'targets: [{{url: "{backend.url_of("ok")}"}}, {{url: "{backend.url_of("ok_close")}", weight: 1}}]'
    try:
        changes = gateway.reload(before.replace(f'ok: {{url: "{backend.url_of("ok")}"', f"ok: {{{both}"))["changes"]
        assert changes == ["upstream ok changed"]
        names = [target["target"] for target in targets(gateway, "ok")]
        assert names[0] == old["target"] != names[1]
        for _ in range(2 * len(pids(gateway))):
            send(gateway, "ok", "joined")
        assert {each["target"] for each in decisions(gateway, call_id="joined")["decisions"]} <= set(names)
        for number in (0, 1):
            with ejected(gateway, "ok", number) as done:
                assert done["result"] == "ejected"
    finally:
        gateway.reload(before)


@pytest.mark.parametrize("path", ["nobody/127.0.0.1:1", "ok/127.0.0.1:1", "ok/x/y", "ok/%20"])
@pytest.mark.parametrize("what", ["eject", "restore"])
def test_an_unknown_target_is_404(gateway: RunningGateway, path: str, what: str) -> None:
    assert gateway.post(f"/api/upstreams/{path}/{what}").status_code == 404


def test_a_drained_gateway_is_not_ready_closes_its_connections_and_decides_hooks_until_it_is_taken_back(
    gateway: RunningGateway,
) -> None:
    url = f"{gateway.url}/OnCallEvent"
    with httpx.Client(trust_env=False, timeout=20.0) as kept:
        assert "connection" not in kept.post(url, content=b'{"appKey":"ok"}').headers
        try:
            assert gateway.post("/-/drain").json() == {"result": "draining"}
            assert gateway.post("/-/drain").json() == {"result": "draining"}
            assert gateway.get("/-/ready").status_code == 503
            assert gateway.get("/-/healthy").status_code == 200
            for _ in range(4):
                answer = kept.post(url, content=b'{"appKey":"ok"}')
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        finally:
            assert gateway.post("/-/undrain").json() == {"result": "ready"}
        assert gateway.get("/-/ready").status_code == 200
        assert "connection" not in kept.post(url, content=b'{"appKey":"ok"}').headers


def test_what_is_read_is_not_posted_to_and_an_action_is_not_read(gateway: RunningGateway) -> None:
    for path in ("/api/decisions", "/api/decisions/x", "/api/upstreams"):
        assert gateway.post(path).status_code == 405
    for path in ("/-/drain", "/-/undrain", "/api/upstreams/ok/x/eject", "/api/upstreams/ok/x/restore"):
        assert gateway.get(path).status_code == 405
    assert gateway.get("/-/ready").status_code == 200


# --- workers ---


@pytest.fixture(scope="module")
def two_workers(
    backend: FaultyBackend, refused: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Another than that of the tests above: these here kill its workers, and stop them."""
    with running_gateway(config_of(backend, refused, 2), tmp_path_factory.mktemp("workers")) as running:
        yield running


def test_a_worker_that_begins_later_carries_out_every_action(two_workers: RunningGateway) -> None:
    act(two_workers, "first-gone", 0, "eject")
    two_workers.post("/-/drain")
    victims = pids(two_workers)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        now = pids(two_workers)
        return len(now) == 2 and not set(now) & set(victims) and targets(two_workers, "ok")[0]["workers"] == 2

    assert wait_until(replaced, OUTAGE)
    out = targets(two_workers, "first-gone")[0]
    assert (out["state"], out["workers_ejected"]) == ("ejected_by_operator", 2)
    assert send(two_workers, "ok").headers["connection"] == "close"
    assert act(two_workers, "first-gone", 0, "restore")["result"] == "restored"
    assert states(two_workers, "first-gone") == ["up", "up"]
    two_workers.post("/-/undrain")


@contextlib.contextmanager
def hanging(gateway: RunningGateway, pid: int) -> Iterator[None]:
    """For one question: a worker that is silent for two seconds is replaced."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: gateway.get("/api/decisions").json()["incomplete"] == [])


def test_a_worker_that_hangs_is_named_and_the_others_answer_meanwhile(two_workers: RunningGateway) -> None:
    name = targets(two_workers, "first-gone")[0]["target"]

    def named() -> bool:
        """Once more where this process itself was held up, so that the worker hung for too long and was replaced."""
        before = victim, _ = pids(two_workers)
        with hanging(two_workers, victim):
            incomplete = two_workers.get("/api/decisions").json()["incomplete"]
        with hanging(two_workers, victim):
            workers = targets(two_workers, "ok")[0]["workers"]
        return bool((incomplete, workers) == ([victim], 1) and sorted(pids(two_workers)) == sorted(before))

    assert wait_until(named), two_workers.log.read_text()
    victim, _ = pids(two_workers)
    os.kill(victim, signal.SIGSTOP)  # an order takes two questions, and so long a silence may end it
    done = two_workers.post(f"/api/upstreams/first-gone/{name}/eject").json()
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGCONT)
    assert done["result"] == "ejected"
    assert done["incomplete"] in ([victim], [])
    assert wait_until(lambda: targets(two_workers, "first-gone")[0]["workers_ejected"] == 2)
    act(two_workers, "first-gone", 0, "restore")


def test_an_answer_of_a_thousand_long_decisions_comes_whole_from_several_workers(two_workers: RunningGateway) -> None:
    text = "\N{TELEPHONE RECEIVER}" * 5_000
    for number in range(300):
        send(two_workers, "blocked", f"{number} {text}", sessionId=text, nodeId=text)
    answer = two_workers.get("/api/decisions", params={"app": "blocked", "limit": 1000})
    found = answer.json()
    assert (found["matched"], len(found["decisions"]), found["incomplete"]) == (300, 300, [])
    assert {each["call_id"].partition(" ")[0] for each in found["decisions"]} == {str(number) for number in range(300)}
    assert len(answer.content) < 300 * 4096


# --- who may, and what is never told ---


@pytest.fixture(scope="module")
def guarded(backend: FaultyBackend, refused: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With a token, and a backend whose URL stands in the environment."""
    config = config_of(backend, refused, 1, 'admin: {token: "${env:TEST_ADMIN_TOKEN}"}')
    config = config.replace(backend.url_of("denied"), "${env:TEST_BACKEND}")
    environment = {"TEST_ADMIN_TOKEN": TOKEN, "TEST_BACKEND": f"http://127.0.0.1:{refused}/{SECRET_PATH}"}
    with running_gateway(config, tmp_path_factory.mktemp("guarded"), environment=environment) as running:
        yield running


def test_orders_ask_for_the_token(guarded: RunningGateway) -> None:
    name = targets(guarded, "ok")[0]["target"]
    for path in (f"/api/upstreams/ok/{name}/eject", f"/api/upstreams/ok/{name}/restore", "/-/drain", "/-/undrain"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert guarded.post(path, headers=headers).status_code == 401
    assert states(guarded, "ok") == ["up"]
    assert guarded.get("/-/ready").status_code == 200
    assert guarded.post(f"/api/upstreams/ok/{name}/eject", headers=BEARER).json()["result"] == "ejected"
    assert guarded.post(f"/api/upstreams/ok/{name}/restore", headers=BEARER).json()["result"] == "restored"


@pytest.mark.parametrize("path", ["/api/decisions", "/api/decisions/x", "/api/upstreams"])
def test_what_is_read_is_guarded_as_all_the_rest(guarded: RunningGateway, path: str) -> None:
    assert guarded.get(path, headers={"Host": "elsewhere.example"}).status_code == 403
    answer = guarded.get(path)
    assert answer.status_code in (200, 404)
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_web_page_may_not_order_without_a_token(gateway: RunningGateway) -> None:
    for path in ("/-/drain", "/api/upstreams/ok/x/eject"):
        assert gateway.post(path, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 403
    assert gateway.get("/-/ready").status_code == 200


def test_no_body_and_no_secret_is_in_any_answer(guarded: RunningGateway) -> None:
    for app in ("ok", "denied", "empty", "blocked", "first-gone"):
        answer = send(guarded, app, "secretive", caller="0301234567")
    pages = [
        guarded.get("/api/decisions", params={"limit": 1000}).text,
        guarded.get(f"/api/decisions/{answer.headers['x-request-id']}").text,
        guarded.get("/api/upstreams").text,
        guarded.log.read_text(),
    ]
    assert "secretive" in pages[0]
    for page in pages:
        for secret in (IN_THE_BODY, SECRET_PATH, TOKEN, "0301234567", '\\"answer\\"'):
            assert secret not in page
    assert targets(guarded, "denied")[0]["url"] == "${env:TEST_BACKEND}"


def test_every_naughty_string_comes_back_as_json_and_bounded(guarded: RunningGateway) -> None:
    corpus = Path(__file__).parent.parent.parent.parent / "shared" / "corpora" / "naughty_strings.json"
    if not corpus.exists():
        pytest.skip("the shared folder is not beside the repository")
    strings = json.loads(corpus.read_text("utf-8"))
    for number, text in enumerate(strings):
        fields = dict.fromkeys(("nodeId", "sessionId", "callId", "caller", "callee"), text)
        body = json.dumps({"appKey": "blocked", **fields}).encode()
        assert guarded.hook(body=body, headers={"X-Request-Id": f"naughty-{number}"}).status_code == 403
    told = decisions(guarded, q="naughty-", limit=1000)["decisions"]
    by_id = {each["request_id"]: each for each in told}
    assert len(by_id) == len(strings)
    for number, text in enumerate(strings):
        shown = by_id[f"naughty-{number}"]["call_id"]
        assert shown == (text if len(text) <= 256 else text[:255] + "…")
        assert guarded.get("/api/decisions", params={"q": text[:500]}).status_code == 200
