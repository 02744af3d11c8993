"""The gateway before real PHP backends, and between Java's HTTP client and Apache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.support.gateways import RunningGateway, running_gateway
from tests.support.programs import CALL_ID, Backend, apache_php, java_hooks, php_server

pytestmark = pytest.mark.real

SERVERS: Final = ["php -S", "Apache", "Apache without keep-alive"]
WORKERS: Final = 8
SDP: Final = "v=0\\r\\no=- 1 1 IN IP4 0.0.0.0\\r\\n" * 100
TEMPLATE: Final = '{\n  "appKey" : "defaultApp",\t"callId":"%s",\r\n "caller":"J\\u00fcrgen ü", "sdp":"%s" }\n'

BEHAVIOURS: Final = {
    "PPP005": ("allow", "ok"),
    "": ("allow", "ok"),
    "CLOSE": ("allow", "ok"),
    "HTTP10": ("allow", "ok"),
    "SLOW0.2": ("allow", "ok"),
    "REFUSE": ("reject", "denied"),
    "NOTICE": ("reject", "bad_answer"),
    'NOTICE {"restPolicy":"OVERWRITE"}': ("reject", "bad_answer"),
    "NOTICEAFTER": ("reject", "bad_answer"),
    "NOTICELENGTH": ("reject", "bad_answer"),
    "FATALSHOWN": ("reject", "bad_answer"),
    "EMPTY": ("reject", "bad_answer"),
    "ARRAY": ("reject", "bad_answer"),
    "BOM": ("reject", "bad_answer"),
    "HTML": ("reject", "bad_answer"),
    "FATAL": ("reject", "error_status"),
    "STACKTRACE": ("reject", "error_status"),
    "REDIRECT": ("reject", "error_status"),
    "SLOW5": ("reject", "timeout"),
}


def configuration(backend: Backend) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "upstreams": {"php": {"url": backend.url, "max_connections": WORKERS, "connect_timeout": "5s"}},
            "apps": {
                "defaultApp": {"upstream": "php", "timeout": "14s"},
                "impatient": {"upstream": "php", "timeout": "500ms"},
            },
        }
    )


@pytest.fixture(scope="module", params=SERVERS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, Backend]]:
    with ExitStack() as stack:
        if request.param == "php -S":
            backend = stack.enter_context(php_server())
        else:
            backend = stack.enter_context(apache_php(workers=WORKERS, keep_alive=request.param == "Apache"))
        directory = tmp_path_factory.mktemp("gateway")
        yield stack.enter_context(running_gateway(configuration(backend), directory)), backend


@pytest.mark.parametrize("callee", BEHAVIOURS)
def test_what_a_php_backend_does_is_the_verdict_and_the_reason_that_the_contract_names(
    pair: tuple[RunningGateway, Backend], callee: str
) -> None:
    gateway, backend = pair
    verdict, reason = BEHAVIOURS[callee]
    app = "impatient" if reason == "timeout" else "defaultApp"
    body = json.dumps({"appKey": app, "callId": "a/b\u00fc", "callee": callee}, ensure_ascii=False).encode()
    before = len(backend.hooks())
    answer = gateway.hook(body=body)
    line: dict[str, Any] = gateway.wait_for_line(lambda line: line.get("request_id") == answer.headers["x-request-id"])
    assert (line["verdict"], line["reason"]) == (verdict, reason)
    assert (answer.status_code, answer.content) == ((200, body) if verdict == "allow" else (403, b""))
    assert "x-powered-by" not in answer.headers
    seen = backend.hooks()[before:]
    assert [hook.request_id for hook in seen] == [answer.headers["x-request-id"]]  # asked exactly once


@pytest.mark.parametrize(
    "pair", ["Apache", pytest.param("Apache without keep-alive", marks=pytest.mark.slow)], indirect=True
)
def test_two_thousand_hooks_of_java_reach_apache_once_each_and_come_back_byte_for_byte(
    pair: tuple[RunningGateway, Backend],
) -> None:
    gateway, backend = pair
    count = 2000
    before = len(backend.hooks())
    allowed = gateway.metric("gateway_hooks_total", app="defaultApp", verdict="allow", source="backend")
    everything = gateway.metric("gateway_hooks_total")
    results = java_hooks(f"{gateway.url}/OnCallEvent", 8, count, TEMPLATE % (CALL_ID, SDP))
    seen = backend.hooks()[before:]
    assert [result for result in results if result.status != 200] == []
    assert all(result.received_sha1 == result.sent_sha1 for result in results)
    sent = Counter(result.sent_sha1 for result in results)
    assert len(sent) == count
    assert Counter(hook.sha1 for hook in seen) == sent
    assert {hook.method for hook in seen} == {"OnCallEvent"}
    assert (
        gateway.metric("gateway_hooks_total", app="defaultApp", verdict="allow", source="backend"),
        gateway.metric("gateway_hooks_total"),
    ) == (allowed + count, everything + count)
