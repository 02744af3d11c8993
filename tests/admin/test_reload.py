"""A running gateway takes a new configuration whole, or not at all, and no hook notices."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.admin.reload import differences
from gateway.config import Config, loads
from tests.support.faulty import FaultyBackend, gated_case, right_answer
from tests.support.gateways import RunningGateway, running_gateway, wait_until

SECRET: Final = "hunter2-the-old"
NEW_SECRET: Final = "hunter2-the-new"
ENVIRONMENT: Final = {"TEST_PASSWORD": SECRET, "TEST_OTHER": NEW_SECRET}
RELOADS: Final = 100
COUNTER: Final = "gateway_config_reloads_total"


@pytest.fixture(scope="module")
def backend(gate: threading.Event) -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def gate() -> Iterator[threading.Event]:
    with gated_case() as opened:
        yield opened


def configuration(backend: FaultyBackend, apps: dict[str, Any], **sections: Any) -> str:
    upstreams = {name: {"url": backend.url_of(case)} for name, case in {"u": "ok", "old": "denied"}.items()}
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    base = {"server": server, "defaults": {"dedupe": "off"}, "upstreams": upstreams}
    return json.dumps({**base, "apps": apps, **sections})


def all_are_counted(gateway: RunningGateway) -> bool:
    """Whether metric and log come to have as many reloads, by result."""
    results = ("success", "failure")

    def agree() -> bool:
        return all(gateway.metric(COUNTER, result=it) == len(gateway.reloads(it)) for it in results)

    return bool(wait_until(agree))


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = configuration(backend, {"a": {"upstream": "u"}})
    with running_gateway(config, tmp_path_factory.mktemp("reloaded"), environment=ENVIRONMENT) as running:
        yield running


def status_of(gateway: RunningGateway, app: str) -> int:
    return gateway.hook(body=json.dumps({"appKey": app}).encode()).status_code


def test_post_reload_takes_the_new_file_and_says_what_changed(backend: FaultyBackend, gateway: RunningGateway) -> None:
    before = configuration(
        backend, {"stays": {"upstream": "u"}, "goes": {"upstream": "u"}, "turns": {"static": "allow"}}
    )
    after = configuration(
        backend,
        {"stays": {"upstream": "u"}, "turns": {"static": "reject"}, "comes": {"upstream": "u"}},
        unknown_app="comes",
        log={"access": "failures"},
    )
    gateway.reload(before)
    assert [status_of(gateway, app) for app in ("stays", "goes", "turns", "comes")] == [200, 200, 200, 403]
    stamp = gateway.metric("gateway_config_last_reload_success_timestamp_seconds")
    report = gateway.reload(after)
    assert (report["result"], report["problems"]) == ("success", [])
    changes = "\n".join(report["changes"])
    for word in ("comes added", "goes removed", "turns changed", "unknown_app changed", "log.access changed"):
        assert word in changes
    assert "stays" not in changes
    assert [status_of(gateway, app) for app in ("stays", "turns", "comes", "anybody")] == [200, 403, 200, 200]
    assert gateway.post("/-/reload").json()["changes"] == []
    assert all_are_counted(gateway)
    assert gateway.metric("gateway_config_last_reload_successful") == 1
    assert gateway.metric("gateway_config_last_reload_success_timestamp_seconds") > stamp


@pytest.mark.parametrize("key", sorted(Config.model_fields.keys() - {"upstreams", "apps"}))
def test_whichever_part_of_the_configuration_has_changed_it_is_named(key: str) -> None:
    before = loads("apps: {a: {static: allow}}\n").config
    (change,) = differences(before, before.model_copy(update={key: "other"}))
    assert change == f"{key} changed" + (" (takes effect after a restart)" if key in ("store", "state") else "")


def test_what_only_a_new_start_can_change_is_said_so(backend: FaultyBackend, gateway: RunningGateway) -> None:
    gateway.reload(configuration(backend, {"a": {"upstream": "u"}}))
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "drain_timeout": "7s", "max_body": "64B"}
    changes = gateway.reload(configuration(backend, {"a": {"upstream": "u"}}, server=server))["changes"]
    assert "server.drain_timeout changed (takes effect after a restart)" in changes
    assert "server.max_body changed" in changes
    assert gateway.hook(body=json.dumps({"appKey": "a", "pad": "x" * 100}).encode()).status_code == 413


def test_sighup_reloads(backend: FaultyBackend, gateway: RunningGateway) -> None:
    gateway.reload(configuration(backend, {"a": {"upstream": "u"}}))
    gateway.write_config(configuration(backend, {"b": {"upstream": "u"}}))
    os.kill(gateway.pid, signal.SIGHUP)
    gateway.wait_for_line(lambda line: line.get("trigger") == "SIGHUP" and line["result"] == "success")
    assert [status_of(gateway, app) for app in ("a", "b")] == [403, 200]


@pytest.mark.parametrize("how", ["renamed into place", "written in place"])
def test_a_changed_file_is_noticed_however_it_changes(
    gateway: RunningGateway, backend: FaultyBackend, how: str
) -> None:
    app = how.replace(" ", "-")
    assert status_of(gateway, app) == 403
    after = configuration(backend, {app: {"upstream": "u"}})
    if how == "renamed into place":
        gateway.write_config(after)
    else:
        gateway.config.write_text(after)
    gateway.wait_for_line(lambda line: line.get("trigger") == "file changed" and f"app {app} added" in line["changes"])
    assert status_of(gateway, app) == 200


def test_a_symbolic_link_that_is_swapped_as_kubernetes_does_is_noticed(backend: FaultyBackend, tmp_path: Path) -> None:
    for name in ("..one", "..two"):
        (tmp_path / name).mkdir()
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), tmp_path) as gateway:
        (tmp_path / "..two" / "gateway.yaml").write_text(configuration(backend, {"b": {"upstream": "u"}}))
        new = tmp_path / "..new"
        new.symlink_to("..two")
        os.replace(new, tmp_path / "..data")
        gateway.wait_for_line(lambda line: line.get("trigger") == "file changed" and line["result"] == "success")
        assert [status_of(gateway, app) for app in ("a", "b")] == [403, 200]


def test_a_file_that_is_put_back_after_a_reload_by_hand_is_noticed(
    backend: FaultyBackend, gateway: RunningGateway
) -> None:
    before, after = (configuration(backend, {app: {"static": "allow"}}) for app in ("put-back", "by-hand"))
    gateway.write_config(before)
    assert wait_until(lambda: status_of(gateway, "put-back") == 200)
    time.sleep(0.5)  # the watch comes to rest: what follows is too quick for it to see the file in between
    gateway.reload(after)
    gateway.write_config(before)
    assert wait_until(lambda: status_of(gateway, "put-back") == 200)
    assert status_of(gateway, "by-hand") == 403


BAD_FILES: Final = {
    "not YAML": "server: {listen: '127.0.0.1:0'\napps: [",
    "an unknown key": "serverr: {}\n",
    "a wrong value": "apps:\n  a: {static: perhaps}\n",
    "empty": "",
    "an upstream that is missing": "apps:\n  a: {upstream: nowhere}\n",
    "a secret that is missing": "admin: {token: '${env:TEST_NOT_THERE}'}\n",
    "half written": '{"server": {"listen": "127.0.0.1:0", "adm',
    "binary": "\x00\x01\x02",
    "cyclic": "a: &a\n  b: *a\n",
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_changes_nothing_and_shows_in_answer_log_and_metric(
    backend: FaultyBackend, gateway: RunningGateway, text: str
) -> None:
    good = configuration(backend, {"a": {"upstream": "u"}})
    gateway.reload(good)
    shown = gateway.get("/api/config").json()
    failures = gateway.metric(COUNTER, result="failure")
    stamp = gateway.metric("gateway_config_last_reload_success_timestamp_seconds")
    gateway.write_config(text)
    answer = gateway.post("/-/reload")
    assert answer.status_code == 422
    report = answer.json()
    assert report["result"] == "failure"
    assert report["changes"] == []
    assert report["problems"]
    for problem in report["problems"]:
        name, line, column, _ = problem.removeprefix(str(gateway.config.parent)).split(":", 3)
        assert name == "/gateway.yaml"
        assert int(line) >= 1
        assert int(column) >= 1
    told = gateway.wait_for_line(lambda line: line.get("problems") == report["problems"])
    assert told["level"] == "error"
    assert gateway.metric(COUNTER, result="failure") > failures
    assert all_are_counted(gateway)
    assert gateway.metric("gateway_config_last_reload_successful") == 0
    assert gateway.metric("gateway_config_last_reload_success_timestamp_seconds") == stamp
    assert gateway.get("/api/status").json()["config"]["last_reload_successful"] is False
    assert gateway.get("/api/config").json() == shown
    assert gateway.get("/-/ready").status_code == 200
    assert status_of(gateway, "a") == 200
    gateway.reload(good)
    assert gateway.metric("gateway_config_last_reload_successful") == 1


def test_every_problem_of_a_bad_file_is_told_not_the_first_alone(gateway: RunningGateway) -> None:
    gateway.write_config("servr: {}\napps:\n  a: {static: perhaps}\n  b: {upstream: nowhere}\n")
    problems = gateway.post("/-/reload").json()["problems"]
    assert [int(problem.split(":")[1]) for problem in problems] == [1, 3, 4]


def test_a_file_that_is_gone_changes_nothing(backend: FaultyBackend, gateway: RunningGateway) -> None:
    gateway.reload(configuration(backend, {"a": {"upstream": "u"}}))
    gateway.config.unlink()
    os.kill(gateway.pid, signal.SIGHUP)
    line = gateway.wait_for_line(lambda line: line.get("trigger") == "SIGHUP" and line["result"] == "failure")
    assert line["problems"][0].startswith(f"{gateway.config}: not found")
    assert status_of(gateway, "a") == 200


def test_a_hook_in_flight_keeps_what_it_began_with(
    backend: FaultyBackend, gate: threading.Event, gateway: RunningGateway
) -> None:
    apps = {"goes": {"upstream": "gone", "timeout": "14s"}, "stays": {"upstream": "u"}}
    upstreams = {"gone": {"url": backend.url_of("gated")}, "u": {"url": backend.url_of("ok")}}
    gateway.reload(configuration(backend, apps, upstreams=upstreams))
    body = json.dumps({"appKey": "goes"}).encode()
    with ThreadPoolExecutor(1) as pool, httpx.Client(trust_env=False, timeout=20) as client:
        hook = pool.submit(client.post, f"{gateway.url}/OnCallEvent", content=body)
        try:
            assert backend.wait_for_requests(1, "gated", within=10)
            gateway.reload(configuration(backend, {"stays": {"static": "reject"}}))
            assert [status_of(gateway, app) for app in ("goes", "stays")] == [403, 403]
        finally:
            gate.set()
        answer = hook.result(20)
    assert (answer.status_code, answer.content) == (200, right_answer(body))
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["app"], line["upstream"], line["verdict"], line["attempts"]) == ("goes", "gone", "allow", 1)
    assert backend.wait_for_connections(0, "gated", within=10)
    left = ('app="goes"', 'upstream="gone"')
    assert wait_until(lambda: not any(series in gateway.get("/metrics").text for series in left))


def test_the_series_of_what_a_reload_removed_go_away_and_the_others_count_on(
    backend: FaultyBackend, gateway: RunningGateway
) -> None:
    before = configuration(backend, {"counted": {"upstream": "u"}, "removed": {"upstream": "old"}})
    after = json.loads(configuration(backend, {"counted": {"upstream": "u"}}))
    del after["upstreams"]["old"]
    gateway.reload(before)
    unknown = gateway.metric("gateway_hooks_total", app="_unknown")
    attempts = gateway.metric("gateway_upstream_attempts_total", upstream="u")
    assert [status_of(gateway, app) for app in ("counted", "removed", "nobody")] == [200, 403, 403]
    text = gateway.get("/metrics").text
    assert 'app="removed"' in text
    assert 'upstream="old"' in text
    gateway.reload(json.dumps(after))
    text = gateway.get("/metrics").text
    assert 'app="removed"' not in text
    assert 'upstream="old"' not in text
    assert status_of(gateway, "counted") == 200
    assert gateway.metric("gateway_hooks_total", app="counted") == 2
    assert gateway.metric("gateway_hooks_total", app="_unknown") == unknown + 1
    assert gateway.metric("gateway_upstream_attempts_total", upstream="u") == attempts + 2


def test_a_reload_keeps_the_connections_to_a_backend_that_stays(
    backend: FaultyBackend, gateway: RunningGateway
) -> None:
    gateway.reload(configuration(backend, {"a": {"upstream": "u"}}))
    assert status_of(gateway, "a") == 200
    first = backend.requests[-1].connection
    gateway.reload(configuration(backend, {"a": {"upstream": "u", "timeout": "2s"}}))
    assert status_of(gateway, "a") == 200
    assert backend.requests[-1].connection == first


def test_a_hundred_reloads_under_load_fail_no_hook(backend: FaultyBackend, gateway: RunningGateway) -> None:
    texts = [
        configuration(backend, {"busy": {"upstream": "u", "timeout": "10s"}, f"other-{turn}": {"static": "allow"}})
        for turn in range(2)
    ]
    gateway.reload(texts[0])
    stop = threading.Event()
    failed: list[object] = []
    sent = [0, 0]

    def load(number: int, url: str) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not stop.is_set():
                body = json.dumps({"appKey": "busy", "n": [number, sent[number]]}).encode()
                try:
                    answer = client.post(url, content=body)
                except httpx.HTTPError as exc:
                    failed.append(exc)
                    return
                sent[number] += 1
                if (answer.status_code, answer.content) != (200, right_answer(body)):
                    failed.append(answer)
                stop.wait(0.002)

    threads = [threading.Thread(target=load, args=(n, f"{gateway.url}/OnCallEvent")) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(RELOADS):
            gateway.reload(texts[(turn + 1) % 2])
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failed == []
    assert min(sent) > 0
    assert all_are_counted(gateway)
    assert gateway.metric("gateway_hooks_total", app="busy", verdict="allow") == sum(sent)
    assert gateway.metric("gateway_hooks_total", app="busy") == sum(sent)
    assert gateway.metric("gateway_hooks_in_flight") == 0


def test_no_secret_shows_in_answers_and_log_of_a_reload(backend: FaultyBackend, gateway: RunningGateway) -> None:

    def with_password(password: str, **more: Any) -> str:
        upstream = {
            "url": backend.url_of("ok"),
            "headers": {"X-Key": password},
            "credentials": {"username": "wcs", "password": password},
        }
        return configuration(backend, {"a": {"upstream": "u"}}, upstreams={"u": upstream}, **more)

    literal = "hunter2-written-out"
    gateway.reload(with_password("${env:TEST_PASSWORD}"))
    said = []
    for text in (
        with_password("${env:TEST_OTHER}"),
        with_password(literal),
        with_password(literal, nonsense={"password": literal}),
        with_password(literal).replace("http://", f"http://wcs:{literal}@"),
        with_password(f"{literal}\r\n"),
        with_password("${env:TEST_OTHER}"),
    ):
        gateway.write_config(text)
        said += [gateway.post("/-/reload").text, gateway.get("/api/config").text, gateway.get("/api/status").text]
    assert [json.loads(text)["result"] for text in said[::3]] == [
        "success", "success", "failure", "failure", "failure", "success",
    ]  # fmt: skip
    gateway.access_line(gateway.hook(body=b'{"appKey":"a"}').headers["x-request-id"])
    assert backend.requests[-1].values("x-key") == [NEW_SECRET.encode()]
    everything = "\n".join((*said, gateway.log.read_text(), gateway.get("/metrics").text))
    assert [secret for secret in (SECRET, NEW_SECRET, literal) if secret in everything] == []
