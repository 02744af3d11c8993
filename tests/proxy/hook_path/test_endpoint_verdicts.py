"""Which app a hook belongs to, what its caller gets, and what is logged of it (CONTRACT §3)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.proxy.hook_path.apps import CASE_OF_CAUSE, ENVIRONMENT, LISTEN
from tests.proxy.hook_path.exchanges import exchange, held, hook_of
from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway, wait_until

ANSWER_HEADERS: Final = {"cache-control", "content-type", "content-length", "x-request-id", "proxy-status"}
TRANSFER_HEADERS: Final = {"date", "connection"}
"""Say nothing of a backend: they belong to the gateway's own connection and clock."""
ALLOWED_BY_ALLOW: Final = {"timeout", "unreachable", "overload"}


# --- the app and the method ---


@pytest.mark.parametrize(
    ("app_key", "app"),
    [
        ("tenant-1", "tenant-1"), ("tenant-12", "tenant-1*"), ("tenant-3", "tenant-*"), ("tenant-", "tenant-*"),
        ("tenant-2", "tenant-*"), ("other-2", "*-2"), ("tonant-9", "t?nant-9"), ("tenant-*", "tenant-*"),
    ],
)  # fmt: skip
def test_an_app_is_found_by_its_exact_name_and_then_by_the_longest_glob(
    gateway: RunningGateway, app_key: str, app: str
) -> None:
    answer = gateway.hook(body=hook_of(app_key))
    assert answer.status_code == 200
    assert gateway.access_line(answer.headers["x-request-id"])["app"] == app


@pytest.mark.parametrize("app_key", ["nobody", "OK", "ok ", " ok", "tenant", "_unknown", "reject"])
def test_an_unknown_app_is_refused_with_a_clear_403(
    gateway: RunningGateway, backend: FaultyBackend, app_key: str
) -> None:
    before = len(backend.requests)
    answer = gateway.hook(body=hook_of(app_key))
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert app_key in answer.json()["detail"]
    line = gateway.access_line(answer.headers["x-request-id"])
    assert [line[key] for key in ("app", "verdict", "source", "reason")] == [
        "_unknown", "reject", "gateway", "unknown_app",
    ]  # fmt: skip
    assert len(backend.requests) == before


def test_unknown_app_can_name_the_app_whose_settings_serve_every_other_key(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    config = {
        "server": LISTEN,
        "upstreams": {"u": {"url": backend.url_of("ok")}},
        "apps": {"all-others": {"upstream": "u"}, "blocked": {"static": "reject"}},
        "unknown_app": "all-others",
    }
    with running_gateway(json.dumps(config), tmp_path) as gateway:
        answer = gateway.hook(body=hook_of("whatever"))
        assert answer.status_code == 200
        assert gateway.access_line(answer.headers["x-request-id"])["app"] == "all-others"
        assert gateway.hook(body=hook_of("blocked")).status_code == 403


@pytest.mark.parametrize(
    ("method", "status", "budget"), [("OnCallEvent", 403, 1000), ("connect", 200, 3000), ("call", 200, 2000)]
)
def test_a_methods_own_settings_stand_above_its_apps(
    gateway: RunningGateway, method: str, status: int, budget: int
) -> None:
    answer = gateway.hook(method, body=hook_of("methods"))
    assert answer.status_code == status
    assert gateway.access_line(answer.headers["x-request-id"])["budget_ms"] == budget


def test_a_static_allow_echoes_the_hook_and_asks_nobody(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body = b'{ "appKey" : "static-allow" , "x":1.0}\n'
    before = len(backend.requests)
    answer = gateway.hook(body=body)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "application/json"
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["source"], line["verdict"], line["upstream"], line["attempts"]) == ("static", "allow", None, 0)
    assert len(backend.requests) == before


def test_a_static_reject_is_an_empty_403_and_asks_nobody(gateway: RunningGateway, backend: FaultyBackend) -> None:
    before = len(backend.requests)
    answer = gateway.hook(body=hook_of("static-reject"))
    assert (answer.status_code, answer.content) == (403, b"")
    assert answer.headers["proxy-status"].startswith("gateway; error=")
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["source"], line["verdict"], line["upstream"]) == ("static", "reject", None)
    assert len(backend.requests) == before


