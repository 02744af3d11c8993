"""The PROXY header is taken off a real socket byte for byte: what follows is left to TLS or HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import pytest

from gateway.http.server.proxy_header import MAX_HEADER, BadProxyHeader, ProxyHeader
from gateway.http.server.proxy_receiver import PeerLeft, receive_proxy_header
from tests.http.server.frontdoor import LOOPS
from tests.support.proxied import v1, v2

REST: Final = b"\x16\x03\x01POST"
HEADERS: Final = {
    "v1": v1("192.0.2.1"),
    "v1 unknown": b"PROXY UNKNOWN\r\n",
    "v2": v2("2001:db8::1", tlvs=[(5, b"id")], checksum=True),
    "v2 longest": v2("192.0.2.1", tlvs=[(4, bytes(MAX_HEADER - 16 - 12 - 3))]),
}
PATIENCE: Final = 15.0


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[ProxyHeader]], ProxyHeader]:
    """Runs it on the gateway's own event loop, and on the standard library's."""

    def run_in_loop(work: Awaitable[ProxyHeader]) -> ProxyHeader:
        async def main() -> ProxyHeader:
            return await work

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main())

    return run_in_loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The gateway's end and the balancer's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


Run = Callable[[Awaitable[ProxyHeader]], ProxyHeader]
Pair = tuple[socket.socket, socket.socket]


async def send_in_parts(sock: socket.socket, parts: list[bytes], receiving: Awaitable[ProxyHeader]) -> ProxyHeader:
    """Each part only after the receiver has taken the one before: none may be taken together."""
    task = asyncio.ensure_future(receiving)
    for part in parts:
        sock.sendall(part)
        for _ in range(3):  # the loop sees the bytes, wakes the task, and the task waits again
            await asyncio.sleep(0)
    return await task


@pytest.mark.parametrize("name", HEADERS)
def test_exactly_the_header_is_taken(run: Run, pair: Pair, name: str) -> None:
    ours, theirs = pair
    header = HEADERS[name]
    theirs.sendall(header + REST)
    assert run(receive_proxy_header(ours, PATIENCE)).size == len(header)
    assert ours.recv(100) == REST


@pytest.mark.parametrize("name", ["v1", "v1 unknown", "v2"])
def test_a_header_may_be_cut_at_every_byte(run: Run, pair: Pair, name: str) -> None:
    ours, theirs = pair
    header = HEADERS[name]
    for at in range(1, len(header)):
        parts = [header[:at], header[at:] + REST]
        found = run(send_in_parts(theirs, parts, receive_proxy_header(ours, PATIENCE)))
        assert found.size == len(header), at
        assert ours.recv(100) == REST, at
    single = [bytes([byte]) for byte in header]
    assert run(send_in_parts(theirs, [*single, REST], receive_proxy_header(ours, PATIENCE))).size == len(header)
    assert ours.recv(100) == REST


class CountingSocket(socket.socket):
    """Counts how often it is read."""

    reads = 0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        self.reads += 1
        return super().recv(bufsize, flags)


@pytest.mark.parametrize("name", HEADERS)
def test_a_part_of_a_header_does_not_wake_the_receiver_again(run: Run, pair: Pair, name: str) -> None:
    ours, theirs = pair
    theirs.sendall(HEADERS[name][:-1])
    with CountingSocket(fileno=os.dup(ours.fileno())) as counting:
        counting.setblocking(False)
        with pytest.raises(BadProxyHeader, match=r"did not arrive within 0\.3 s"):
            run(receive_proxy_header(counting, 0.3))
        assert counting.reads == 3  # looked at, taken, and nothing more there


def test_a_peer_that_closes_at_once_is_told_from_one_that_closes_in_the_middle(run: Run, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"PROXY ")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(BadProxyHeader, match="closed before the header was whole") as caught:
        run(receive_proxy_header(ours, PATIENCE))
    assert not isinstance(caught.value, PeerLeft)
    with pytest.raises(PeerLeft):
        run(receive_proxy_header(ours, PATIENCE))  # nothing more was sent


def test_a_reset_connection_is_a_lost_one(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
        with ours:
            ours.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            theirs.close()
            with pytest.raises(BadProxyHeader, match="was lost"):
                run(receive_proxy_header(ours, PATIENCE))


def test_what_is_no_header_is_rejected_by_its_first_byte(run: Run, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"\x16")
    with pytest.raises(BadProxyHeader, match="does not begin with a PROXY header"):
        run(receive_proxy_header(ours, PATIENCE))
