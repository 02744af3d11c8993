"""Events sent to real PHP: with any answer they are delivered, unless the script died."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.policy.event_answers import reports_fatal
from tests.support.gateways import RunningGateway, running_gateway
from tests.support.programs import apache_php, require

pytestmark = pytest.mark.real

SCRIPT: Final = Path(__file__).parent.parent / "tools" / "dying.php"
WELL: Final = ["empty", "echo", "quote", "list", "warning", "notice", "quoting notice"]
DEAD: Final = [
    "undefined", "throw", "silent", "mysqli", "pdo", "error", "memory", "parse", "middle", "late", "handler",
    "message", "minified",
]  # fmt: skip
SETTINGS: Final = {
    "text": {"display_errors": "1", "html_errors": "0"},
    "html": {"display_errors": "1", "html_errors": "1"},
    "as without php.ini": {},
    "logged": {"display_errors": "0", "log_errors": "1"},
    "logged with the time": {"display_errors": "0", "log_errors": "1", "error_log": "/dev/stdout"},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("end", [*WELL, *DEAD])
def test_what_php_prints_when_it_dies_is_known_and_nothing_else(end: str, setting: str) -> None:
    options = [f"-d{name}={value}" for name, value in {"log_errors": "0", **SETTINGS[setting]}.items()]
    command = [require("php", "php-cli"), "-n", *options, str(SCRIPT)]
    hook = json.dumps({"appKey": "a", "end": end}).encode()
    done = subprocess.run(command, input=hook, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    assert reports_fatal(done.stdout) is (end in DEAD), done.stdout


# --- the whole way ---


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with apache_php(script=SCRIPT) as php:
        config = {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "defaults": {"timeout": "10s", "upstream": "php"},
            "upstreams": {"php": {"url": php.url, "connect_timeout": "5s"}},
            "apps": {"a": {}, "repair": {"response_check": "repair"}, "strict": {"event_answers": "strict"}},
        }
        with running_gateway(json.dumps(config), tmp_path_factory.mktemp("events")) as running:
            yield running


def told(gateway: RunningGateway, method: str = "CallStatusEvent", **fields: Any) -> tuple[int, bytes, dict[str, Any]]:
    fields = {"appKey": "a", "sessionId": "/1.2.3.4:5/6.7.8.9:10", **fields}
    answer = gateway.hook(method, json.dumps(fields).encode())
    return answer.status_code, answer.content, gateway.access_line(answer.headers["x-request-id"])


@pytest.mark.parametrize("app", ["a", "repair"])
@pytest.mark.parametrize("html", [False, True], ids=["text", "html"])
@pytest.mark.parametrize("end", [*WELL, *DEAD])
def test_an_event_is_delivered_unless_the_script_died(gateway: RunningGateway, end: str, html: bool, app: str) -> None:
    hook: dict[str, Any] = {
        "appKey": app,
        "sessionId": "/1.2.3.4:5/6.7.8.9:10",
        "end": end,
        "html": html,
        "status": 200,
    }
    status, body, line = told(gateway, **hook)
    if end in WELL:
        own = json.dumps(hook).encode()
        assert (status, line["source"], line["reason"]) == (200, "backend", "ok")
        assert body == own if end != "quote" else json.loads(body)["note"]
        wanted = end not in ("echo", "quote") and not (end in ("notice", "quoting notice") and "repaired" in line)
        assert ("substituted" in line) is wanted
    else:
        assert (status, body) == (403, b"")
        assert (line["source"], line["reason"]) == ("fallback", "bad_answer")


@pytest.mark.parametrize("status", [201, 202, 204])
def test_any_2xx_will_do(gateway: RunningGateway, status: int) -> None:
    answered, body, line = told(gateway, end="empty", status=status)
    assert (answered, line["reason"], line["substituted"]) == (200, "ok", f"status {status}")
    assert json.loads(body)["end"] == "empty"


def test_a_question_is_judged_as_ever(gateway: RunningGateway) -> None:
    for method in ("OnCallEvent", "StreamKeepAliveEvent", "connect", "call"):
        for fields, reason in (({"end": "empty"}, "bad_answer"), ({"end": "echo", "status": 201}, "error_status")):
            status, body, line = told(gateway, method, **fields)
            assert (status, body, line["reason"]) == (403, b"", reason)


def test_a_strict_app_judges_events_like_questions(gateway: RunningGateway) -> None:
    for fields, reason in (({"end": "empty"}, "bad_answer"), ({"end": "echo", "status": 201}, "error_status")):
        status, _, line = told(gateway, appKey="strict", **fields)
        assert (status, line["reason"]) == (403, reason)
    assert told(gateway, appKey="strict", end="echo")[0] == 200
