"""Listening sockets, and uvicorn wrapped so that one place decides when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import socket
import ssl
import stat
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Address, UnixAddress
from gateway.http.server import FrontProtocol, FrontState
from gateway.http.server.acceptor import AT_A_TIME, BACKLOG, Acceptor, AcceptOrder, drop_new_connections
from gateway.http.server.eviction import reclaim
from gateway.http.server.places import Client, Place
from gateway.http.tls.handshakes import FailedHandshake, Handshakes
from gateway.model.keep_going import KeepGoing

_LAST_CALL: Final = 0.1
"""Seconds for connections that the kernel has begun to be made, before the socket is closed."""
_FEW: Final = 8
"""Connections accepted at once where each may need another to give way, which it can once it has begun."""
_TRIES: Final = 200
_TRY_EVERY: Final = 0.01
"""Seconds between two tries to find a connection that can give way to a new one."""


class StartError(Exception):
    """The process cannot serve; the message says what an operator can do about it."""


def bind(addresses: Sequence[Address | UnixAddress], key: str) -> list[socket.socket]:
    """Listening sockets for the addresses; raises StartError naming the configuration's *key*."""
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets.append(_listen(address))
        except OSError as exc:
            close(sockets)
            raise StartError(f"cannot listen on {address} ({key}): {(exc.strerror or str(exc)).lower()}") from exc
    return sockets


def _listen(address: Address | UnixAddress) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _listen_unix(address.path)
    dualstack = not address.host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ":" in address.host or dualstack else socket.AF_INET
    with _port_of_its_own(address, family) as port:
        return socket.create_server((address.host, port), family=family, dualstack_ipv6=dualstack, backlog=BACKLOG)


@contextlib.contextmanager
def _port_of_its_own(address: Address, family: socket.AddressFamily) -> Iterator[int]:
    """The port; for a 0, one that the system picks: by number, a socket keeps it also while it does not listen."""
    if address.port:
        yield address.port
        return
    with socket.socket(family, socket.SOCK_STREAM) as picked:
        picked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        picked.bind((address.host, 0))
        yield picked.getsockname()[1]


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


def close_to_new(sockets: Sequence[socket.socket]) -> None:
    """Have new connections ignored, until the sockets are closed a moment later."""
    for sock in sockets:
        drop_new_connections(sock)


def unlink(addresses: Sequence[Address | UnixAddress]) -> None:
    """Remove the files of unix sockets, while they are still listened on: later they might be a successor's."""
    for address in addresses:
        if isinstance(address, UnixAddress):
            with contextlib.suppress(OSError):
                os.unlink(address.path)


