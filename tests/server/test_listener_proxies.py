"""A gateway behind balancers and proxies: allow_from, limits, log and backends see the client, and nobody is fooled."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

from tests.support.faulty import Certificates, FaultyBackend
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.proxied import LOCAL, v1, v2, v2_raw
from tests.support.secured import client as tls_client

BALANCER: Final = "127.0.0.2"
PROXY: Final = "127.0.0.3"
NOBODY: Final = "127.0.0.1"
MEDIA: Final = "203.0.113.7"
MEDIA_SIX: Final = "2001:db8:7::7"
STRANGER: Final = "198.51.100.1"
FAR_PROXY: Final = "192.0.2.7"
"""A trusted proxy in front of the balancer."""
NOT_FROM_HERE: Final = "hooks are not taken from this address"
PAUSE: Final = 0.5
"""Seconds in which a gateway that ends would be gone if it did not wait for what it has accepted."""
BODY: Final = b'{"appKey":"defaultApp"}'


def config(backend: FaultyBackend | None = None, **server: Any) -> str:
    app: dict[str, Any] = {"static": "allow"} if backend is None else {"upstream": "u"}
    return json.dumps(
        {
            "server": {
                "listen": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
                "allow_from": ["203.0.113.0/24", "2001:db8:7::/48"],
                "trusted_proxies": [PROXY, FAR_PROXY],
                "proxy_protocol": [BALANCER],
                "read_timeout": "20s",
                **server,
            },
            "defaults": {"dedupe": "off"},
            "upstreams": {} if backend is None else {"u": {"url": backend.url_of("ok"), "breaker": "off"}},
            "apps": {"defaultApp": app},
        }
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(config(backend), tmp_path_factory.mktemp("proxies")) as running:
        yield running


def hook(*lines: str) -> bytes:
    head = ["POST /rest/my_api/OnCallEvent HTTP/1.1", "Host: gw", f"Content-Length: {len(BODY)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + BODY


def forwarded(*values: str) -> bytes:
    return hook(*(f"X-Forwarded-For: {value}" for value in values))


@contextlib.contextmanager
def connected(gateway: RunningGateway, source: str) -> Iterator[tuple[socket.socket, BinaryIO]]:
    host, port = gateway.hooks.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), 20, source_address=(source, 0)) as sock,
        sock.makefile("rb") as stream,
    ):
        yield sock, stream


def ask(gateway: RunningGateway, source: str, raw: bytes) -> Answer:
    with connected(gateway, source) as (sock, stream):
        sock.sendall(raw)
        return read_answer(stream)


def ends_without_a_word(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # it did not read all that was sent
        return True


def verdict(gateway: RunningGateway, answer: Answer) -> tuple[int, str, str]:
    """Status, the client that the log shows, and what it says."""
    line = gateway.access_line(answer.headers["x-request-id"])
    return answer.status, line["client"], line["error"]


# --- the PROXY protocol ---


@pytest.mark.parametrize("header", [v1, v2, lambda source: v2(source, tlvs=[(5, b"id")], checksum=True)])
@pytest.mark.parametrize("source", [MEDIA, MEDIA_SIX])
def test_the_media_server_behind_a_balancer_is_the_client_for_allow_from_log_and_backend(
    gateway: RunningGateway, backend: FaultyBackend, header: Any, source: str
) -> None:
    answer = ask(gateway, BALANCER, header(source) + hook())
    assert verdict(gateway, answer) == (200, source, "")
    assert backend.requests[-1].values("x-forwarded-for") == [source.encode()]


def test_a_stranger_behind_a_balancer_is_refused_and_the_log_shows_its_address(gateway: RunningGateway) -> None:
    for header in (v1(STRANGER), v2(STRANGER)):
        answer = ask(gateway, BALANCER, header + hook())
        assert (answer.headers["connection"], answer.detail) == ("close", NOT_FROM_HERE)
        assert verdict(gateway, answer) == (403, STRANGER, NOT_FROM_HERE)


def test_a_balancer_that_speaks_for_itself_has_its_own_address(gateway: RunningGateway, backend: FaultyBackend) -> None:
    own = (b"PROXY UNKNOWN\r\n", v2_raw(0, b"", command=LOCAL), v2_raw(0x11, v2(MEDIA)[16:], command=LOCAL))
    for header in own:
        assert verdict(gateway, ask(gateway, BALANCER, header + hook())) == (403, BALANCER, NOT_FROM_HERE)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (hook(), "does not begin with a PROXY header"),
        (b"\x16\x03\x01\x00\x05hello", "does not begin with a PROXY header"),
        (v1(MEDIA).replace(b"\r\n", b"\n") + hook(), "version 1: the line is not"),
        (v2(MEDIA, checksum=True)[:-1] + b"\0" + hook(), "version 2: the checksum is wrong"),
        (v2_raw(0x12, v2(MEDIA)[16:]) + hook(), "version 2: family and transport"),
    ],
)
def test_a_balancer_s_connection_without_a_valid_header_is_closed_without_an_answer_counted_and_logged(
    gateway: RunningGateway, sent: bytes, words: str
) -> None:
    count = "gateway_dropped_connections_total"
    before, hooks = gateway.metric(count, reason="proxy_header"), gateway.metric("gateway_hooks_total")
    with connected(gateway, BALANCER) as (sock, _):
        sock.sendall(sent)
        assert ends_without_a_word(sock)
        peer = f"{BALANCER}:{sock.getsockname()[1]}"
    line = gateway.wait_for_line(lambda line: line.get("peer") == peer)
    assert (line["event"], line["level"]) == ("proxy_header_rejected", "warning")
    assert words in line["error"]
    assert gateway.metric(count, reason="proxy_header") == before + 1
    assert gateway.metric("gateway_hooks_total") == hooks


def test_a_balancer_that_only_looks_whether_the_port_is_open_is_no_fault(gateway: RunningGateway) -> None:
    count = gateway.metric("gateway_dropped_connections_total")
    with connected(gateway, BALANCER) as (sock, _):
        peer = f"{BALANCER}:{sock.getsockname()[1]}"
        sock.shutdown(socket.SHUT_WR)
        assert ends_without_a_word(sock)
    assert ask(gateway, BALANCER, v1(MEDIA) + hook()).status == 200
    assert gateway.metric("gateway_dropped_connections_total") == count
    assert not [line for line in gateway.lines() if line.get("peer") == peer]


def test_a_header_from_anyone_else_is_never_believed(gateway: RunningGateway) -> None:
    for header in (v1(MEDIA), v2(MEDIA)):
        assert ask(gateway, NOBODY, header + hook()).detail == NOT_FROM_HERE
        # A second header behind the first is no hook, and changes nothing about who sends it.
        answer = ask(gateway, BALANCER, v1(STRANGER) + header + hook())
        assert verdict(gateway, answer)[:2] == (403, STRANGER)
        answer = ask(gateway, BALANCER, v1(MEDIA) + header.replace(MEDIA.encode(), b"203.0.113.8") + hook())
        assert verdict(gateway, answer)[:2] == (400, MEDIA)


def test_several_hooks_on_a_balancer_s_connection_have_one_client(gateway: RunningGateway) -> None:
    with connected(gateway, BALANCER) as (sock, stream):
        sock.sendall(v2(MEDIA) + hook() + hook())
        for _ in range(2):
            assert verdict(gateway, read_answer(stream)) == (200, MEDIA, "")
        sock.sendall(forwarded(STRANGER))  # a media server is no trusted proxy: it may write what it likes
        assert verdict(gateway, read_answer(stream)) == (200, MEDIA, "")


# --- X-Forwarded-For ---


def test_each_hook_of_a_trusted_proxy_s_connection_has_its_own_client(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    with connected(gateway, PROXY) as (sock, stream):
        for values, client in (
            ([MEDIA], MEDIA),
            (["203.0.113.8:5060"], "203.0.113.8"),
            ([f"[{MEDIA_SIX}]:1"], MEDIA_SIX),
            ([STRANGER, MEDIA], MEDIA),
            ([f"garbage, {MEDIA}, {FAR_PROXY}", PROXY], MEDIA),
        ):
            sock.sendall(forwarded(*values))
            assert verdict(gateway, read_answer(stream)) == (200, client, "")
            assert backend.requests[-1].values("x-forwarded-for") == [client.encode()]
        seen = len(backend.requests)
        sock.sendall(forwarded(MEDIA, STRANGER))
        answer = read_answer(stream)
        assert (answer.headers["connection"], *verdict(gateway, answer)) == ("close", 403, STRANGER, NOT_FROM_HERE)
        assert stream.read() == b""
        assert len(backend.requests) == seen


def test_a_trusted_proxy_that_names_nobody_or_nonsense_is_refused(gateway: RunningGateway) -> None:
    malformed = "X-Forwarded-For has an entry that is not an IP address"
    for raw, error in (
        (hook(), NOT_FROM_HERE),
        (hook(f"X_Forwarded_For: {MEDIA}", f"X-Real-IP: {MEDIA}", f"Forwarded: for={MEDIA}"), NOT_FROM_HERE),
        (forwarded(f"{MEDIA}, unknown"), malformed),
        (forwarded(MEDIA, ""), malformed),
    ):
        answer = ask(gateway, PROXY, raw)
        assert (answer.detail, *verdict(gateway, answer)) == (error, 403, PROXY, error)
    labels = {"app": "_unknown", "verdict": "reject", "reason": "unauthorized", "method": "OnCallEvent"}
    before = gateway.metric("gateway_hooks_total", **labels)
    assert ask(gateway, PROXY, forwarded(STRANGER)).status == 403
    assert gateway.metric("gateway_hooks_total", **labels) == before + 1


def test_a_body_in_pieces_is_judged_by_its_own_head(gateway: RunningGateway) -> None:
    with connected(gateway, PROXY) as (sock, stream):
        for client, status in ((MEDIA, 200), (STRANGER, 403)):
            raw = forwarded(client)
            sock.sendall(raw[:-5])
            time.sleep(0.02)  # so that it does come in pieces
            sock.sendall(raw[-5:])
            answer = read_answer(stream)
            assert verdict(gateway, answer)[:2] == (status, client)


def test_nobody_else_s_word_counts(gateway: RunningGateway) -> None:
    assert ask(gateway, NOBODY, forwarded(MEDIA)).detail == NOT_FROM_HERE
    assert verdict(gateway, ask(gateway, BALANCER, v1(STRANGER) + forwarded(MEDIA))) == (403, STRANGER, NOT_FROM_HERE)


def test_a_proxy_behind_a_balancer_is_believed_only_if_it_is_trusted_itself(gateway: RunningGateway) -> None:
    for proxy, client, status in ((FAR_PROXY, MEDIA, 200), (FAR_PROXY, STRANGER, 403)):
        answer = ask(gateway, BALANCER, v2(proxy) + forwarded(client))
        assert verdict(gateway, answer)[:2] == (status, client)
    assert verdict(gateway, ask(gateway, BALANCER, v2(MEDIA) + forwarded("203.0.113.9")))[:2] == (200, MEDIA)
    # The balancer itself is no trusted proxy: what it forwards without naming a client is its own.
    assert verdict(gateway, ask(gateway, BALANCER, b"PROXY UNKNOWN\r\n" + forwarded(MEDIA)))[:2] == (403, BALANCER)


# --- limits, reloads, the end, TLS ---


def test_a_stranger_behind_a_balancer_takes_no_more_slots_than_one_that_connects_itself(
    gateway: RunningGateway,
) -> None:
    one, other = "198.51.100.77", "198.51.100.78"
    before = gateway.metric("gateway_dropped_connections_total", reason="limit")
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            sock, _ = stack.enter_context(connected(gateway, BALANCER))
            sock.sendall(v2(one))
        with connected(gateway, BALANCER) as (sock, stream):
            sock.sendall(v2(one))  # the seventeenth: refused before it has sent a hook
            assert read_answer(stream).status == 403
        assert gateway.metric("gateway_dropped_connections_total", reason="limit") == before + 1
        assert ask(gateway, BALANCER, v2(other) + hook()).detail == NOT_FROM_HERE
        assert ask(gateway, BALANCER, v2(MEDIA) + hook()).status == 200


def test_a_reload_changes_whose_word_counts(tmp_path: Path) -> None:
    with running_gateway(config(), tmp_path) as gateway, contextlib.ExitStack() as stack:
        balanced, its_stream = stack.enter_context(connected(gateway, BALANCER))
        proxied, other_stream = stack.enter_context(connected(gateway, PROXY))
        for sock, stream, raw in (
            (balanced, its_stream, v2(MEDIA) + hook()),
            (proxied, other_stream, forwarded(MEDIA)),
        ):
            sock.sendall(raw)
            assert read_answer(stream).status == 200
        report = gateway.reload(config(trusted_proxies=[], proxy_protocol=[NOBODY]))
        assert report["changes"] == ["server.trusted_proxies changed", "server.proxy_protocol changed"]
        balanced.sendall(hook())  # its client was named while that counted: one more answer, then the end
        answer = read_answer(its_stream)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        proxied.sendall(forwarded(MEDIA))
        answer = read_answer(other_stream)
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert ask(gateway, BALANCER, v2(MEDIA) + hook()).status == 403
        assert ask(gateway, PROXY, forwarded(MEDIA)).status == 403
        assert ask(gateway, NOBODY, v2(MEDIA) + hook()).status == 200
        gateway.reload(config(allow_from=[NOBODY], proxy_protocol=[]))
        for header in (v1(MEDIA), v2(MEDIA)):  # a malformed request of a client that may send hooks
            answer = ask(gateway, NOBODY, header + hook())
            assert (answer.headers["connection"], *verdict(gateway, answer)[:2]) == ("close", 400, NOBODY)


def test_a_hook_whose_header_is_half_there_when_the_gateway_ends_is_answered(tmp_path: Path) -> None:
    header = v2(MEDIA)
    with running_gateway(config(), tmp_path) as gateway, connected(gateway, BALANCER) as (sock, stream):
        sock.sendall(header[:20])
        begin_to_end(gateway)
        sock.sendall(header[20:])
        time.sleep(PAUSE)
        sock.sendall(hook())
        answer = read_answer(stream)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert stream.read() == b""
        sock.close()
        assert gateway.process.wait(20) == 0


def begin_to_end(gateway: RunningGateway) -> None:
    """SIGTERM; returns when nothing more is accepted."""
    gateway.process.terminate()
    assert wait_until(lambda: not is_accepting(gateway))


def is_accepting(gateway: RunningGateway) -> bool:
    try:
        with gateway.connect():
            return True
    except OSError:
        return False


def test_the_header_comes_before_tls_to_the_end_and_the_log_of_a_failed_handshake_shows_the_client(
    tmp_path: Path, ours: Certificates
) -> None:
    certificate, key = ours.valid
    tls = {"certificate": str(certificate), "key": str(key)}
    with running_gateway(config(tls=tls), tmp_path) as gateway:
        for header, source in ((v1(MEDIA_SIX), MEDIA_SIX), (v2(MEDIA, checksum=True), MEDIA), (v2(STRANGER), STRANGER)):
            with connected(gateway, BALANCER) as (sock, _):
                sock.sendall(header)
                with tls_client(ours).wrap_socket(sock, server_hostname="localhost") as inner:
                    inner.sendall(hook())
                    with inner.makefile("rb") as stream:
                        answer = read_answer(stream)
                        assert verdict(gateway, answer)[:2] == (403 if source == STRANGER else 200, source)
        with connected(gateway, BALANCER) as (sock, _):
            sock.sendall(v1(MEDIA, 4242) + hook())
            wait_until(lambda: ends_without_a_word(sock))
        line = gateway.wait_for_line(lambda line: line.get("event") == "tls_handshake_failed")
        assert (line["peer"], line["reason"]) == (f"{MEDIA}:4242", "not_tls")
        before = gateway.metric("gateway_tls_handshake_failures_total")
        with connected(gateway, BALANCER) as (sock, _):
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert ends_without_a_word(sock)
        assert gateway.metric("gateway_tls_handshake_failures_total") == before
        assert gateway.metric("gateway_dropped_connections_total", reason="proxy_header") == 1
        with connected(gateway, BALANCER) as (sock, _):
            sock.sendall(v2(MEDIA)[:20])
            begin_to_end(gateway)
            sock.sendall(v2(MEDIA)[20:])
            with tls_client(ours).wrap_socket(sock, server_hostname="localhost") as inner:
                time.sleep(PAUSE)
                inner.sendall(hook())
                with inner.makefile("rb") as stream:
                    assert read_answer(stream).status == 200
        assert gateway.process.wait(20) == 0
