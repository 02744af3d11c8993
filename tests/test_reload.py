"""A running gateway takes a new configuration whole, or not at all, and no hook notices."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from faulty import CASES, OK, Case, FaultyBackend, Pause, Step, Turn, reply, right_answer
from gateways import RunningGateway, running_gateway, wait_until

SECRET: Final = "hunter2-the-old"
NEW_SECRET: Final = "hunter2-the-new"
ENVIRONMENT: Final = {"TEST_PASSWORD": SECRET, "TEST_OTHER": NEW_SECRET}
RELOADS: Final = 100


class Gate:
    """A backend's case that answers once it is told to."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def script(self, turn: Turn) -> Iterable[Step]:
        while not self.open.is_set():
            yield Pause(0.02)
        yield reply(turn.right)


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "gated", Case("gated", "Answers when told.", OK, 1, gate.script))
        yield gate
    gate.open.set()


def configuration(backend: FaultyBackend, apps: dict[str, Any], **sections: Any) -> str:
    upstreams = {name: {"url": backend.url_of(case)} for name, case in {"u": "ok", "old": "denied"}.items()}
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    return json.dumps({"server": server, "upstreams": upstreams, "apps": apps, **sections})


def log_elsewhere(directory: Path) -> Path:
    """Keep the log out of the watched directory, where each of its lines would have the watcher look at the file."""
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    (directory / "gateway.log").symlink_to(elsewhere / "gateway.log")
    return elsewhere


def unwatched(directory: Path) -> Path:
    """The real file of a configuration behind a symbolic link: the watcher of the link's directory does not see it."""
    real = log_elsewhere(directory) / "gateway.yaml"
    (directory / "gateway.yaml").symlink_to(real)
    return real


def status_of(gateway: RunningGateway, app: str) -> int:
    return gateway.hook(body=json.dumps({"appKey": app}).encode()).status_code


def reload_line(gateway: RunningGateway, trigger: str, result: str = "success") -> dict[str, Any]:
    return gateway.wait_for_line(lambda line: line.get("trigger") == trigger and line.get("result") == result)


def test_post_reload_takes_the_new_file_and_says_what_changed(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    before = configuration(
        backend, {"stays": {"upstream": "u"}, "goes": {"upstream": "u"}, "turns": {"static": "allow"}}
    )
    after = configuration(
        backend,
        {"stays": {"upstream": "u"}, "turns": {"static": "reject"}, "comes": {"upstream": "u"}},
        unknown_app="comes",
        log={"access": "failures"},
    )
    with running_gateway(before, tmp_path) as gateway:
        assert [status_of(gateway, app) for app in ("stays", "goes", "turns", "comes")] == [200, 200, 200, 403]
        stamp = gateway.metric("gateway_config_last_reload_success_timestamp_seconds")
        real.write_text(after)
        answer = gateway.post("/-/reload")
        assert answer.status_code == 200
        report = answer.json()
        assert (report["result"], report["problems"]) == ("success", [])
        changes = "\n".join(report["changes"])
        for word in ("comes added", "goes removed", "turns changed", "unknown_app changed", "log.access changed"):
            assert word in changes
        assert "stays" not in changes
        assert [status_of(gateway, app) for app in ("stays", "turns", "comes", "anybody")] == [200, 403, 200, 200]
        assert reload_line(gateway, "admin")["changes"] == report["changes"]
        assert gateway.metric("gateway_config_reloads_total", result="success") == 1
        assert gateway.metric("gateway_config_last_reload_successful") == 1
        assert gateway.metric("gateway_config_last_reload_success_timestamp_seconds") > stamp
        assert gateway.post("/-/reload").json()["changes"] == []


def test_what_only_a_new_start_can_change_is_said_so(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), tmp_path) as gateway:
        server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "drain_timeout": "7s", "max_body": "64B"}
        real.write_text(configuration(backend, {"a": {"upstream": "u"}}, server=server))
        changes = gateway.post("/-/reload").json()["changes"]
        assert "server.drain_timeout changed (takes effect at the next start)" in changes
        assert "server.max_body changed" in changes
        assert gateway.hook(body=json.dumps({"appKey": "a", "pad": "x" * 100}).encode()).status_code == 413


def test_sighup_reloads(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), tmp_path) as gateway:
        real.write_text(configuration(backend, {"b": {"upstream": "u"}}))
        os.kill(gateway.pid, signal.SIGHUP)
        reload_line(gateway, "SIGHUP")
        assert [status_of(gateway, app) for app in ("a", "b")] == [403, 200]


def swap_symlink(link: Path, target: str) -> None:
    new = link.with_name("..new")
    new.symlink_to(target)
    os.replace(new, link)


