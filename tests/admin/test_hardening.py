"""The two ports kept apart by every trick, and what a web page on this machine may not do to the admin port."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.faulty import FaultyBackend
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway

TOKEN: Final = "token-of-the-admin"
ENVIRONMENT: Final = {"TEST_ADMIN_TOKEN": TOKEN}
BEARER: Final = f"Authorization: Bearer {TOKEN}"
PATHS: Final = ("/metrics", "/-/healthy", "/-/ready", "/-/reload", "/-/drain", "/api/status", "/api/config", "/")
ADMIN_WORDS: Final = (b"gateway_", b"healthy", b"ready", b"uptime", b"upstreams", b"reload", b"<html")
"""What pages of the admin port hold, and no answer to a hook."""
SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

LOCAL: Final = (
    "127.0.0.1", "127.0.0.1:9180", "127.0.0.1:", "127.1.2.3", "localhost", "localhost:9180", "LocalHost", "[::1]",
    "[::1]:9180", "10.0.0.7", "192.0.2.1:80", "[2001:db8::1]",
)  # fmt: skip
"""An address cannot be another's name: a page that was loaded from it came from there."""
FOREIGN: Final = (
    "evil.example", "evil.example:9180", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.example",
    "evil-localhost", "localhost.", "localhost.localdomain", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
    "127.0.0.1.", "xn--localhost-", "gateway", "metrics", "localhost_",
)  # fmt: skip
INVALID: Final = (
    "", " ", "evil.example@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1/", "127.0.0.1 evil.example",
    "127.0.0.1,evil.example", "127.0.0.1:80:80", "[::1", "::1", "[::1%25eth0]", "http://127.0.0.1", "127.0.0.1\\@evil",
    "127.0.0.1:9180x", "[127.0.0.1", "localhost#", "localhost?",
)  # fmt: skip


def config(backend: FaultyBackend, admin: dict[str, str]) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "admin": admin,
            "defaults": {"dedupe": "off", "timeout": "10s"},
            "upstreams": {"u": {"url": backend.url_of("ok"), "breaker": "off"}},
            "apps": {"defaultApp": {"upstream": "u"}},
        }
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Without an admin token."""
    with running_gateway(config(backend, {}), tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With an admin token."""
    text = config(backend, {"token": "${env:TEST_ADMIN_TOKEN}"})
    with running_gateway(text, tmp_path_factory.mktemp("guarded"), environment=ENVIRONMENT) as running:
        yield running


def ask(
    address: str, method: str, target: str, *lines: str, host: str | None = "127.0.0.1", version: str = "1.1",
    body: bytes = b"",
) -> Answer:  # fmt: skip
    """One request, its bytes as they are given."""
    head = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *lines]
    head.append(f"Content-Length: {len(body)}")
    name, port = address.rsplit(":", 1)
    with socket.create_connection((name, int(port)), timeout=20) as sock, sock.makefile("rb") as stream:
        sock.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        return read_answer(stream, to_head=method == "HEAD")


# --- the Host that a web page's requests carry ---


@pytest.mark.parametrize("host", LOCAL)
def test_who_asks_by_address_or_as_localhost_reads(gateway: RunningGateway, guarded: RunningGateway, host: str) -> None:
    for running in (gateway, guarded):
        assert ask(running.admin, "GET", "/api/status", host=host).status == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/metrics", "/api/config", "/nothing"])
def test_a_name_that_was_made_to_lead_here_reads_nothing(
    gateway: RunningGateway, guarded: RunningGateway, path: str, host: str
) -> None:
    # DNS rebinding: a page of evil.example whose name now resolves to 127.0.0.1 is of the same origin to its browser.
    for running in (gateway, guarded):
        answer = ask(running.admin, "GET", path, host=host)
        assert answer.status == 403
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert not any(word in answer.body for word in ADMIN_WORDS)


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_was_made_to_lead_here_steers_nothing(
    gateway: RunningGateway, guarded: RunningGateway, host: str
) -> None:
    for running in (gateway, guarded):
        before = running.metric("gateway_config_reloads_total")
        assert ask(running.admin, "POST", "/-/reload", host=host).status == 403
        assert running.metric("gateway_config_reloads_total") == before


