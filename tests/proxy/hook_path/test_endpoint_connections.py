"""The client's connection: what comes on it, in what order, and who leaves it (CONTRACT §3)."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from tests.proxy.hook_path.exchanges import exchange, hook_of, raw_hook
from tests.support.faulty import FaultyBackend, right_answer
from tests.support.gateways import RunningGateway, read_answer


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
