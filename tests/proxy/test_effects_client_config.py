"""Rejections that take effect, through a real gateway: answers to connect, and what is reported of a 403."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.server.workers.processes import OUTAGE
from tests.support.faulty import FaultyBackend, Step, Turn, added_case, refused_port, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import apache_php

FAIL: Final = {"OnCallEvent": {"restOnError": "FAIL"}}
ADDED: Final = b'"restClientConfig":{"OnCallEvent":{"restOnError":"FAIL"}}'
LOG: Final = '{ "restClientConfig": {"OnCallEvent": {"restOnError": "LOG" }}, "a": 1.0 }'
ALL_FAIL: Final = {method: {"restOnError": "FAIL"} for method in ("OnCallEvent", "call", "OnMessageEvent")}
REFUSED: Final = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


def scripted(turn: Turn) -> Iterable[Step]:
    """Accepts a connect with the text that its field ``answer`` asks for, or with the hook itself; refuses the rest."""
    hook = json.loads(turn.request.body)
    if hook.get("refuse") or not turn.request.path.endswith("/connect"):
        yield REFUSED
    else:
        yield reply(hook["answer"].encode() if "answer" in hook else turn.request.body)


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with added_case("sessions", "Answers connect as asked, and refuses everything else.", scripted):
        with FaultyBackend() as running:
            yield running
        assert running.problems == []


def configuration(url: str, dead: int = 1, workers: int = 1, **more: Any) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
            "defaults": {"timeout": "5s"},
            "hook_types": {"myEvent": "event", "myMethod": "direct"},
            "upstreams": {"php": {"url": url}, "dead": {"url": f"http://127.0.0.1:{dead}/", "breaker": "off"}},
            "apps": {
                "warn": {"upstream": "php"},
                "off": {"upstream": "php", "rest_client_config": "off"},
                "enforce": {"upstream": "php", "rest_client_config": "enforce"},
                "all": {"upstream": "php", "rest_client_config": {"mode": "enforce", "methods": ALL_FAIL}},
                "dead": {"upstream": "dead", "fallback": "allow", "rest_client_config": "enforce"},
                "static": {"static": "allow", "rest_client_config": "enforce"},
                "blocked": {"static": "reject"},
                "rules": {
                    "upstream": "dead",
                    "rest_client_config": "enforce",
                    "rules": [{"methods": "connect", "verdict": "allow"}, {"methods": "*", "verdict": "reject"}],
                },
                **more,
            },
        }
    )


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        refused_port() as dead,
        running_gateway(configuration(backend.url_of("sessions"), dead), tmp_path_factory.mktemp("gateway")) as running,
    ):
        yield running


class Session:
    """A client's session on the media server."""

    def __init__(self, gateway: RunningGateway, app: str) -> None:
        self.gateway = gateway
        self.app = app
        self.fields = {"nodeId": "n@192.0.2.1", "sessionId": f"/192.0.2.7:{uuid.uuid4()}/192.0.2.1:8443"}

    def hook(self, method: str, **fields: Any) -> httpx.Response:
        return self.gateway.hook(method, self.body(**fields))

    def body(self, **fields: Any) -> bytes:
        """A hook's, unlike any other."""
        return json.dumps({"appKey": self.app, "n": uuid.uuid4().hex, **self.fields, **fields}).encode()

    def connect(self, answer: str | None = None, **fields: Any) -> httpx.Response:
        return self.hook("connect", **({} if answer is None else {"answer": answer}), **fields)

    def is_ineffective(self, method: str = "OnCallEvent", status: int = 403) -> bool:
        """Whether the gateway says in its log that this refusal stopped nothing."""
        answer = self.hook(method)
        assert answer.status_code == status
        line = line_of(self.gateway, answer)
        assert line.get("ineffective") in {None, True}, "the field is there only where it says something"
        return "ineffective" in line