@pytest.mark.parametrize("how", ["renamed into place", "written in place", "symbolic link swapped"])
def test_a_changed_file_is_noticed_however_it_changes(backend: FaultyBackend, tmp_path: Path, how: str) -> None:
    before = configuration(backend, {"a": {"upstream": "u"}})
    after = configuration(backend, {"b": {"upstream": "u"}})
    log_elsewhere(tmp_path)
    if how == "symbolic link swapped":  # as Kubernetes mounts a ConfigMap
        for name in ("..one", "..two"):
            (tmp_path / name).mkdir()
        (tmp_path / "..data").symlink_to("..one")
        (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    with running_gateway(before, tmp_path) as gateway:
        if how == "renamed into place":
            gateway.write_config(after)
        elif how == "written in place":
            gateway.config.write_text(after)
        else:
            (tmp_path / "..two" / "gateway.yaml").write_text(after)
            swap_symlink(tmp_path / "..data", "..two")
        reload_line(gateway, "file changed")
        assert [status_of(gateway, app) for app in ("a", "b")] == [403, 200]


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


@pytest.fixture(scope="module")
def steady(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, Path]]:
    directory = tmp_path_factory.mktemp("steady")
    real = unwatched(directory)
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), directory) as gateway:
        yield gateway, real


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_changes_nothing_and_shows_in_answer_log_and_metric(
    steady: tuple[RunningGateway, Path], text: str
) -> None:
    gateway, real = steady
    good = real.read_text()
    shown = gateway.get("/api/config").json()
    failures = gateway.metric("gateway_config_reloads_total", result="failure")
    stamp = gateway.metric("gateway_config_last_reload_success_timestamp_seconds")
    logged = len(gateway.lines())
    real.write_text(text)
    try:
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
        assert len(gateway.lines()) > logged
        assert gateway.metric("gateway_config_reloads_total", result="failure") == failures + 1
        assert gateway.metric("gateway_config_last_reload_successful") == 0
        assert gateway.metric("gateway_config_last_reload_success_timestamp_seconds") == stamp
        assert gateway.get("/api/status").json()["config"]["last_reload_successful"] is False
        assert gateway.get("/api/config").json() == shown
        assert gateway.get("/-/ready").status_code == 200
        assert status_of(gateway, "a") == 200
    finally:
        real.write_text(good)
    assert gateway.post("/-/reload").status_code == 200
    assert gateway.metric("gateway_config_last_reload_successful") == 1


def test_every_problem_of_a_bad_file_is_told_not_the_first_alone(steady: tuple[RunningGateway, Path]) -> None:
    gateway, real = steady
    good = real.read_text()
    real.write_text("servr: {}\napps:\n  a: {static: perhaps}\n  b: {upstream: nowhere}\n")
    try:
        problems = gateway.post("/-/reload").json()["problems"]
    finally:
        real.write_text(good)
    assert [int(problem.split(":")[1]) for problem in problems] == [1, 3, 4]


def test_a_file_that_is_gone_changes_nothing(backend: FaultyBackend, tmp_path: Path) -> None:
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), tmp_path) as gateway:
        gateway.config.unlink()
        os.kill(gateway.pid, signal.SIGHUP)
        line = reload_line(gateway, "SIGHUP", "failure")
        assert "cannot be read" in line["problems"][0]
        assert status_of(gateway, "a") == 200


def test_a_hook_in_flight_keeps_what_it_began_with(backend: FaultyBackend, gate: Gate, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    apps = {"goes": {"upstream": "gone", "timeout": "14s"}, "stays": {"upstream": "u"}}
    upstreams = {"gone": {"url": backend.url_of("gated")}, "u": {"url": backend.url_of("ok")}}
    body = json.dumps({"appKey": "goes"}).encode()
    with (
        running_gateway(configuration(backend, apps, upstreams=upstreams), tmp_path) as gateway,
        httpx.Client(trust_env=False, timeout=20) as client,
    ):
        answers: list[httpx.Response] = []
        url = f"{gateway.url}/OnCallEvent"
        thread = threading.Thread(target=lambda: answers.append(client.post(url, content=body)))
        thread.start()
        assert backend.wait_for_requests(1, "gated", within=10)
        real.write_text(configuration(backend, {"stays": {"static": "reject"}}))
        assert gateway.post("/-/reload").status_code == 200
        assert [status_of(gateway, app) for app in ("goes", "stays")] == [403, 403]
        gate.open.set()
        thread.join(20)
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, right_answer(body))]
        line = gateway.wait_for_line(lambda line: line.get("request_id") == answers[0].headers["x-request-id"])
        assert (line["app"], line["upstream"], line["verdict"], line["attempts"]) == ("goes", "gone", "allow", 1)
        assert backend.wait_for_connections(0, "gated", within=10)
        text = gateway.get("/metrics").text
        assert 'app="goes"' not in text
        assert 'upstream="gone"' not in text


