"""Receives the PROXY header of an accepted connection: exactly its bytes, for what follows is TLS or HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from gateway.http.server.proxy_header import MAX_HEADER, BadProxyHeader, ProxyHeader, read_proxy_header


class PeerLeft(BadProxyHeader):
    """The peer closed the connection before it sent anything, as some health checks do."""


async def receive_proxy_header(sock: socket.socket, seconds: float) -> ProxyHeader:
    """Receive the header from a socket that does not block, within so many *seconds*. Raises BadProxyHeader."""
    try:
        async with asyncio.timeout(seconds):
            return await _receive(sock)
    except TimeoutError as exc:
        raise BadProxyHeader(f"the header did not arrive within {seconds:g} s") from exc
    except OSError as exc:
        raise BadProxyHeader("the connection was lost before the header was whole") from exc


async def _receive(sock: socket.socket) -> ProxyHeader:
    received = b""
    while True:
        try:
            ahead = sock.recv(MAX_HEADER, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _wait_until_readable(sock)
            continue
        if not ahead:
            if received:
                raise BadProxyHeader("the connection was closed before the header was whole")
            raise PeerLeft("the connection was closed before anything was sent")
        header = read_proxy_header(received + ahead)
        # Of a header that is not whole, all that has come is a part: taken, it does not wake us again.
        received += sock.recv(len(ahead) if header is None else header.size - len(received))
        if header is not None:
            return header


async def _wait_until_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock)