@pytest.mark.parametrize("host", INVALID)
def test_what_is_no_host_is_400_before_any_rule_is_looked_at(guarded: RunningGateway, host: str) -> None:
    answer = ask(guarded.admin, "GET", "/metrics", BEARER, host=host)
    assert answer.status == 400
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.parametrize("host", ["evil.example", "prometheus.example:9180", "localhost"])
def test_who_has_the_token_may_ask_by_any_name(guarded: RunningGateway, host: str) -> None:
    assert ask(guarded.admin, "GET", "/metrics", BEARER, host=host).status == 200
    assert ask(guarded.admin, "POST", "/-/reload", BEARER, host=host).status == 200


def test_two_hosts_or_none_where_one_must_be_are_400(gateway: RunningGateway) -> None:
    for lines in (["Host: 127.0.0.1"], ["Host: evil.example"], ["hOST: 127.0.0.1"]):
        assert ask(gateway.admin, "GET", "/metrics", *lines).status == 400
    assert ask(gateway.admin, "GET", "/metrics", host=None).status == 400
    assert ask(gateway.admin, "GET", "/metrics", "X: y\r\n Host: 127.0.0.1", host=None).status == 400


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_absolute_target_cannot_say_another_host_than_the_field(gateway: RunningGateway, version: str) -> None:
    for target, host, status in (
        ("http://127.0.0.1/metrics", "evil.example", 400),
        ("http://evil.example/metrics", "127.0.0.1", 400),
        ("http://evil.example/metrics", "evil.example", 403),
        ("http://127.0.0.1@evil.example/metrics", "evil.example", 400),
        ("http://evil.example\\@127.0.0.1/metrics", "127.0.0.1", 400),
        ("http://127.0.0.1/metrics", "127.0.0.1", 200),
        ("HTTP://LOCALHOST/metrics", "localhost", 200),
    ):
        assert ask(gateway.admin, "GET", target, host=host, version=version).status == status, (target, host)


@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-Host: 127.0.0.1", "X-Host: localhost", "Forwarded: host=localhost;for=127.0.0.1",
        "X-Original-Host: localhost", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1",
        "X-HTTP-Method-Override: GET", "Authorization: Bearer", "Cookie: token=x",
    ],
)  # fmt: skip
def test_no_other_field_stands_in_for_the_host(gateway: RunningGateway, line: str) -> None:
    assert ask(gateway.admin, "GET", "/metrics", line, host="evil.example").status == 403


# --- what a page that did get here may not do ---


