"""A hook's way through a real gateway to a real backend and back: CONTRACT §3, rule by rule."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from faulty import BASE_PATH, FaultyBackend, Recorded, gated_case, refused_port, right_answer
from gateways import RunningGateway, read_answer, running_gateway, wait_until

ENVIRONMENT: Final = {"TEST_API_KEY": "key-of-the-upstream", "TEST_PASSWORD": "pass:wörd"}
LISTEN: Final = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
ANSWER_HEADERS: Final = {"content-type", "content-length", "x-request-id", "proxy-status"}
TRANSFER_HEADERS: Final = {"date", "connection"}
"""Say nothing of a backend: they belong to the gateway's own connection and clock."""

CASE_OF_CAUSE: Final = {
    "timeout": "hang",
    "unreachable": "close_without_a_byte",
    "bad_answer": "body_notice_before",
    "error_status": "status_500",
}
ALLOWED_BY_ALLOW: Final = {"timeout", "unreachable", "overload"}
TIMEOUT: Final = "400ms"


def configuration(backend: FaultyBackend, refused: int) -> str:
    cases = (
        *("ok", "ok_slow", "ok_set_cookie", "ok_html_type", "denied", "denied_html", "denied_yes"),
        *("refused", "status_404", "status_503_yes", "redirect_302", "body_bom", "half_body_close"),
        *("reset_before_body", "body_over_limit", "header_100_kb", *CASE_OF_CAUSE.values()),
    )  # fmt: skip
    upstreams: dict[str, dict[str, Any]] = {
        name: {"url": backend.url_of(name)} for name in dict.fromkeys(cases) if name != "refused"
    }
    upstreams["refused"] = {"url": f"http://127.0.0.1:{refused}"}
    ok = backend.url_of("ok")
    upstreams["slash"] = {"url": ok + "/"}
    upstreams["preserve"] = {"url": ok, "host": "preserve"}
    upstreams["literal"] = {"url": ok, "host": "legacy.example.com"}
    upstreams["no_keepalive"] = {"url": ok, "keepalive": "off"}
    upstreams["keyed"] = {
        "url": ok,
        "headers": {"X-Api-Key": "${env:TEST_API_KEY}", "Accept": "application/json;v=2"},
        "credentials": {"username": "wcs", "password": "${env:TEST_PASSWORD}"},
    }
    upstreams["single"] = {"url": backend.url_of("gated"), "max_connections": 1}
    apps: dict[str, dict[str, Any]] = {name: {"upstream": name, "timeout": TIMEOUT} for name in upstreams}
    for name in ("ok", "ok_slow", "slash", "preserve", "literal", "keyed", "no_keepalive"):
        apps[name]["timeout"] = "5s"
    for cause, case in CASE_OF_CAUSE.items():
        apps[f"{cause}-allow"] = {"upstream": case, "timeout": TIMEOUT, "fallback": "allow"}
        apps[f"{cause}-named"] = {"upstream": case, "timeout": TIMEOUT, "fallback": {cause: "allow"}}
        others = {other: "allow" for other in (*CASE_OF_CAUSE, "overload") if other != cause}
        apps[f"{cause}-others"] = {"upstream": case, "timeout": TIMEOUT, "fallback": others}
    apps["holder"] = {"upstream": "single", "timeout": "14s"}
    apps["overload-allow"] = {"upstream": "single", "timeout": "200ms", "fallback": "allow"}
    apps["overload-reject"] = {"upstream": "single", "timeout": "200ms"}
    apps["methods"] = {
        "upstream": "refused",
        "timeout": "2s",
        "fallback": "allow",
        "methods": {"OnCallEvent": {"timeout": "1s", "fallback": "reject"}, "connect": {"timeout": "3s"}},
    }
    apps["static-allow"] = {"static": "allow"}
    apps["static-reject"] = {"static": "reject"}
    apps |= {name: {"upstream": "ok"} for name in ("tenant-*", "tenant-1*", "tenant-1", "*-2", "t?nant-9")}
    for upstream in upstreams.values():
        upstream["breaker"] = "off"
    return json.dumps({"server": LISTEN, "defaults": {"dedupe": "off"}, "upstreams": upstreams, "apps": apps})


