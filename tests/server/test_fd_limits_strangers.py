"""Connections that send no hook keep nobody else out: strangers at the hook port, crowds at the admin port."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import loads
from gateway.server import fd_limits
from tests.support.faulty import Certificates
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.secured import client

MEDIA_SERVER = "127.0.0.9"
BODY = b'{"appKey":"defaultApp"}'
HOOK = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
STRANGERS_PLACES = 64


def configuration(*, listed: str = MEDIA_SERVER, **server: Any) -> str:
    return json.dumps(
        {
            "server": {
                "listen": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
                "allow_from": [listed],
                "max_connections": 20,
                "read_timeout": "60s",
                **server,
            },
            "apps": {"defaultApp": {"static": "allow"}},
        }
    )


@contextlib.contextmanager
def connections(address: str, source: str, number: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections from this source address, each with these bytes sent on it."""
    host, port = address.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            sock = socket.create_connection((host, int(port)), 20, source_address=(source, 0))
            made.append(stack.enter_context(sock))
            if first:
                with contextlib.suppress(OSError):
                    sock.sendall(first)
        yield made


def asked(gateway: RunningGateway, source: str, raw: bytes = HOOK) -> Answer:
    with connections(gateway.hooks, source, 1, raw) as [sock], sock.makefile("rb") as stream:
        return read_answer(stream)


