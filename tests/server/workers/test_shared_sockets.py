"""Sockets that are closed to all for a moment, and open again on the same port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import loads
from gateway.server.shared_sockets import SharedSockets
from gateway.server.sockets import bind
from gateway.server.systemd_sockets import SystemdSocket


@pytest.fixture(params=["127.0.0.1", "unix"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    where = f"unix:{tmp_path}/s" if request.param == "unix" else f"{request.param}:0"
    [sock] = bind(loads(f"server: {{listen: '{where}'}}").config.server.listen, "server.listen")
    with sock:
        sock.setblocking(False)
        yield sock


async def connect(listening: socket.socket) -> socket.socket:
    sock = socket.socket(listening.family)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, listening.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


async def ends(sock: socket.socket) -> bool:
    """Whether the connection is reset, or ends without a byte."""
    try:
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionError:
        return True


async def is_refused(listening: socket.socket) -> bool:
    try:
        with await connect(listening) as sock:
            return await ends(sock)
    except ConnectionError:
        return True


async def test_closed_to_all_it_refuses_everyone_and_open_again_it_accepts(listening: socket.socket) -> None:
    shared = SharedSockets([listening])
    loop = asyncio.get_running_loop()
    for _ in range(2):
        with await connect(listening) as client:
            accepted, _ = await loop.sock_accept(listening)
            accepted.close()
            assert await ends(client)
        with await connect(listening) as waiting:
            shared.suspend()
            shared.suspend()
            assert await ends(waiting)
        assert await is_refused(listening)
        shared.resume()
        shared.resume()


async def test_at_the_end_what_waits_can_still_be_accepted_by_whoever_has_the_socket(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with await connect(listening) as waiting, listening.dup() as a_worker_s:
        a_worker_s.setblocking(False)
        SharedSockets([listening]).close()
        accepted, _ = await loop.sock_accept(a_worker_s)
        with accepted:
            await loop.sock_sendall(accepted, b"served")
            assert await loop.sock_recv(waiting, 6) == b"served"


async def test_on_a_socket_of_systemd_connections_wait_until_somebody_accepts_again() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as systemd_s:
        shared = SharedSockets([SystemdSocket(fileno=systemd_s.dup().detach())])
        assert (shared.descriptors, len(shared.systemd_descriptors)) == ([], 1)
        for end in (shared.suspend, shared.resume, shared.suspend, shared.close):
            end()
            with await connect(systemd_s) as waiting:
                systemd_s.setblocking(False)
                accepted, _ = await loop.sock_accept(systemd_s)
                with accepted:
                    await loop.sock_sendall(accepted, b"served")
                    assert await loop.sock_recv(waiting, 6) == b"served"


def test_a_port_that_the_system_picked_is_kept_while_the_socket_does_not_listen() -> None:
    [sock] = bind(loads("server: {listen: '127.0.0.1:0'}").config.server.listen, "server.listen")
    with sock:
        before = sock.getsockname()
        sock.shutdown(socket.SHUT_RDWR)
        sock.listen()
        assert sock.getsockname() == before