@pytest.fixture(scope="module")
def gate() -> Iterator[threading.Event]:
    """What the backend of the app "holder" waits for."""
    with gated_case() as opened:
        yield opened


@pytest.fixture(scope="module")
def backend(gate: threading.Event) -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with (
        refused_port() as refused,
        running_gateway(configuration(backend, refused), directory, environment=ENVIRONMENT) as running,
    ):
        yield running


def hook_of(app: str, **fields: Any) -> bytes:
    return json.dumps({"appKey": app, **fields}).encode()


class Exchange(NamedTuple):
    answer: httpx.Response
    request: Recorded
    """As the backend had it."""


@contextlib.contextmanager
def held(gateway: RunningGateway, backend: FaultyBackend, gate: threading.Event) -> Iterator[None]:
    """While the block lasts, a hook of the app "holder" is with its backend, on the one connection there."""
    before = len(backend.requests_of("gated"))
    gate.clear()
    holder = threading.Thread(target=gateway.hook, kwargs={"body": hook_of("holder")})
    holder.start()
    try:
        assert backend.wait_for_requests(before + 1, "gated", within=10)
        yield
    finally:
        gate.set()
        holder.join()


def exchange(gateway: RunningGateway, backend: FaultyBackend, app: str = "ok", **options: Any) -> Exchange:
    """Send a hook that reaches the backend exactly once."""
    before = len(backend.requests)
    answer = gateway.hook(body=options.pop("body", None) or hook_of(app), **options)
    assert len(backend.requests) == before + 1
    return Exchange(answer, backend.requests[-1])


def raw_hook(body: bytes, *lines: bytes, method: bytes = b"OnCallEvent", framing: bytes | None = None) -> bytes:
    framing = b"Content-Length: %d" % len(body) if framing is None else framing
    return b"\r\n".join((b"POST /rest/my_api/%b HTTP/1.1" % method, b"Host: gw", framing, *lines, b"", body))


# --- the body ---

BODIES: Final = {
    "odd white space": b'\r\n{ "appKey" :\t"ok" ,"n": 1.50,\n "e":1E+2 }\n ',
    "escapes": b'{"appKey":"\\u006fk","callId":"a\\/b\\u00fc"}',
    "umlauts": '{"appKey":"ok","caller":"Jürgen \U0001f4de"}'.encode(),
    "duplicate fields": b'{"appKey":"ok","a":1,"a":2}',
    "a large number": b'{"appKey":"ok","n":' + b"9" * 5000 + b"}",
    "an SDP": hook_of("ok", sdp="v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n" * 120),
    "200 kB": hook_of("ok", pad="x" * 200_000),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_body_goes_on_byte_for_byte_with_its_length_and_the_answer_comes_back_so(
    gateway: RunningGateway, backend: FaultyBackend, body: bytes
) -> None:
    answer, request = exchange(gateway, backend, body=body)
    assert request.body == body
    assert request.values("content-length") == [b"%d" % len(body)]
    assert not request.chunked
    assert (answer.status_code, answer.content) == (200, right_answer(body))
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))


