"""What becomes of a hook on its way to the backend: body, path and header fields (CONTRACT §3)."""

from __future__ import annotations

import base64
import re
from typing import Final

import pytest

from tests.proxy.hook_path.apps import ENVIRONMENT
from tests.proxy.hook_path.exchanges import exchange, hook_of, raw_hook
from tests.support.faulty import BASE_PATH, FaultyBackend, right_answer
from tests.support.gateways import RunningGateway

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