# --- verdicts ---


@pytest.mark.parametrize("app", ["denied", "denied_html", "denied_yes"])
def test_a_backends_403_is_a_reject_with_an_empty_body_and_is_final(
    gateway: RunningGateway, backend: FaultyBackend, app: str
) -> None:
    answer = exchange(gateway, backend, app).answer
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (403, b"", "0")
    assert "proxy-status" not in answer.headers
    line = gateway.access_line(answer.headers["x-request-id"])
    assert [line[key] for key in ("verdict", "source", "reason", "attempts")] == ["reject", "backend", "denied", 1]
    assert gateway.metric("gateway_upstream_attempts_total", upstream=app, outcome="denied") >= 1


@pytest.mark.parametrize("cause", CASE_OF_CAUSE)
@pytest.mark.parametrize("fallback", ["none", "allow", "named", "others"])
def test_each_cause_meets_its_own_fallback(
    gateway: RunningGateway, backend: FaultyBackend, cause: str, fallback: str
) -> None:
    app = CASE_OF_CAUSE[cause] if fallback == "none" else f"{cause}-{fallback}"
    allowed = fallback == "named" or (fallback == "allow" and cause in ALLOWED_BY_ALLOW)
    body = hook_of(app, n=1.0)
    answer = exchange(gateway, backend, body=body).answer
    if allowed:
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "application/json"
    else:
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (403, b"", "0")
    assert answer.headers["proxy-status"].startswith("gateway; error=")
    line = gateway.access_line(answer.headers["x-request-id"])
    assert [line[key] for key in ("verdict", "source", "reason")] == [
        "allow" if allowed else "reject", "fallback", cause,
    ]  # fmt: skip
    assert line["error"]


def test_a_hook_that_no_connection_was_free_for_in_time_is_overload(
    gateway: RunningGateway, backend: FaultyBackend, gate: threading.Event
) -> None:
    with held(gateway, backend, gate), httpx.Client(trust_env=False, timeout=20) as client:
        allowed, rejected = (
            client.post(f"{gateway.url}/OnCallEvent", content=hook_of(app))
            for app in ("overload-allow", "overload-reject")
        )
    assert (allowed.status_code, allowed.content) == (200, hook_of("overload-allow"))
    assert (rejected.status_code, rejected.content) == (403, b"")
    for answer in (allowed, rejected):
        assert answer.headers["proxy-status"] == "gateway; error=connection_limit_reached"
        assert gateway.access_line(answer.headers["x-request-id"])["reason"] == "overload"


@pytest.mark.parametrize(
    ("app", "proxy_status"),
    [
        ("hang", "gateway; error=http_response_timeout"),
        ("refused", "gateway; error=connection_refused"),
        ("close_without_a_byte", "gateway; error=connection_terminated"),
        ("reset_before_body", "gateway; error=connection_terminated"),
        ("status_404", "gateway; error=http_protocol_error; received-status=404"),
        ("status_500", "gateway; error=http_protocol_error; received-status=500"),
        ("status_503_yes", "gateway; error=http_protocol_error; received-status=503"),
        ("redirect_302", "gateway; error=http_protocol_error; received-status=302"),
        ("half_body_close", "gateway; error=http_response_incomplete"),
        ("body_over_limit", "gateway; error=http_response_body_size"),
        ("header_100_kb", "gateway; error=http_response_header_section_size"),
    ],
)
def test_proxy_status_says_what_happened_in_the_words_of_rfc_9209(
    gateway: RunningGateway, app: str, proxy_status: str
) -> None:
    answer = gateway.hook(body=hook_of(app))
    assert answer.status_code == 403
    head, *parameters = proxy_status.split("; ")
    said = answer.headers["proxy-status"].split("; ")
    assert said[0] == head
    assert set(parameters) <= set(said[1:])
    received = [token for token in said if token.startswith("received-status=")]
    assert received in ([], ["received-status=200"]) or set(received) <= set(parameters)