def is_open(sock: socket.socket) -> bool:
    """Whether nothing has come on the connection, neither an answer nor its end."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


# --- the hook port ---


@pytest.mark.parametrize("first", [b"", b"POST /rest/my_api/On"], ids=["idle", "half a request"])
def test_strangers_connections_keep_no_media_server_out(tmp_path: Path, first: bytes) -> None:
    with running_gateway(configuration(), tmp_path) as gateway, contextlib.ExitStack() as stack:
        for stranger in range(10, 16):
            stack.enter_context(connections(gateway.hooks, f"127.0.0.{stranger}", 30, first))
        with connections(gateway.hooks, MEDIA_SERVER, 20, HOOK) as media_server:
            for sock in media_server:
                with sock.makefile("rb") as stream:
                    assert read_answer(stream).status == 200
        assert gateway.metric("gateway_dropped_connections_total") >= 180 - STRANGERS_PLACES


def test_one_stranger_holds_a_quarter_of_the_strangers_places_and_another_is_still_told_why(tmp_path: Path) -> None:
    with running_gateway(configuration(), tmp_path) as gateway:
        with connections(gateway.hooks, "127.0.0.10", 60) as crowd:
            assert wait_until(lambda: sum(map(is_open, crowd)) == STRANGERS_PLACES // 4)
            assert asked(gateway, "127.0.0.11").status == 403
            assert "not taken from this address" in asked(gateway, "127.0.0.11").detail
        assert asked(gateway, MEDIA_SERVER).status == 200


def test_an_address_that_a_reload_takes_off_the_list_gives_its_places_up(tmp_path: Path) -> None:
    new = "127.0.0.8"
    with (
        running_gateway(configuration(), tmp_path) as gateway,
        connections(gateway.hooks, MEDIA_SERVER, 20, HOOK) as former,
    ):
        for sock in former:
            with sock.makefile("rb") as stream:
                assert read_answer(stream).status == 200
        gateway.reload(configuration(listed=new))
        assert wait_until(lambda: not any(map(is_open, former)), 15)
        with connections(gateway.hooks, new, 20, HOOK) as media_server:
            for sock in media_server:
                with sock.makefile("rb") as stream:
                    assert read_answer(stream).status == 200


def test_tls_handshakes_that_strangers_leave_half_done_keep_no_media_server_out(
    tmp_path: Path, ours: Certificates
) -> None:
    certificate, key = ours.valid
    tls = {"certificate": str(certificate), "key": str(key)}
    with running_gateway(configuration(tls=tls), tmp_path) as gateway, contextlib.ExitStack() as stack:
        for stranger in range(10, 16):
            stack.enter_context(connections(gateway.hooks, f"127.0.0.{stranger}", 30, b"\x16\x03\x01"))
        context = client(ours)
        for _ in range(20):
            [sock] = stack.enter_context(connections(gateway.hooks, MEDIA_SERVER, 1))
            secured = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            secured.sendall(HOOK)
            with secured.makefile("rb") as stream:
                assert read_answer(stream).status == 200


def test_one_address_has_a_quarter_of_the_handshakes_where_no_address_is_listed(
    tmp_path: Path, ours: Certificates
) -> None:
    certificate, key = ours.valid
    tls = {"certificate": str(certificate), "key": str(key)}
    text = configuration(tls=tls, allow_from=[], max_connections=1000)
    with running_gateway(text, tmp_path) as gateway, contextlib.ExitStack() as stack:
        crowd = stack.enter_context(connections(gateway.hooks, "127.0.0.10", 300))
        assert wait_until(lambda: sum(map(is_open, crowd)) == 1000 // 4)
        [sock] = stack.enter_context(connections(gateway.hooks, MEDIA_SERVER, 1))
        secured = stack.enter_context(client(ours).wrap_socket(sock, server_hostname="localhost"))
        secured.sendall(HOOK)
        with secured.makefile("rb") as stream:
            assert read_answer(stream).status == 200


@pytest.mark.parametrize("limit", [128, 512])
def test_strangers_take_no_descriptor_that_a_media_server_needs(tmp_path: Path, limit: int) -> None:
    few = ("sh", "-c", f'ulimit -n {limit} && exec "$0" "$@"', sys.executable, "-m", "gateway")
    text = configuration(max_connections=1000)
    with running_gateway(text, tmp_path, program=few) as gateway, contextlib.ExitStack() as stack:
        words = gateway.wait_for_line(lambda line: line.get("event") == "few_descriptors")["message"]
        granted = int(words.split("only ")[1].split(" ")[0])
        for stranger in range(10, 20):
            stack.enter_context(connections(gateway.hooks, f"127.0.0.{stranger}", 20))
        for sock in stack.enter_context(connections(gateway.hooks, MEDIA_SERVER, granted, HOOK)):
            with sock.makefile("rb") as stream:
                assert read_answer(stream).status == 200
        assert "no connection can be accepted" not in gateway.log.read_text()


@pytest.mark.parametrize("limit", [512, 1024, 4096, 20_000])
@pytest.mark.parametrize("listed", [[], [MEDIA_SERVER]], ids=["anyone", "listed"])
def test_what_is_granted_to_every_kind_of_client_together_is_there(
    limit: int, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    granted = fd_limits.grant(loads(configuration(allow_from=listed, max_connections=100_000)).config)
    strangers = granted.strangers if listed else 0
    together = granted.connections + granted.refused + strangers + fd_limits.OWN + fd_limits.ADMIN
    assert together <= limit
    assert granted.connections >= limit // 2 - 1


# --- the admin port ---

CROWDS = {
    "idle": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\nHost: 127",
    "half a body": b"POST /-/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx",
    "consoles": b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "kept": b"GET /-/healthy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "unread": b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 8,
}


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """For one crowd after the other: what the last one left is worth no more than the next one."""
    with running_gateway(configuration(), tmp_path_factory.mktemp("visited")) as gateway:
        yield gateway


@pytest.mark.parametrize("crowd", CROWDS)
def test_crowds_at_the_admin_port_keep_no_probe_scrape_or_operator_out(visited: RunningGateway, crowd: str) -> None:
    with connections(visited.admin, "127.0.0.1", 150, CROWDS[crowd]):
        for path in ("/-/healthy", "/-/ready", "/metrics", "/api/status") * 3:
            assert visited.get(path, headers={"Connection": "close"}).status_code == 200, path


def test_all_crowds_at_once_and_an_operator_still_reloads(visited: RunningGateway) -> None:
    with contextlib.ExitStack() as stack:
        for first in CROWDS.values():
            stack.enter_context(connections(visited.admin, "127.0.0.1", 40, first))
        assert visited.reload(configuration(max_connections=21))["changes"] == ["server.max_connections changed"]


def test_half_a_request_has_seconds_at_the_admin_port(visited: RunningGateway) -> None:
    for half in (CROWDS["half a head"], CROWDS["half a body"]):
        with connections(visited.admin, "127.0.0.1", 1, half) as [sock], sock.makefile("rb") as stream:
            assert read_answer(stream).status == 408