@pytest.mark.parametrize(
    "lines",
    [
        ["Origin: http://127.0.0.1:9180"], ["Origin: null"], ["Origin: "], ["Sec-Fetch-Site: none"],
        ["Sec-Fetch-Site: same-origin"], ["oRIGIN: http://evil.example", "Content-Type: text/plain"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_without_a_token_no_browser_steers(gateway: RunningGateway, lines: list[str], method: str) -> None:
    before = gateway.metric("gateway_config_reloads_total")
    assert ask(gateway.admin, method, "/-/reload", *lines).status == 403
    assert gateway.metric("gateway_config_reloads_total") == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "TRACE", "CONNECT"])
@pytest.mark.parametrize("path", PATHS)
def test_with_a_token_configured_all_but_reading_asks_for_it(guarded: RunningGateway, path: str, method: str) -> None:
    before = guarded.metric("gateway_config_reloads_total")
    answer = ask(guarded.admin, method, path, "X-HTTP-Method-Override: GET")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.metric("gateway_config_reloads_total") == before


@pytest.mark.parametrize("path", PATHS)
def test_no_preflight_is_ever_granted(gateway: RunningGateway, path: str) -> None:
    answer = ask(
        gateway.admin, "OPTIONS", path, "Origin: http://evil.example", "Access-Control-Request-Method: POST",
        "Access-Control-Request-Private-Network: true",
    )  # fmt: skip
    assert answer.status in (403, 404, 405)
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_two_tokens_one_of_them_wrong_open_nothing_that_needs_one(guarded: RunningGateway, method: str) -> None:
    for lines in ([BEARER, "Authorization: Bearer wrong"], ["Authorization: Bearer wrong", BEARER]):
        answer = ask(
            guarded.admin, method, "/-/reload" if method == "POST" else "/metrics", *lines, host="evil.example"
        )
        assert answer.status in (401, 403)


# --- the ports kept apart ---

DISGUISES: Final = (
    "{0}", "/{0}", "{0}/", "{0}?x=1", "{0};x=1", "/rest/my_api{0}", "/rest/my_api/..{0}", "/x/%2e%2e{0}", "/.{0}",
    "{0}%00", "{0}%20", "{0}/OnCallEvent/..", "http://127.0.0.1{0}", "HTTP://127.0.0.1{0}",
    "http://127.0.0.1//..{0}",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/reload", "/api/config", "/api/status"])
def test_nothing_of_the_admin_port_is_on_the_hook_port(
    guarded: RunningGateway, backend: FaultyBackend, path: str, method: str
) -> None:
    seen = len(backend.requests)
    before = guarded.metric("gateway_config_reloads_total")
    for disguise in DISGUISES:
        answer = ask(guarded.hooks, method, disguise.format(path), BEARER)
        assert 400 <= answer.status < 500, disguise
        assert not any(word in answer.body for word in ADMIN_WORDS if word not in path.encode()), disguise
        assert answer.headers["content-type"] == "application/problem+json"
    assert guarded.metric("gateway_config_reloads_total") == before
    assert len(backend.requests) == seen


@pytest.mark.parametrize("path", ["/metrics", "/-/reload", "/api/config"])
def test_no_host_turns_the_hook_port_into_the_admin_port(guarded: RunningGateway, path: str) -> None:
    before = guarded.metric("gateway_config_reloads_total")
    for host in (guarded.admin, "localhost", "admin", "127.0.0.1:9180", "[::1]"):
        for target in (path, f"http://{host}{path}"):
            for method in ("GET", "POST"):
                answer = ask(guarded.hooks, method, target, BEARER, f"X-Forwarded-Host: {guarded.admin}", host=host)
                assert answer.status in (400, 404, 405), (host, target)
                assert b"gateway_" not in answer.body
    assert guarded.metric("gateway_config_reloads_total") == before


def test_a_hook_whose_method_is_called_like_an_admin_path_is_a_hook(
    guarded: RunningGateway, backend: FaultyBackend
) -> None:
    body = b'{"appKey":"defaultApp"}'
    for path in ("/metrics", "/api/status", "/-/reload", "/api/config"):
        answer = ask(guarded.hooks, "POST", path, body=body)
        assert answer.status == 200
        assert backend.requests[-1].path == f"{backend.url_of('ok').split(str(backend.port))[1]}/{path.split('/')[-1]}"
        assert backend.requests[-1].body == body


@pytest.mark.parametrize(
    "target",
    [
        "/rest/my_api/OnCallEvent", "/OnCallEvent", "/connect", "//OnCallEvent", "/-/OnCallEvent", "/api/OnCallEvent",
        "/metrics/OnCallEvent", "/metrics/../rest/my_api/OnCallEvent", "/%2e%2e/OnCallEvent",
        "http://127.0.0.1/rest/my_api/OnCallEvent", "/rest/my_api/%4fnCallEvent", "/-/reload/OnCallEvent",
    ],
)  # fmt: skip
def test_no_hook_is_decided_on_the_admin_port(guarded: RunningGateway, backend: FaultyBackend, target: str) -> None:
    seen, before = len(backend.requests), guarded.metric("gateway_hooks_total")
    for lines in ([], [BEARER]):
        answer = ask(guarded.admin, "POST", target, *lines, body=b'{"appKey":"defaultApp"}')
        assert answer.status == (404 if lines else 401)
        assert b"appKey" not in answer.body
    assert len(backend.requests) == seen
    assert guarded.metric("gateway_hooks_total") == before


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\r\n\r\n", b"GET /metrics\r\n\r\n", b"GET /metrics HTTP/2.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
        b"get /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET  /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost : localhost\r\n\r\n", b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\nHost: localhost\n\n\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)  # fmt: skip
def test_the_admin_port_is_as_strict_about_http_as_the_hook_port(gateway: RunningGateway, raw: bytes) -> None:
    name, port = gateway.admin.rsplit(":", 1)
    with socket.create_connection((name, int(port)), timeout=20) as sock, sock.makefile("rb") as stream:
        sock.sendall(raw)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        answer = read_answer(stream)
        assert answer.status in (400, 431)
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert stream.read() == b""


def test_a_body_too_large_for_the_admin_port_is_413(guarded: RunningGateway) -> None:
    answer = ask(guarded.admin, "POST", "/-/reload", BEARER, "Content-Type: text/plain", body=b"x" * 70_000)
    assert answer.status == 413