def test_a_body_that_came_in_chunks_goes_on_with_a_length(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body = hook_of("ok", pad="x" * 5000)
    pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
    before = len(backend.requests)
    answer = gateway.client.post(f"{gateway.url}/OnCallEvent", content=iter(pieces))
    request = backend.requests[before]
    assert answer.content == right_answer(body)
    assert (request.body, request.chunked, request.values("content-length")) == (body, False, [b"%d" % len(body)])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
def test_what_the_hooks_content_type_says_changes_nothing_and_goes_on(
    gateway: RunningGateway, backend: FaultyBackend, content_type: str
) -> None:
    answer, request = exchange(gateway, backend, headers={"Content-Type": content_type})
    assert answer.status_code == 200
    assert request.values("content-type") == [content_type.encode()]


# --- the path ---

LEGAL_QUERY: Final = "sid=a%2Fb&x=1+2&y&z=!$'()*,;:@/?-._~%C3%BC"


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/OnCallEvent", "/OnCallEvent"),
        ("/rest/my_api/OnCallEvent", "/OnCallEvent"),
        ("/a/b/c/d/e/connect", "/connect"),
        ("/rest//connect", "/connect"),
        ("//connect", "/connect"),
        ("/rest/%2e%2e/../..%2f/connect", "/connect"),
        ("/rest;v=1/%00/connect", "/connect"),
        ("/rest%0a/connect", "/connect"),
        ("/rest/%4fnCallEvent", "/OnCallEvent"),
        ("/rest/NewMethod_7", "/NewMethod_7"),
        (f"/rest/connect?{LEGAL_QUERY}", f"/connect?{LEGAL_QUERY}"),
    ],
)
def test_the_backend_sees_its_own_path_and_the_method_and_the_query_whatever_the_prefix(
    gateway: RunningGateway, backend: FaultyBackend, path: str, seen: str
) -> None:
    body = hook_of("ok")
    before = len(backend.requests)
    answer = gateway.send(raw_hook(body).replace(b"/rest/my_api/OnCallEvent", path.encode(), 1))
    assert (answer.status, answer.body) == (200, right_answer(body))
    assert backend.requests[before].path == f"{BASE_PATH}/ok{seen}"


