"""Dials over TLS that are cancelled, or meet a peer that does not keep to the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest

from gateway.http.client import ConnectFailed, Resolver
from gateway.http.client.connection import Connection
from gateway.http.client.dialer import Dialer, Origin
from tests.http.client.loopback import PATIENCE

ROUNDS: Final = 8
"""Rounds of the event loop in which a dial is cancelled, counted from the beginning of the handshake."""


class _ObservedContext(ssl.SSLContext):
    """Calls ``on_handshake`` as soon as a handshake begins."""

    on_handshake: Callable[[], None] = staticmethod(lambda: None)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self.on_handshake()
        return super().wrap_bio(*args, **kwargs)


class _Port:
    """A listener whose connections the test accepts itself; nothing else runs beside the loop."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.number = int(listener.getsockname()[1])
        self.tls = _ObservedContext(ssl.PROTOCOL_TLS_CLIENT)
        self.peers: list[socket.socket] = []
        """The peer's side of each connection."""

    def accept(self) -> socket.socket:
        """The connection that has just been made."""
        self.peers.append(self._listener.accept()[0])
        return self.peers[-1]

    def dialer(self) -> Dialer:
        loop = asyncio.get_running_loop()
        dialer = Dialer(
            Origin("https", "127.0.0.1", self.number),
            Resolver(),
            lambda: Connection(loop, f"127.0.0.1:{self.number}", 1024, lambda _: None),
        )
        dialer.set_tls(self.tls, None)
        return dialer

    def dial(self) -> asyncio.Task[Connection]:
        loop = asyncio.get_running_loop()
        return loop.create_task(self.dialer().connect(loop.time() + PATIENCE, loop.time() + PATIENCE))


@pytest.fixture
def port() -> Iterator[_Port]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        port = _Port(listener)
        yield port
        for peer in port.peers:
            peer.close()


@contextlib.asynccontextmanager
async def nothing_reported() -> AsyncIterator[None]:
    """Fails where the loop has reported anything by the end of the block."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    yield
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    gc.collect()
    assert reports == []


def end(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def send_no_tls(peer: socket.socket) -> None:
    peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")


def keep_silent(peer: socket.socket) -> None:
    pass


def after(rounds: int, callback: Callable[[], object]) -> None:
    """Call it after so many rounds of the loop; 0 = now."""
    if rounds == 0:
        callback()
    else:
        asyncio.get_running_loop().call_soon(after, rounds - 1, callback)


async def read_to_end(peer: socket.socket) -> None:
    """Return when the other side has closed the connection."""
    peer.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(peer, 65536):
            pass


@pytest.mark.parametrize("play", [end, reset, send_no_tls, keep_silent])
async def test_a_dial_cancelled_during_the_handshake_leaves_neither_an_exception_nor_a_connection(
    port: _Port, play: Callable[[socket.socket], None]
) -> None:
    for rounds in range(ROUNDS):
        async with nothing_reported():
            dial = port.dial()

            def on_handshake(rounds: int = rounds, cancel: Callable[[], bool] = dial.cancel) -> None:
                play(port.accept())
                after(rounds, cancel)

            port.tls.on_handshake = on_handshake
            with contextlib.suppress(asyncio.CancelledError, ConnectFailed):
                await dial

    assert len(port.peers) == ROUNDS
    async with asyncio.timeout(PATIENCE):
        for peer in port.peers:
            if play is not reset:
                await read_to_end(peer)


async def test_a_dial_cancelled_in_any_round_before_the_handshake_closes_its_connection(port: _Port) -> None:
    for rounds in range(1, ROUNDS):
        dial = port.dial()
        await asyncio.sleep(0)
        port.accept()
        after(rounds, dial.cancel)
        with pytest.raises(asyncio.CancelledError):
            await dial

    async with asyncio.timeout(PATIENCE):
        for peer in port.peers:
            await read_to_end(peer)


@pytest.mark.parametrize(
    ("play", "words"),
    [(end, "closed while connecting"), (reset, "closed while connecting"), (send_no_tls, "WRONG_VERSION_NUMBER")],
)
@pytest.mark.parametrize("early", [True, False])
async def test_a_peer_that_does_no_handshake_is_a_failed_connection(
    port: _Port, play: Callable[[socket.socket], None], words: str, early: bool
) -> None:
    async with nothing_reported():
        dial = port.dial()
        if early:
            await asyncio.sleep(0)  # until the connection is on its way
            play(port.accept())
        else:
            port.tls.on_handshake = lambda: play(port.accept())
        with pytest.raises(ConnectFailed, match=words):
            await dial
