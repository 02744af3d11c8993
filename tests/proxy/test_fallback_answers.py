"""A fallback that answers: while PHP is down, calls go to another number, reported where that changes nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

import httpx
import pytest

from tests.support.faulty import FaultyBackend, Step, Turn, added_case, gated_case, refused_port, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until

OVERFLOW: Final = {"unreachable": {"allow": {"callee": "1000"}}}
LISTED: Final = {"OnCallEvent": {"restPolicy": "OVERWRITE", "restOverwrite": "caller, callee"}}


def connects(turn: Turn) -> Iterable[Step]:
    """Answers with the text that the hook's field ``answer`` has, or with the hook itself."""
    hook = json.loads(turn.request.body)
    yield reply(hook["answer"].encode() if "answer" in hook else turn.request.body)


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with added_case("connects", "Answers connect as asked.", connects), gated_case():
        with FaultyBackend() as running:
            yield running
        assert running.problems == []


def configuration(url: str, slow: str, dead: int, workers: int) -> str:
    to_nobody = {"rules": [{"methods": ["OnCallEvent", "call", "*Event"], "upstream": "dead"}]}
    app = {"upstream": "php", "fallback": OVERFLOW, **to_nobody}
    enforced = {"mode": "enforce", "methods": {"OnCallEvent": {**LISTED["OnCallEvent"], "restOnError": "FAIL"}}}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
            "defaults": {"timeout": "5s"},
            "upstreams": {
                "php": {"url": url},
                "slow": {"url": slow, "breaker": "off"},
                "dead": {"url": f"http://127.0.0.1:{dead}/", "breaker": "off"},
            },
            "apps": {
                "warn": app,
                "off": {**app, "rest_client_config": "off"},
                "enforce": {**app, "rest_client_config": enforced},
                "own": {**app, "fallback": "reject", "methods": {"OnCallEvent": {"fallback": OVERFLOW}}},
                "slow": {
                    "upstream": "php",
                    "rules": [{"methods": "OnCallEvent", "upstream": "slow"}],
                    "methods": {"OnCallEvent": {"timeout": "300ms", "fallback": {"timeout": OVERFLOW["unreachable"]}}},
                },
                "wider": {key: value for key, value in app.items() if key != "fallback"},
                "blind": {
                    **app,
                    "rules": [
                        {"name": "nuisance", "caller": "+4930*", "methods": "OnCall*", "verdict": "reject"},
                        *to_nobody["rules"],
                    ],
                },
            },
        }
    )


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def gateway(
    backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningGateway]:
    with (
        refused_port() as dead,
        running_gateway(
            configuration(backend.url_of("connects"), backend.url_of("gated"), dead, request.param),
            tmp_path_factory.mktemp("gateway"),
        ) as running,
    ):
        yield running


class Session:
    """A client's session on the media server; each hook comes over a connection of its own, to whichever worker."""

    def __init__(self, gateway: RunningGateway, app: str) -> None:
        self.gateway = gateway
        self.fields = {"appKey": app, "nodeId": "n", "sessionId": uuid.uuid4().hex}

    def hook(self, method: str, **fields: Any) -> httpx.Response:
        body = json.dumps({**self.fields, "n": uuid.uuid4().hex, **fields}).encode()
        return self.gateway.hook(method, body, headers={"Connection": "close"})

    def connect(self, settings: object) -> dict[str, Any]:
        """Connect, with these settings in the answer; returns the access line."""
        answer = self.hook("connect", answer=json.dumps({"restClientConfig": settings}))
        assert answer.status_code == 200
        return line_of(self.gateway, answer)

    def line(self, method: str, **fields: Any) -> dict[str, Any]:
        return line_of(self.gateway, self.hook(method, **fields))


def line_of(gateway: RunningGateway, answer: httpx.Response) -> dict[str, Any]:
    return gateway.access_line(answer.headers["x-request-id"])


# --- the answer ---


@pytest.mark.parametrize("app", ["warn", "off", "own"])
def test_the_answer_is_the_hook_with_the_field_changed_and_nothing_else(gateway: RunningGateway, app: str) -> None:
    body = b'{ "appKey" :"%b","callee": "49301", "x":1.50,"callee":"4930123", "n":"%b" }' % (
        app.encode(), uuid.uuid4().hex.encode(),
    )  # fmt: skip
    answer = gateway.hook("OnCallEvent", body)
    line = line_of(gateway, answer)
    assert answer.status_code == 200
    assert answer.content == body.replace(b'"4930123"', b'"1000"')
    assert int(answer.headers["content-length"]) == len(answer.content) == len(body) - 3
    assert answer.headers["content-type"] == "application/json"
    assert (line["verdict"], line["source"], line["reason"]) == ("allow", "fallback", "unreachable")
    assert line["changed_fields"] == "callee"
    assert "1000" not in json.dumps(line), "which is a number"


def test_a_field_that_the_hook_lacks_is_added_and_an_escaped_name_is_found(gateway: RunningGateway) -> None:
    n = uuid.uuid4().hex.encode()
    body = b'{"appKey":"warn","n":"%b"\n}' % n
    assert gateway.hook("OnCallEvent", body).content == b'{"appKey":"warn","n":"%b","callee":"1000"\n}' % n
    escaped = b'{"appKey":"warn","\\u0063allee":"1","n":"%b"}' % n
    assert gateway.hook("OnCallEvent", escaped).content == escaped.replace(b'"1"', b'"1000"')


def test_where_nothing_is_to_be_changed_nothing_is_said_of_it(gateway: RunningGateway) -> None:
    refused = Session(gateway, "wider").hook("OnCallEvent")
    assert (refused.status_code, refused.content) == (403, b"")
    assert "changed_fields" not in line_of(gateway, refused)