def test_a_slash_at_the_end_of_the_upstreams_url_is_not_doubled(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    assert exchange(gateway, backend, "slash").request.path == f"{BASE_PATH}/ok/OnCallEvent"


def test_a_request_target_in_absolute_form_is_a_hook_like_any_other(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    before = len(backend.requests)
    assert gateway.send(raw_hook(hook_of("ok")).replace(b"POST /", b"POST http://gw/", 1)).status == 200
    assert backend.requests[before].path == f"{BASE_PATH}/ok/OnCallEvent"


def test_a_request_target_that_names_another_host_than_host_does_is_refused(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    before = len(backend.requests)
    answer = gateway.send(raw_hook(hook_of("ok")).replace(b"POST /", b"POST http://elsewhere.example/", 1))
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert len(backend.requests) == before


# --- the header fields of the request ---


def test_end_to_end_fields_go_on_as_they_came(gateway: RunningGateway, backend: FaultyBackend) -> None:
    own = {
        "Accept": "application/json",
        "User-Agent": "Java/1.8.0_111",
        "Authorization": "WCS 0123456789abcdef",
        "X-Anything": 'some "thing"; else',
        "Cookie": "a=b",
    }
    request = exchange(gateway, backend, headers=own).request
    assert {name: request.values(name) for name in own} == {name: [value.encode()] for name, value in own.items()}


def test_hop_by_hop_fields_and_those_that_connection_names_stay_behind(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    for_this_hop = {
        "Connection": "keep-alive, X-Hop, x-other-hop",
        "X-Hop": "1",
        "X-Other-Hop": "2",
        "Keep-Alive": "timeout=5",
        "Proxy-Connection": "keep-alive",
        "Proxy-Authorization": "Basic c2VjcmV0",
        "TE": "trailers",
        "Trailer": "X-Sum",
        "Upgrade": "h2c",
    }
    request = exchange(gateway, backend, headers={**for_this_hop, "X-Stays": "3"}).request
    assert [name for name in for_this_hop if name != "Connection" and request.values(name)] == []
    assert request.values("connection") in ([], [b"keep-alive"])
    assert request.values("x-stays") == [b"3"]


def test_set_cookie_goes_on_neither_way(gateway: RunningGateway, backend: FaultyBackend) -> None:
    answer, request = exchange(gateway, backend, "ok_set_cookie", headers={"Set-Cookie": "a=b"})
    assert request.values("set-cookie") == []
    assert "set-cookie" not in answer.headers


def test_forwarded_fields_name_the_real_client_and_a_forged_one_is_gone(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    forged = {
        "X-Forwarded-For": "198.51.100.7, 10.0.0.1",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=198.51.100.7",
    }
    request = exchange(gateway, backend, headers=forged).request
    assert request.values("x-forwarded-for") == [b"127.0.0.1"]
    assert request.values("x-forwarded-proto") == [b"http"]
    assert request.values("forwarded") == []


def test_via_names_the_gateway_behind_those_before_it(gateway: RunningGateway, backend: FaultyBackend) -> None:
    (alone,) = exchange(gateway, backend).request.values("via")
    (appended,) = exchange(gateway, backend, headers={"Via": "1.0 fred, 1.1 p.example.net"}).request.values("via")
    assert re.fullmatch(rb"1\.1 \S+", alone)
    assert appended == b"1.0 fred, 1.1 p.example.net, " + alone


@pytest.mark.parametrize("sane", ["7b3f", "a-b_c.d:e/f+g=h@i", "x" * 128])
def test_a_sane_request_id_is_kept_on_the_whole_way(gateway: RunningGateway, backend: FaultyBackend, sane: str) -> None:
    answer, request = exchange(gateway, backend, headers={"X-Request-Id": sane})
    assert request.values("x-request-id") == [sane.encode()]
    assert answer.headers["x-request-id"] == sane
    assert gateway.access_line(answer.headers["x-request-id"])["status"] == 200


@pytest.mark.parametrize("odd", ["", "a b", "x" * 129, 'say "hi"', "{json}", "a,b", "<script>", "\xfc"])
def test_any_other_request_id_is_replaced(gateway: RunningGateway, backend: FaultyBackend, odd: str) -> None:
    answer, request = exchange(gateway, backend, headers={"X-Request-Id": odd.encode("latin-1")})
    (made,) = request.values("x-request-id")
    assert re.fullmatch(rb"[A-Za-z0-9-]{16,64}", made)
    assert answer.headers["x-request-id"].encode() == made


def test_every_hook_without_a_request_id_gets_its_own(gateway: RunningGateway, backend: FaultyBackend) -> None:
    made = {exchange(gateway, backend).answer.headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20


@pytest.mark.parametrize("broken", [b"a\r\nX-Evil: 1", b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\0b"])
def test_a_line_end_in_a_request_id_becomes_no_line_of_the_answer(
    gateway: RunningGateway, backend: FaultyBackend, broken: bytes
) -> None:
    with gateway.connect() as sock:
        sock.sendall(raw_hook(hook_of("ok"), b"X-Request-Id: " + broken, b"Connection: close"))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    assert b"evil" not in answer.lower()
    if answer.startswith(b"HTTP/1.1 200 "):  # CR LF made a header field of the client's own: an honest one
        assert backend.requests[-1].values("x-request-id") == [b"a"]


TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_is_kept_with_its_state(gateway: RunningGateway, backend: FaultyBackend) -> None:
    request = exchange(gateway, backend, headers={"traceparent": TRACE, "tracestate": "a=1"}).request
    assert request.values("traceparent") == [TRACE.encode()]
    assert request.values("tracestate") == [b"a=1"]


@pytest.mark.parametrize(
    "odd",
    [
        None, "", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", TRACE.upper(), "ff" + TRACE[2:],
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)  # fmt: skip
def test_a_trace_is_started_where_there_is_none_that_is_valid(
    gateway: RunningGateway, backend: FaultyBackend, odd: str | None
) -> None:
    request = exchange(gateway, backend, headers={} if odd is None else {"traceparent": odd}).request
    (made,) = request.values("traceparent")
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", made)
    assert b"-" + b"0" * 32 + b"-" not in made
    assert b"-" + b"0" * 16 + b"-" not in made


def test_the_backend_is_told_what_is_left_of_the_budget(gateway: RunningGateway, backend: FaultyBackend) -> None:
    request = exchange(gateway, backend, headers={"X-Request-Timeout-Ms": "999999"}).request
    (left,) = request.values("x-request-timeout-ms")
    assert 0 < int(left) <= 5000


def test_no_coding_of_the_answer_is_asked_for(gateway: RunningGateway, backend: FaultyBackend) -> None:
    request = exchange(gateway, backend, headers={"Accept-Encoding": "gzip, br"}).request
    assert request.values("accept-encoding") in ([], [b"identity"])


@pytest.mark.parametrize(
    ("app", "host"), [("ok", None), ("preserve", b"media.example"), ("literal", b"legacy.example.com")]
)
def test_host_is_the_targets_or_the_clients_or_a_literal(
    gateway: RunningGateway, backend: FaultyBackend, app: str, host: bytes | None
) -> None:
    request = exchange(gateway, backend, app, headers={"Host": "media.example"}).request
    assert request.values("host") == [host or b"127.0.0.1:%d" % backend.port]


def test_an_upstreams_headers_and_credentials_replace_the_clients(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    forged = {"X-Api-Key": "forged", "Authorization": "Basic Zm9yZ2Vk", "accept": "text/html"}
    request = exchange(gateway, backend, "keyed", headers=forged).request
    basic = base64.b64encode(f"wcs:{ENVIRONMENT['TEST_PASSWORD']}".encode())
    assert request.values("x-api-key") == [ENVIRONMENT["TEST_API_KEY"].encode()]
    assert request.values("accept") == [b"application/json;v=2"]
    assert request.values("authorization") == [b"Basic " + basic]


def test_credentials_of_an_upstream_reach_no_other(gateway: RunningGateway, backend: FaultyBackend) -> None:
    exchange(gateway, backend, "keyed")
    request = exchange(gateway, backend, "ok").request
    assert (request.values("authorization"), request.values("x-api-key")) == ([], [])


def test_backend_connections_are_kept_and_keepalive_off_closes_each(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    kept = {exchange(gateway, backend, "ok").request.connection for _ in range(3)}
    closed = [exchange(gateway, backend, "no_keepalive").request for _ in range(3)]
    assert len(kept) == 1
    assert len({request.connection for request in closed}) == 3
    assert all(request.values("connection") == [b"close"] for request in closed)


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
    assert {"content-length", "x-request-id"} <= set(answer.headers)
    assert answer.headers.get("content-type") in (
        ("application/json",) if answer.status_code == 200 else (None, "application/problem+json")
    )


# --- the client's connection ---


def test_a_client_that_expects_100_continue_is_told_to_go_on(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body = hook_of("ok", pad="x" * 3000)
    before = len(backend.requests)
    with gateway.connect() as sock:
        head, _, _ = raw_hook(body, b"Expect: 100-continue").partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\n\r\n")
        stream = sock.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 100 ")
        assert stream.readline() == b"\r\n"
        assert len(backend.requests) == before
        sock.sendall(body)
        assert read_answer(stream)[::2] == (200, right_answer(body))
    assert backend.requests[before].values("expect") == []


def test_an_http_1_0_client_gets_its_answer_and_a_close(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body = hook_of("ok")
    before = len(backend.requests)
    with gateway.connect() as sock:
        sock.sendall(b"POST /rest/OnCallEvent HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split(b" ")[1] == b"200"
    assert answer.endswith(b"\r\n\r\n" + right_answer(body))
    request = backend.requests[before]
    assert request.line.endswith(b" HTTP/1.1")
    assert request.values("host") == [b"127.0.0.1:%d" % backend.port]


def test_a_connection_carries_one_hook_after_another(gateway: RunningGateway) -> None:
    with gateway.connect() as sock:
        stream = sock.makefile("rb")
        for number, app in enumerate(["ok", "denied", "nobody", "static-allow", "status_500", "ok"]):
            body = hook_of(app, n=number)
            sock.sendall(raw_hook(body))
            status, _, content = read_answer(stream)
            assert status == (200 if app in ("ok", "static-allow") else 403)
            if app == "ok":
                assert content == right_answer(body)


def test_ten_hooks_in_one_segment_get_each_its_own_answer_in_order(gateway: RunningGateway) -> None:
    bodies = [hook_of("ok_slow" if number == 0 else "ok", n=number) for number in range(10)]
    with gateway.connect() as sock:
        sock.sendall(b"".join(map(raw_hook, bodies)))
        stream = sock.makefile("rb")
        assert [read_answer(stream)[::2] for _ in bodies] == [(200, right_answer(body)) for body in bodies]


def test_what_follows_connection_close_is_not_taken_for_a_hook(gateway: RunningGateway, backend: FaultyBackend) -> None:
    first, second = hook_of("ok", n="first"), hook_of("ok", n="behind the close")
    with gateway.connect() as sock:
        sock.sendall(raw_hook(first, b"Connection: close") + raw_hook(second))
        stream = sock.makefile("rb")
        assert read_answer(stream)[::2] == (200, right_answer(first))
        with contextlib.suppress(ConnectionResetError):
            assert stream.read() == b""
    assert second not in [request.body for request in backend.requests]


def leave(sock: socket.socket, *, reset: bool) -> None:
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_a_client_that_leaves_amid_its_body_reaches_no_backend_and_is_logged_as_499(
    gateway: RunningGateway, backend: FaultyBackend, reset: bool
) -> None:
    request_id = f"leaves-amid-body-{reset}"
    body = hook_of("ok", pad="x" * 1000)
    before = len(backend.requests)
    sock = gateway.connect()
    sock.sendall(raw_hook(body, b"X-Request-Id: " + request_id.encode())[:-500])
    in_body = gateway.metric("gateway_hooks_total", reason="bad_request")  # the round trip lets the head arrive first
    leave(sock, reset=reset)
    line = gateway.wait_for_line(lambda line: line.get("request_id") == request_id)
    assert (line["status"], line["verdict"], line["upstream"], line["attempts"]) == (499, "error", None, 0)
    assert line["method"] == "OnCallEvent"
    assert len(backend.requests) == before
    assert gateway.metric("gateway_hooks_total", reason="bad_request") == in_body + 1
    assert exchange(gateway, backend).answer.status_code == 200


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_a_client_that_leaves_while_the_backend_works_is_no_failure_of_the_backend(
    gateway: RunningGateway, backend: FaultyBackend, reset: bool
) -> None:
    request_id = f"leaves-while-working-{reset}"
    body = hook_of("ok_slow", n=reset)
    before = len(backend.requests_of("ok_slow"))
    fine = gateway.metric("gateway_upstream_attempts_total", upstream="ok_slow", outcome="ok")
    every = gateway.metric("gateway_upstream_attempts_total", upstream="ok_slow")
    sock = gateway.connect()
    sock.sendall(raw_hook(body, b"X-Request-Id: " + request_id.encode()))
    assert backend.wait_for_requests(before + 1, "ok_slow", within=10)
    leave(sock, reset=reset)
    line = gateway.wait_for_line(lambda line: line.get("request_id") == request_id)
    assert (line["verdict"], line["source"], line["reason"]) == ("allow", "backend", "ok")
    assert gateway.metric("gateway_upstream_attempts_total", upstream="ok_slow", outcome="ok") == fine + 1
    assert gateway.metric("gateway_upstream_attempts_total", upstream="ok_slow") == every + 1
    assert [request.body for request in backend.requests_of("ok_slow")[before:]] == [body]
    connection = backend.requests_of("ok_slow")[-1].connection
    assert exchange(gateway, backend, "ok_slow").request.connection == connection  # its answer was read to the end


def test_a_client_that_never_reads_holds_up_nobody(gateway: RunningGateway) -> None:
    body = hook_of("static-allow", pad="x" * 200_000)
    with gateway.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(1)
        with contextlib.suppress(TimeoutError):  # once its answers back up, the gateway stops reading
            for _ in range(100):
                sock.sendall(raw_hook(body))
        assert gateway.hook(body=hook_of("ok")).status_code == 200


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