@pytest.mark.parametrize(
    "app",
    [
        "ok", "ok_set_cookie", "ok_html_type", "denied_html", "status_500", "status_503_yes", "redirect_302", "hang",
        "body_bom", "static-allow", "static-reject", "nobody",
    ],
)  # fmt: skip
def test_answers_carry_the_contracts_header_fields_and_no_others(gateway: RunningGateway, app: str) -> None:
    answer = gateway.hook(body=hook_of(app))
    assert set(answer.headers) <= ANSWER_HEADERS | TRANSFER_HEADERS
    assert {"cache-control", "content-length", "x-request-id"} <= set(answer.headers)
    assert answer.headers.get("content-type") in (
        ("application/json",) if answer.status_code == 200 else (None, "application/problem+json")
    )


# --- the log and the gauge ---


def test_a_hooks_line_tells_who_decided_what_and_why_with_the_numbers_masked(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    fields = {"nodeId": "node-1", "sessionId": "/8.8.8.8:56046/46.101.108.90:8443", "callId": "pbx-8BD6",
              "caller": "+4930123456", "callee": "PPP005"}  # fmt: skip
    answer = exchange(gateway, backend, body=hook_of("ok", **fields)).answer
    line = gateway.access_line(answer.headers["x-request-id"])
    told = {
        "node_id": "node-1", "session_id": fields["sessionId"], "call_id": "pbx-8BD6", "app": "ok",
        "method": "OnCallEvent", "verdict": "allow", "source": "backend", "reason": "ok", "error": "", "status": 200,
        "upstream": "ok", "target": f"127.0.0.1:{backend.port}", "attempts": 1, "budget_ms": 5000,
    }  # fmt: skip
    assert {key: line[key] for key in told} == told
    assert 0 < line["upstream_ms"] <= line["duration_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    text = gateway.log.read_text()
    assert "4930123456" not in text
    assert "PPP005" not in text


def test_no_body_and_no_secret_of_client_or_backend_is_ever_logged(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    marker = hashlib.sha256(b"marker").hexdigest()
    answers = [
        gateway.hook(body=hook_of(app, sdp=marker), headers={"Authorization": f"WCS {marker}", "Cookie": marker})
        for app in ("ok", "keyed", "body_bom", "status_503_yes", "hang", "nobody", "ok_set_cookie")
    ]
    answers.append(gateway.hook(body=b'{"sdp":"' + marker.encode()))
    for answer in answers:
        gateway.access_line(answer.headers["x-request-id"])
    text = gateway.log.read_text()
    for secret in (marker, *ENVIRONMENT.values(), "secret-of-the-backend", base64.b64encode(b"wcs:").decode()[:4]):
        assert secret not in text


def test_hooks_in_flight_are_counted_while_they_are_and_not_after(
    gateway: RunningGateway, backend: FaultyBackend, gate: threading.Event
) -> None:
    with held(gateway, backend, gate):
        assert gateway.metric("gateway_hooks_in_flight", app="holder") == 1
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight") == 0)


def test_a_compressed_body_reaches_nobody_without_its_coding_even_where_any_body_is_taken(
    gateway: RunningGateway,
) -> None:
    answer = gateway.hook(body=hook_of("off-coded"))
    assert (answer.status_code, answer.content) == (403, b"")
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["reason"], line["status"]) == ("bad_answer", 403)
    assert "a compressed body, unasked" in line["error"]
    assert gateway.hook(body=hook_of("off")).status_code == 200
