"""Listening sockets, and uvicorn wrapped so that one place decides when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator, Sequence
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Address
from gateway.front import FrontProtocol, FrontState

BACKLOG: Final = 4096


class StartError(Exception):
    """The process cannot serve; the message says what an operator can do about it."""


def bind(addresses: Sequence[Address], key: str, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets for the addresses; raises StartError naming the configuration's *key*."""
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets.append(_listen(address, reuse_port=reuse_port))
        except OSError as exc:
            close(sockets)
            raise StartError(f"cannot listen on {address} ({key}): {(exc.strerror or str(exc)).lower()}") from exc
    return sockets


def _listen(address: Address, *, reuse_port: bool) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG, reuse_port=reuse_port
        )
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG, reuse_port=reuse_port)


def close(sockets: Sequence[socket.socket]) -> None:
    """Close sockets that are not served."""
    for opened in sockets:
        opened.close()


def address_of(sock: socket.socket) -> str:
    """host:port as it was bound: with the port that a 0 became."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for signals."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], state: FrontState, *, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=FrontProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=math.ceil(grace),
            )
        )
        self.server_state = state
        self._sockets = list(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def run_until_stopped(self) -> None:
        """Accept and serve until ``stop()``; returns when the last connection is closed or the grace is over."""
        await self.serve(self._sockets)

    def stop(self, *, at_once: bool = False) -> None:
        """Begin the orderly end; *at_once* = do not wait for anyone."""
        self.should_exit = True
        self.force_exit = self.force_exit or at_once


async def all_started(listeners: Sequence[Listener], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all accept; a listener that ends before that ends the start."""
    while not all(listener.started for listener in listeners):
        for task in tasks:
            if task.done():
                await task
                raise StartError("a listener ended before it had begun")
        await asyncio.sleep(0.005)