def display_address(sock: socket.socket) -> str:
    """host:port as it was bound, with the port that a 0 became; ``unix:`` and the path of a unix socket."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for signals.

    *accept_order*: where other processes accept on the same sockets, whose turn it is.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        state: FrontState,
        *,
        grace: float,
        tls: ssl.SSLContext | None = None,
        on_failed_handshake: Callable[[FailedHandshake], None] = lambda failed: None,
        accept_order: AcceptOrder | None = None,
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
        self._accept_order = accept_order
        if accept_order is not None:
            state.places.on_change = accept_order.note
        self._connecting: set[asyncio.Task[None]] = set()
        self._keep_going = KeepGoing("the listener's look at the clock")
        self._handshakes: Handshakes | None = None
        if tls is not None:
            self._handshakes = Handshakes(tls, lambda: state.limits.read_timeout, on_failed_handshake, state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept on the sockets."""
        at_a_time = _FEW if self._front.limits.reclaims else AT_A_TIME
        acceptors = [Acceptor(sock, self._admit, self._accept_order, at_a_time) for sock in sockets or ()]
        if self._accept_order is not None:
            self._accept_order.note(self._front.places.held)
        self.servers = cast(list[asyncio.Server], acceptors)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who has come so far, then close the sockets, and each connection as soon as nothing is lost."""
        self._front.draining = True
        for connection in list(self._front.connections):
            connection.shutdown()
        if not self.force_exit:
            if self._accept_order is None:  # else other workers accept too, and the supervisor closes the sockets
                close_to_new(self._sockets)
            await asyncio.sleep(_LAST_CALL)
        if self._accept_order is not None:
            self._accept_order.retire()
        for server in self.servers:
            server.close()
        if self._handshakes is not None:
            self._handshakes.close()
        await super().shutdown()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether the end has come. If a turn raises, there is a next one."""
        with self._keep_going:
            return await super().on_tick(counter)
        return self.should_exit

    def _admit(self, sock: socket.socket, address: object) -> None:
        """Give an accepted connection its place, if there is one."""
        client: Client = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        place = self._front.admit(client)
        if place is not None:
            self._welcome(sock, address, client, place)
        elif self._front.limits.reclaims and len(self._connecting) < self._front.limits.max_connections:
            self._run(self._wait_for_place(sock, address, client))
        else:
            self._turn_away(sock, address, client)

    def _welcome(self, sock: socket.socket, address: object, client: Client, place: Place) -> None:
        try:
            protocol = FrontProtocol(self.config, self.server_state, {}, place)
        except BaseException:
            place.leave()
            raise
        if self._handshakes is None:
            self._run(_connect(sock, protocol, is_tcp=client is not None))
        elif self._front.begin_handshake(place, client):
            self._handshakes.begin(sock, address, protocol, functools.partial(_handshake_done, protocol))
        else:
            place.leave()
            self._front.dropped()
            self._handshakes.refuse(sock, address)

    async def _wait_for_place(self, sock: socket.socket, address: object, client: Client) -> None:
        """Have another connection give way, as soon as one can."""
        self._front.waiting += 1
        try:
            for _ in range(_TRIES):
                place = self._front.admit(client)
                if place is None and reclaim(self._front.connections, asyncio.get_running_loop().time()):
                    place = self._front.admit(client)
                if place is not None:
                    self._welcome(sock, address, client, place)
                    return
                await asyncio.sleep(_TRY_EVERY)
        finally:
            self._front.waiting -= 1
        self._turn_away(sock, address, client)

    def _turn_away(self, sock: socket.socket, address: object, client: Client) -> None:
        """Refuse a connection for which there is no place, without waiting for what it brings."""
        self._front.dropped()
        if self._handshakes is not None:
            self._handshakes.refuse(sock, address)
            return
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(self._front.farewell(client))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(64 * 1024)  # what is left unread would reset the connection, and the answer with it
        sock.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def drain(self, on: bool) -> bool:
        """Have every answer close its connection, or no more; new connections are taken. False once the end began."""
        if not self.should_exit:
            self._front.draining = on
        return not self.should_exit

    def let_go(self) -> None:
        """End every connection there is once its answer is out, an idle one after the linger; new ones are taken."""
        if self._handshakes is not None:
            self._handshakes.invalidate_pending()
        for connection in list(self._front.connections):
            cast(FrontProtocol, connection).let_go()

    def recheck(self) -> None:
        """Look again at who may hold a connection: the configuration lists other addresses."""
        for connection in list(self._front.connections):
            cast(FrontProtocol, connection).recheck()

    async def run_until_stopped(self) -> None:
        """Accept and serve until ``stop()``; returns when the last connection is closed or the grace is over."""
        await self.serve(self._sockets)

    def stop(self, *, at_once: bool = False) -> None:
        """Begin the orderly end; *at_once* = do not wait for anyone."""
        self.should_exit = True
        self.force_exit = self.force_exit or at_once


async def _connect(sock: socket.socket, protocol: FrontProtocol, *, is_tcp: bool) -> None:
    """Let the protocol speak over an accepted socket."""
    try:
        sock.setblocking(False)
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
    except OSError:  # the client has left already
        _forget(sock, protocol)
    except BaseException:
        _forget(sock, protocol)
        raise


def _forget(sock: socket.socket, protocol: FrontProtocol) -> None:
    protocol.place.leave()
    sock.close()


def _handshake_done(protocol: FrontProtocol, succeeded: bool) -> None:
    if succeeded:
        protocol.place.end_handshake()
    else:
        protocol.place.leave()


async def wait_until_started(listeners: Sequence[Listener], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all accept; a listener that ends before that ends the start."""
    while not all(listener.started for listener in listeners):
        for task in tasks:
            if task.done():
                await task
                raise StartError("a listener ended before it had begun")
        await asyncio.sleep(0.005)
