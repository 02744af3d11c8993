"""Listening sockets, and uvicorn wrapped so that one place decides when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Address, UnixAddress
from gateway.front import FrontProtocol, FrontState
from gateway.loops import KeepGoing
from gateway.tls.handshakes import FailedHandshake, Handshakes

BACKLOG: Final = 4096


class StartError(Exception):
    """The process cannot serve; the message says what an operator can do about it."""


def bind(addresses: Sequence[Address | UnixAddress], key: str, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets for the addresses; raises StartError naming the configuration's *key*."""
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets.append(_listen(address, reuse_port=reuse_port))
        except OSError as exc:
            close(sockets)
            raise StartError(f"cannot listen on {address} ({key}): {(exc.strerror or str(exc)).lower()}") from exc
    return sockets


def _listen(address: Address | UnixAddress, *, reuse_port: bool) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _listen_unix(address.path)
    if not address.host and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG, reuse_port=reuse_port
        )
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG, reuse_port=reuse_port)


def _listen_unix(path: str) -> socket.socket:
    """A unix socket; the file that a gateway left behind which is no more is replaced, one in use is an error."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not _is_served(path):
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o660)  # its owner and group may send hooks
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # where its queue is full, connecting would wait for ever
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
    return True


def close(sockets: Sequence[socket.socket]) -> None:
    """Close sockets that are not served."""
    for opened in sockets:
        opened.close()


def unlink(addresses: Sequence[Address | UnixAddress]) -> None:
    """Remove the files of unix sockets, while they are still listened on: later they might be a successor's."""
    for address in addresses:
        if isinstance(address, UnixAddress):
            with contextlib.suppress(OSError):
                os.unlink(address.path)


def address_of(sock: socket.socket) -> str:
    """host:port as it was bound, with the port that a 0 became; ``unix:`` and the path of a unix socket."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for signals."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        state: FrontState,
        *,
        grace: float,
        tls: ssl.SSLContext | None = None,
        handshake_timeout: float = 60.0,
        on_failed_handshake: Callable[[FailedHandshake], None] = lambda failed: None,
    ) -> None:
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
        self.config.load()
        self.server_state = state
        self._sockets = list(sockets)
        self._front = state
        self._keep_going = KeepGoing("the listener's look at the clock")
        self._handshakes: Handshakes | None = None
        if tls is not None:
            self._handshakes = Handshakes(
                tls, handshake_timeout, self._protocol, self._has_room_for, on_failed_handshake, state.tasks
            )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept on the sockets; uvicorn's own way would drop failed TLS handshakes unseen."""
        loop = asyncio.get_running_loop()
        self.servers: list[asyncio.Server] = []
        for sock in sockets or ():
            if self._handshakes is None:
                self.servers.append(await loop.create_server(self._protocol, sock=sock, backlog=BACKLOG))
            else:
                self.servers.append(cast(asyncio.Server, self._handshakes.listen(sock)))
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether the end has come. Whatever a turn raises, there is a next one."""
        with self._keep_going:
            return await super().on_tick(counter)
        return self.should_exit

    def _protocol(self) -> FrontProtocol:
        return FrontProtocol(self.config, self.server_state, {})

    def _has_room_for(self, handshakes: int) -> bool:
        limits = self._front.limits
        return len(self._front.connections) + handshakes <= limits.max_connections + limits.max_refused

    def drain(self, on: bool) -> bool:
        """Have every answer close its connection, or no more; new connections are taken. False once the end began."""
        if not self.should_exit:
            self._front.draining = on
        return not self.should_exit

    def let_go(self) -> None:
        """End every connection there is once its answer is out, an idle one after the linger; new ones are taken."""
        if self._handshakes is not None:
            self._handshakes.distrust()
        for connection in list(self._front.connections):
            cast(FrontProtocol, connection).let_go()

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