def test_a_repeat_gets_the_same_answer_and_the_same_is_said_of_it(gateway: RunningGateway) -> None:
    session = Session(gateway, "slow")
    session.connect({})
    body = json.dumps({**session.fields, "callee": "1"}).encode()
    first, repeat = gateway.hook("OnCallEvent", body), gateway.hook("OnCallEvent", body)
    assert first.status_code == repeat.status_code == 200
    assert first.content == repeat.content == body.replace(b'"1"', b'"1000"')
    lines = [line_of(gateway, answer) for answer in (first, repeat)]
    assert [line["source"] for line in lines] == ["fallback", "duplicate"]
    assert {(line["reason"], line["changed_fields"], line["ignored_fields"]) for line in lines} == {
        ("timeout", "callee", "callee")
    }


# --- what the media server makes of it ---


def ineffective(gateway: RunningGateway, app: str, method: str = "OnCallEvent") -> float:
    return gateway.metric("gateway_ineffective_changes_total", app=app, method=method)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"OnCallEvent": {"restOnError": "FAIL"}},
        {"OnCallEvent": {"restOverwrite": "callee"}},
        {"OnCallEvent": {"restPolicy": "NOTIFY", "restOverwrite": "callee"}},
        {"OnCallEvent": {"restPolicy": "OVERWRITE", "restOverwrite": "caller"}},
        {"OnCallEvent": {"restPolicy": "OVERWRITE", "restOverwrite": ["callee"]}},
        {"call": LISTED["OnCallEvent"]},
        [],
        None,
    ],
)
def test_a_session_that_does_not_let_the_field_be_overwritten_is_told_of(
    gateway: RunningGateway, settings: object
) -> None:
    session = Session(gateway, "warn")
    session.connect(settings)
    before = ineffective(gateway, "warn")
    line = session.line("OnCallEvent", callee="1")
    assert (line["changed_fields"], line["ignored_fields"]) == ("callee", "callee")
    assert wait_until(lambda: ineffective(gateway, "warn") == before + 1)
    call = gateway.get(f"/api/decisions/{line['request_id']}").json()
    assert call["ignored_fields"] == "callee"
    found = gateway.get("/api/decisions", params={"ineffective": 1, "request_id": line["request_id"]}).json()[
        "decisions"
    ]
    assert [each["request_id"] for each in found] == [line["request_id"]]
    assert "does not take callee" in call["means"]


def test_a_session_that_lets_it_be_overwritten_is_not(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect(LISTED)
    line = session.line("OnCallEvent", callee="1")
    assert line["changed_fields"] == "callee"
    assert "ignored_fields" not in line
    assert session.line("call", callee="1")["ignored_fields"] == "callee"
    session.connect({})
    assert session.line("OnCallEvent", callee="1")["ignored_fields"] == "callee"


def test_enforce_makes_it_take_the_field(gateway: RunningGateway) -> None:
    session = Session(gateway, "enforce")
    assert session.connect({"OnCallEvent": {"restPolicy": "NOTIFY"}})["client_config"] == "enforced"
    assert "ignored_fields" not in session.line("OnCallEvent", callee="1")


@pytest.mark.parametrize(("app", "method"), [("warn", "CallStatusEvent"), ("off", "OnCallEvent")])
def test_of_events_and_where_nobody_looks_nothing_is_said(gateway: RunningGateway, app: str, method: str) -> None:
    session = Session(gateway, app)
    session.connect({})
    assert "ignored_fields" not in session.line(method, callee="1")


def test_of_a_session_that_is_not_known_nothing_is_said(gateway: RunningGateway) -> None:
    assert "ignored_fields" not in Session(gateway, "warn").line("OnCallEvent", callee="1")


def test_insights_tell_of_answers_that_change_nothing(gateway: RunningGateway) -> None:
    session = Session(gateway, "warn")
    session.connect({})
    session.line("OnCallEvent", callee="1")

    def told() -> dict[str, Any]:
        apps = gateway.get("/api/insights").json()["apps"]
        return next((app["ineffective_changes"] for app in apps if app["app"] == "warn"), {})

    assert wait_until(lambda: told().get("methods", {}).get("OnCallEvent"))


# --- what a session's hooks lack ---


@pytest.mark.parametrize(
    ("settings", "excluded"),
    [
        ({"OnCallEvent": {"restExclude": "x, caller"}}, "OnCallEvent.caller"),
        ({"OnCallEvent": {"restPolicy": "DISABLE"}}, "OnCallEvent.*"),
        ({"call": {"restPolicy": "DISABLE"}}, None),
        ({"call": {"restExclude": "caller"}}, None),
        ({"OnCallEvent": {"restExclude": "callee"}}, None),
        ({"OnCallEvent": {"clientExclude": "caller"}}, None),
        ({"call": {"restExclude": "sessionId,nodeId"}}, "call.nodeId,call.sessionId"),
        ({"madeUp\u001b": {"restExclude": "appKey"}}, "_other.appKey"),
    ],
)
def test_what_rules_or_the_gateway_itself_need_is_told_of_where_it_is_left_out(
    gateway: RunningGateway, settings: object, excluded: str | None
) -> None:
    line = Session(gateway, "blind").connect(settings)
    assert line.get("excluded") == excluded
    call = gateway.get(f"/api/decisions/{line['request_id']}").json()
    assert call["excluded"] == excluded
    for field in {name.split(".")[1] for name in (excluded or "").split(",") if name}:
        counted = partial(gateway.metric, "gateway_excluded_fields_total", app="blind", field=field)
        assert wait_until(counted)


def test_an_app_without_such_rules_is_not_blinded(gateway: RunningGateway) -> None:
    assert "excluded" not in Session(gateway, "warn").connect({"OnCallEvent": {"restExclude": "caller"}})
