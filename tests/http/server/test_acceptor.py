"""A connection that fails after it was accepted does not stop the accepting of others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.http.server import acceptor as accepting_module
from gateway.http.server.acceptor import Acceptor

PATIENCE = 5.0


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


class Behind:
    """Of two processes, the one that always has more connections."""

    def note(self, connections: int) -> None:
        pass

    def retire(self) -> None:
        pass

    def is_ahead(self) -> bool:
        return True


async def ended(client: socket.socket) -> bool:
    """Whether the connection ends without a byte."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def connected(listening: socket.socket) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
    return client


@pytest.mark.parametrize("turns", [None, Behind()], ids=["alone", "behind another"])
@pytest.mark.parametrize("defect", [MemoryError(), RuntimeError("a defect"), OSError(24, "Too many open files")])
async def test_a_connection_that_cannot_be_taken_is_closed_and_the_next_one_is_taken(
    listening: socket.socket, turns: Behind | None, defect: Exception
) -> None:
    taken: list[socket.socket] = []

    def take(sock: socket.socket, address: object) -> None:
        taken.append(sock)
        if len(taken) <= 5:  # more than are taken at a time
            raise defect

    acceptor = Acceptor(listening, take, turns)
    clients = [await connected(listening) for _ in range(6)]
    for client in clients[:5]:
        assert await ended(client)
    async with asyncio.timeout(PATIENCE):
        while len(taken) < 6:
            await asyncio.sleep(0.01)
    await asyncio.get_running_loop().sock_sendall(taken[5], b"x")
    assert await asyncio.get_running_loop().sock_recv(clients[5], 1) == b"x"
    acceptor.close()
    for sock in (*clients, *taken):
        sock.close()


async def test_a_socket_that_does_not_listen_for_a_moment_is_accepted_on_soon_after(listening: socket.socket) -> None:
    taken: list[socket.socket] = []
    acceptor = Acceptor(listening, lambda sock, address: taken.append(sock))
    listening.shutdown(socket.SHUT_RDWR)
    await asyncio.sleep(0.1)
    listening.listen()
    with await connected(listening):
        async with asyncio.timeout(PATIENCE):
            while not taken:
                await asyncio.sleep(0.01)
    acceptor.close()
    taken[0].close()


async def test_the_end_takes_what_waits_but_not_for_ever(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting_module, "BACKLOG", 3)
    taken: list[socket.socket] = []
    clients: list[socket.socket] = []

    def take(sock: socket.socket, address: object) -> None:
        taken.append(sock)
        clients.append(socket.create_connection(address_of))  # another comes for each that is taken

    address_of = listening.getsockname()
    acceptor = Acceptor(listening, take)
    clients.append(socket.create_connection(address_of))
    acceptor.close()
    assert len(taken) == 3
    for sock in (*clients, *taken):
        sock.close()