def test_the_series_of_what_a_reload_removed_go_away_and_the_others_count_on(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    real = unwatched(tmp_path)
    before = configuration(backend, {"stays": {"upstream": "u"}, "goes": {"upstream": "old"}})
    after = json.loads(configuration(backend, {"stays": {"upstream": "u"}}))
    del after["upstreams"]["old"]
    with running_gateway(before, tmp_path) as gateway:
        assert [status_of(gateway, app) for app in ("stays", "goes", "nobody")] == [200, 403, 403]
        text = gateway.get("/metrics").text
        assert 'app="goes"' in text
        assert 'upstream="old"' in text
        real.write_text(json.dumps(after))
        assert gateway.post("/-/reload").status_code == 200
        text = gateway.get("/metrics").text
        assert 'app="goes"' not in text
        assert 'upstream="old"' not in text
        assert status_of(gateway, "stays") == 200
        assert gateway.metric("gateway_hooks_total", app="stays") == 2
        assert gateway.metric("gateway_hooks_total", app="_unknown") == 1
        assert gateway.metric("gateway_upstream_attempts_total", upstream="u") == 2


def test_a_reload_keeps_the_connections_to_a_backend_that_stays(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    with running_gateway(configuration(backend, {"a": {"upstream": "u"}}), tmp_path) as gateway:
        assert status_of(gateway, "a") == 200
        first = backend.requests[-1].connection
        real.write_text(configuration(backend, {"a": {"upstream": "u", "timeout": "2s"}}))
        assert gateway.post("/-/reload").status_code == 200
        assert status_of(gateway, "a") == 200
        assert backend.requests[-1].connection == first


def test_a_hundred_reloads_under_load_fail_no_hook(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)
    texts = [
        configuration(backend, {"a": {"upstream": "u", "timeout": "10s"}, f"other-{turn}": {"static": "allow"}})
        for turn in range(2)
    ]
    stop = threading.Event()
    failed: list[object] = []
    sent = [0, 0]

    def load(number: int, url: str) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not stop.is_set():
                body = json.dumps({"appKey": "a", "n": [number, sent[number]]}).encode()
                try:
                    answer = client.post(url, content=body)
                except httpx.HTTPError as exc:
                    failed.append(exc)
                    return
                sent[number] += 1
                if (answer.status_code, answer.content) != (200, right_answer(body)):
                    failed.append(answer)
                stop.wait(0.002)

    with running_gateway(texts[0], tmp_path) as gateway:
        threads = [threading.Thread(target=load, args=(n, f"{gateway.url}/OnCallEvent")) for n in range(2)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(RELOADS):
                real.write_text(texts[(turn + 1) % 2])
                assert gateway.post("/-/reload").json()["result"] == "success"
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        assert failed == []
        assert min(sent) > 0
        assert gateway.metric("gateway_config_reloads_total", result="success") == RELOADS
        assert gateway.metric("gateway_hooks_total", app="a", verdict="allow") == sum(sent)
        assert gateway.metric("gateway_hooks_total", app="a") == sum(sent)
        assert gateway.metric("gateway_hooks_in_flight") == 0


def test_no_secret_shows_in_answers_and_log_of_a_reload(backend: FaultyBackend, tmp_path: Path) -> None:
    real = unwatched(tmp_path)

    def with_password(password: str, **more: Any) -> str:
        upstream = {
            "url": backend.url_of("ok"),
            "headers": {"X-Key": password},
            "credentials": {"username": "wcs", "password": password},
        }
        return configuration(backend, {"a": {"upstream": "u"}}, upstreams={"u": upstream}, **more)

    literal = "hunter2-written-out"
    with running_gateway(with_password("${env:TEST_PASSWORD}"), tmp_path, environment=ENVIRONMENT) as gateway:
        said = []
        for text in (
            with_password("${env:TEST_OTHER}"),
            with_password(literal),
            with_password(literal, nonsense={"password": literal}),
            with_password(literal).replace("http://", f"http://wcs:{literal}@"),
            with_password(f"{literal}\r\n"),
            with_password("${env:TEST_OTHER}"),
        ):
            real.write_text(text)
            said += [gateway.post("/-/reload").text, gateway.get("/api/config").text, gateway.get("/api/status").text]
        assert [json.loads(text)["result"] for text in said[::3]] == [
            "success", "success", "failure", "failure", "failure", "success",
        ]  # fmt: skip
        assert status_of(gateway, "a") == 200
        assert backend.requests[-1].values("x-key") == [NEW_SECRET.encode()]
        assert wait_until(lambda: len(gateway.access_lines()) == 1)
        everything = "\n".join((*said, gateway.log.read_text(), gateway.get("/metrics").text))
        assert [secret for secret in (SECRET, NEW_SECRET, literal) if secret in everything] == []