def line_of(gateway: RunningGateway, answer: httpx.Response) -> dict[str, Any]:
    return gateway.access_line(answer.headers["x-request-id"])


# --- answers to connect ---


def test_warn_leaves_the_answer_as_it_is_and_counts_and_logs_what_is_missing(gateway: RunningGateway) -> None:
    def counted() -> list[float]:
        name = "gateway_client_config_answers_total"
        return [gateway.metric(name, app="warn", outcome=outcome) for outcome in ("ok", "missing", "enforced")]

    before = counted()
    missing = Session(gateway, "warn").connect(LOG)
    assert missing.content == LOG.encode()
    assert line_of(gateway, missing)["client_config"] == "missing"
    fine = Session(gateway, "warn").connect(json.dumps({"restClientConfig": FAIL}))
    assert "client_config" not in line_of(gateway, fine)
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1, 0]


def test_enforce_changes_what_the_media_server_gets_by_exactly_the_wanted_fields(gateway: RunningGateway) -> None:
    changed = Session(gateway, "enforce").connect(LOG)
    assert changed.status_code == 200
    assert changed.content == LOG.replace("LOG", "FAIL").encode()
    assert int(changed.headers["content-length"]) == len(changed.content)
    assert changed.headers["content-type"] == "application/json"
    assert line_of(gateway, changed)["client_config"] == "enforced"
    assert gateway.metric("gateway_client_config_answers_total", app="enforce", outcome="enforced") >= 1
    session = Session(gateway, "all")
    assert json.loads(session.connect('{"a":"\\u00e9"}').content) == {"a": "\u00e9", "restClientConfig": ALL_FAIL}


