"""A limit that a reload lowers holds for the connections that are there already."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

from tests.support.faulty import FaultyBackend, gated_case
from tests.support.gateways import RunningGateway, read_answer, running_gateway, wait_until

HOOK = b'POST /rest/OnCallEvent HTTP/1.1\r\nHost: g\r\nContent-Length: 15\r\n\r\n{"appKey": "a"}'


def configuration(url: str = "", upstream: dict[str, Any] | None = None, **server: Any) -> str:
    app = {"static": "allow"} if upstream is None else {"upstream": "u", "timeout": "5s"}
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **server},
        "defaults": {"dedupe": "off"},
        "apps": {"a": app},
    }
    return json.dumps(config if upstream is None else {**config, "upstreams": {"u": {"url": url, **upstream}}})


def served(gateway: RunningGateway, sock: socket.socket) -> None:
    sock.sendall(HOOK)
    with sock.makefile("rb") as stream:
        assert read_answer(stream).status == 200


def has_ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        sock.setblocking(True)


def test_a_lowered_max_connections_lets_those_go_that_have_been_idle_longest(tmp_path: Path) -> None:
    with running_gateway(configuration(max_connections=20), tmp_path) as gateway, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(10)]
        for sock in connections:
            served(gateway, sock)
            time.sleep(0.005)  # the event loop's clock ticks in milliseconds
        served(gateway, connections[0])  # of all, the last that was of use
        gateway.reload(configuration(max_connections=4))
        assert wait_until(lambda: sum(map(has_ended, connections)) == 6, 20)
        assert [has_ended(sock) for sock in connections] == [False, *[True] * 6, *[False] * 3]
        for sock in (connections[0], *connections[7:]):
            served(gateway, sock)


def test_a_lowered_keepalive_timeout_holds_for_connections_that_are_idle(tmp_path: Path) -> None:
    with running_gateway(configuration(keepalive_timeout="1h"), tmp_path) as gateway, gateway.connect() as idle:
        served(gateway, idle)
        gateway.reload(configuration(keepalive_timeout="1s"))
        assert wait_until(lambda: has_ended(idle), 20)


def test_a_lowered_limit_of_an_upstream_closes_its_idle_connections_beyond(tmp_path: Path) -> None:
    with gated_case() as gate, FaultyBackend() as backend, contextlib.ExitStack() as stack:
        url = backend.url_of("gated")
        many = configuration(url, {"max_connections": 8, "keepalive": "1h"})
        with running_gateway(many, tmp_path) as gateway:
            connections = [stack.enter_context(gateway.connect()) for _ in range(8)]
            for sock in connections:
                sock.sendall(HOOK)
            assert backend.wait_for_connections(8, within=20)
            gate.set()
            for sock in connections:
                with sock.makefile("rb") as stream:
                    assert read_answer(stream).status == 200
            gateway.reload(configuration(url, {"max_connections": 2, "keepalive": "1h"}))
            assert backend.wait_for_connections(2, within=10)
            gateway.reload(configuration(url, {"max_connections": 2, "keepalive": "1s"}))
            assert backend.wait_for_connections(0, within=10)