def test_the_backend_gets_the_connect_byte_for_byte_and_only_the_answer_is_amended(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    body = b'{ "appKey" :"enforce","sessionId":"%b" , "x":1.50 }' % uuid.uuid4().hex.encode()
    answer = gateway.hook("connect", body)
    assert backend.requests_of("sessions")[-1].body == body
    assert answer.content == body[:-2] + b"," + ADDED + b" }"


def test_only_answers_to_connect_are_amended(gateway: RunningGateway) -> None:
    for method in ("OnCallEvent", "call", "CallStatusEvent", "Connect", "connectx"):
        body = json.dumps({"appKey": "static", "n": uuid.uuid4().hex}).encode()
        answer = gateway.hook(method, body)
        assert (answer.status_code, answer.content) == (200, body)
        assert "client_config" not in line_of(gateway, answer)


def test_off_neither_looks_nor_changes_nor_tells(gateway: RunningGateway) -> None:
    session = Session(gateway, "off")
    answer = session.connect(LOG)
    assert answer.content == LOG.encode()
    assert "client_config" not in line_of(gateway, answer)
    assert not session.is_ineffective()


@pytest.mark.parametrize(("app", "source"), [("dead", "fallback"), ("static", "static"), ("rules", "rule")])
def test_where_no_backend_answers_connect_the_hook_s_own_body_is_amended(
    gateway: RunningGateway, app: str, source: str
) -> None:
    body = json.dumps({"appKey": app, "sessionId": uuid.uuid4().hex}).encode()
    answer = gateway.hook("connect", body)
    assert answer.content == body[:-1] + b"," + ADDED + b"}"
    line = line_of(gateway, answer)
    assert (line["source"], line["client_config"]) == (source, "enforced")


def test_a_refused_connect_is_passed_on_as_it_is(gateway: RunningGateway) -> None:
    session = Session(gateway, "enforce")
    answer = session.connect(refuse=True)
    assert (answer.status_code, answer.content) == (403, b"")
    line = line_of(gateway, answer)
    assert "client_config" not in line
    assert "ineffective" not in line, "it is always declined"


def test_a_repeat_of_connect_gets_the_same_amended_answer(gateway: RunningGateway) -> None:
    body = json.dumps({"appKey": "enforce", "sessionId": uuid.uuid4().hex, "answer": LOG}).encode()
    answers = [gateway.hook("connect", body) for _ in range(3)]
    assert {answer.content for answer in answers} == {LOG.replace("LOG", "FAIL").encode()}
    assert [line_of(gateway, answer)["source"] for answer in answers] == ["backend", "duplicate", "duplicate"]


@pytest.mark.parametrize("app", ["enforce", "static", "dead"])
def test_adversarial_no_nesting_in_a_client_s_connect_gets_past_what_is_enforced(
    gateway: RunningGateway, app: str
) -> None:
    seen = set()
    for depth in (2, *range(900, 1050, 3)):  # a decoder's recursion ends at some depth between
        deep = "[" * depth + "]" * depth
        answer = gateway.hook("connect", f'{{"appKey":"{app}","custom":{deep},"n":"{uuid.uuid4()}"}}'.encode())
        assert (ADDED in answer.content) is (answer.status_code == 200)
        seen.add(answer.status_code)
    assert 200 in seen
    assert seen <= {200, 400, 403}


def test_adversarial_a_client_s_field_cannot_pretend_that_its_session_fails(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect(
        custom={"restClientConfig": FAIL}, login='"restClientConfig":{"OnCallEvent":{"restOnError":"FAIL"}}'
    )
    assert session.is_ineffective()


# --- refusals ---


def test_a_refusal_in_a_session_without_fail_is_counted_and_logged_as_ineffective(gateway: RunningGateway) -> None:
    def counted() -> float:
        return gateway.metric("gateway_ineffective_rejects_total", app="warn", method="OnCallEvent")

    before = counted()
    session = Session(gateway, "warn")
    session.connect(LOG)
    assert session.is_ineffective()
    assert counted() == before + 1


def test_a_refusal_in_a_session_with_fail_is_not(gateway: RunningGateway) -> None:
    asked = Session(gateway, "warn")
    asked.connect(json.dumps({"restClientConfig": {**FAIL, "myMethod": {"restOnError": "FAIL"}}}))
    assert not asked.is_ineffective("OnCallEvent")
    assert not asked.is_ineffective("myMethod")
    assert asked.is_ineffective("call")
    made = Session(gateway, "enforce")
    made.connect(LOG)
    assert not made.is_ineffective("OnCallEvent")
    assert made.is_ineffective("call")


def test_nothing_is_said_of_a_session_whose_connect_was_not_seen(gateway: RunningGateway) -> None:
    assert not Session(gateway, "warn").is_ineffective()
    refused = Session(gateway, "warn")
    refused.connect(refuse=True)
    assert not refused.is_ineffective()
    elsewhere = Session(gateway, "warn")
    elsewhere.connect(LOG)
    elsewhere.fields["nodeId"] = "another media server"
    assert not elsewhere.is_ineffective()


def test_an_event_s_refusal_is_never_ineffective_for_nothing_was_to_be_stopped(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect(LOG)
    for event in ("CallStatusEvent", "NewStatusEvent", "myEvent"):
        assert not session.is_ineffective(event)


def test_refusals_of_every_source_are_looked_at(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect(LOG)
    for app, method in (("blocked", "OnCallEvent"), ("rules", "call"), ("warn", "hangup")):
        session.app = app
        assert session.is_ineffective(method)
    body = json.dumps({"appKey": "warn", **session.fields}).encode()
    repeated = [line_of(gateway, gateway.hook("OnCallEvent", body)) for _ in range(2)]
    assert [line["source"] for line in repeated] == ["backend", "duplicate"]
    assert all(line["ineffective"] for line in repeated)


def test_a_new_connect_of_the_session_counts_from_then_on(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect(json.dumps({"restClientConfig": FAIL}))
    assert not session.is_ineffective()
    session.connect("{}")
    assert session.is_ineffective()


def test_what_is_known_of_a_session_outlives_a_reload(backend: FaultyBackend, tmp_path: Path) -> None:
    with running_gateway(configuration(backend.url_of("sessions")), tmp_path) as gateway:
        stays, stops = Session(gateway, "warn"), Session(gateway, "enforce")
        stays.connect(LOG)
        stops.connect(LOG)
        gateway.reload(configuration(backend.url_of("sessions"), extra={"static": "reject"}))
        assert Session(gateway, "extra").hook("call").status_code == 403
        assert stays.is_ineffective()
        assert not stops.is_ineffective()


# --- several workers ---


def spread(gateway: RunningGateway, session: Session, method: str, **fields: Any) -> httpx.Response:
    """A hook on a connection of its own, so that the system gives it to any worker."""
    return httpx.post(f"{gateway.url}/{method}", content=session.body(**fields), trust_env=False, timeout=20)


def test_a_session_is_known_to_all_workers_and_outlives_each_of_them(backend: FaultyBackend, tmp_path: Path) -> None:
    with running_gateway(configuration(backend.url_of("sessions"), workers=2), tmp_path) as gateway:
        first: list[int] = gateway.get("/api/status").json()["workers"]
        sessions = [Session(gateway, app) for app in ("warn", "enforce") * 10]
        for session in sessions:
            assert spread(gateway, session, "connect", answer=LOG).status_code == 200
        assert_all_known(gateway, sessions)
        workers = {call["worker"] for call in gateway.get("/api/decisions", params={"limit": 200}).json()["decisions"]}
        assert workers == set(first), "by chance, of one in a million, all connections reached one worker"
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: fresh(gateway, first), OUTAGE), gateway.log.read_text()
        assert_all_known(gateway, sessions)
        late = Session(gateway, "enforce")
        spread(gateway, late, "connect", answer=LOG)
        assert_all_known(gateway, [late])


def fresh(gateway: RunningGateway, old: list[int]) -> bool:
    """Whether two other workers serve."""
    now = gateway.get("/api/status").json()["workers"]
    return len(now) == 2 and not set(now) & set(old) and gateway.metric("gateway_workers") == 2


def assert_all_known(gateway: RunningGateway, sessions: list[Session]) -> None:
    for session in sessions:
        line = line_of(gateway, spread(gateway, session, "OnCallEvent"))
        assert ("ineffective" in line) is (session.app == "warn")


# --- a real backend ---


def test_php_s_own_settings_are_kept_and_raised(tmp_path: Path) -> None:
    with (
        apache_php(script=Path(__file__).parent.parent / "tools" / "connect.php") as php,
        running_gateway(configuration(php.url), tmp_path) as gateway,
    ):
        for app, asks, wanted in (
            ("warn", "LOG", "LOG"),
            ("warn", "FAIL", "FAIL"),
            ("enforce", "LOG", "FAIL"),
            ("enforce", "FAIL", "FAIL"),
        ):
            session = Session(gateway, app)
            answer = session.connect(asks=asks)
            settings = answer.json()["restClientConfig"]
            assert settings == {
                "ConnectionStatusEvent": {"restExclude": "sdp", "restOnError": "LOG"},
                "OnCallEvent": {"restOnError": wanted, "restPolicy": "OVERWRITE", "restOverwrite": "callee"},
                "OnMessageEvent": [],
            }
            assert b'192.0.2.1:8443"' in answer.content
            assert rb"\/192.0.2.7" in answer.content, "PHP's own spelling stays"
            assert session.is_ineffective() is (wanted == "LOG")
        empty = Session(gateway, "enforce").connect(asks="nothing").content
        assert empty.startswith(b'{"restClientConfig":{"OnCallEvent":{"restOnError":"FAIL"}},"appKey"'), "instead of []"
        listed = Session(gateway, "all").connect(asks="FAIL").json()["restClientConfig"]
        assert listed["OnMessageEvent"] == {"restOnError": "FAIL"}
