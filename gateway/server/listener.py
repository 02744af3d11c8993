"""Serves accepted connections: uvicorn, wrapped so that one place decides when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from gateway.http.server import FrontProtocol, FrontState
from gateway.http.server.acceptor import AT_A_TIME, BACKLOG, Acceptor, AcceptOrder
from gateway.http.server.eviction import reclaim
from gateway.http.server.proxy_header import BadProxyHeader
from gateway.http.server.proxy_receiver import receive_proxy_header
from gateway.http.server.slots import Slot
from gateway.http.tls.handshakes import FailedHandshake, Handshakes
from gateway.model.keep_going import KeepGoing
from gateway.policy.access import Client
from gateway.server.sockets import StartError, close_to_new
from gateway.server.systemd_sockets import SystemdSocket

_ACCEPT_GRACE: Final = 0.1
"""Seconds from the end's beginning to the closing of the socket, for connections that are already being established."""
_NEW_LINGER: Final = 1.0
"""Seconds for which a connection that has just been accepted may send its first hook once nothing more is accepted."""
_LOOK_EVERY: Final = 0.02
"""Seconds between two looks at the connections that are left."""
_FEW: Final = 8
"""Connections accepted at once where each may evict another: one can be evicted only after it has started."""
_TRIES: Final = 200
_TRY_EVERY: Final = 0.01
"""Seconds between two tries to evict a connection for a new one."""


class Listener(uvicorn.Server):
    """uvicorn without its own signal handlers, which the process has in one place.

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
        self._grace = grace
        self._acceptors: list[Acceptor] = []
        self._systemd_acceptors: list[Acceptor] = []
        self._front = state
        self._accept_order = accept_order
        self._others_accept = False
        if accept_order is not None:
            state.slots.on_change = accept_order.note
        self._connecting: set[asyncio.Task[None]] = set()
        self._keep_going = KeepGoing("the listener's timer")
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
        for sock in sockets or ():
            outlives = isinstance(sock, SystemdSocket)
            acceptor = Acceptor(sock, self._admit, self._accept_order, at_a_time, outlives=outlives)
            (self._systemd_acceptors if outlives else self._acceptors).append(acceptor)
        if self._accept_order is not None:
            self._accept_order.note(self._front.slots.held)
        self.servers = cast(list[asyncio.Server], [*self._acceptors, *self._systemd_acceptors])
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all clients that have connected, then close the sockets, and each connection once it is idle."""
        self._front.draining = True
        connections = list(self._front.connections)
        for connection in connections:
            connection.shutdown()
        if self._acceptors and not self.force_exit:
            if self._accept_order is None:  # else other workers accept too, and the supervisor closes the sockets
                close_to_new(self._sockets)
            await asyncio.sleep(_ACCEPT_GRACE)
        for acceptor in self._acceptors:
            acceptor.close()
        if self._systemd_acceptors:
            await self._hand_back(connections)
        if self._accept_order is not None:
            self._accept_order.retire()
        for server in self.servers:
            server.close()
        if self._handshakes is not None:
            self._handshakes.close()
        await super().shutdown()

    async def _hand_back(self, connections: Sequence[object]) -> None:
        """Accept until *connections* have ended, but no longer than half the grace, then leave the rest to a successor.

        What comes afterwards waits for it, so that must be brief: an idle connection may last as long as Java keeps it,
        and a hook as long as its budget.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        before = set(connections)
        while not (self.force_exit or self._others_accept or before.isdisjoint(self._front.connections)):
            if loop.time() >= began + self._grace / 2:
                break
            await asyncio.sleep(_LOOK_EVERY)
        for acceptor in self._systemd_acceptors:
            acceptor.close()
        self._front.linger = min(self._front.linger, _NEW_LINGER)
        self.config.timeout_graceful_shutdown = math.ceil(self._grace - (loop.time() - began))

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; called ten times a second. An exception ends one turn, not the listener."""
        with self._keep_going:
            return await super().on_tick(counter)
        return self.should_exit

    def _admit(self, sock: socket.socket, address: object) -> None:
        """Serve an accepted connection if there is a slot for it."""
        client: Client = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        if self._front.addresses.expects_header(client):
            task = self._run(self._receive_header(sock, client))
            self._front.tasks.add(task)  # the end waits for it as for a handshake
            task.add_done_callback(self._front.tasks.discard)
            return
        slot = self._front.admit(client)
        if slot is not None:
            self._serve_connection(sock, slot)
        elif self._front.limits.reclaims and len(self._connecting) < self._front.limits.max_connections:
            self._run(self._wait_for_slot(sock, client))
        else:
            self._reject(sock, client)

    def _serve_connection(self, sock: socket.socket, slot: Slot) -> None:
        protocol = self._make_protocol(slot)
        if self._handshakes is None:
            self._run(_connect(sock, protocol, is_tcp=slot.client is not None))
        else:
            self._begin_handshake(self._handshakes, sock, protocol)

    def _make_protocol(self, slot: Slot) -> FrontProtocol:
        try:
            return FrontProtocol(self.config, self.server_state, {}, slot)
        except BaseException:
            slot.leave()
            raise

    def _begin_handshake(self, handshakes: Handshakes, sock: socket.socket, protocol: FrontProtocol) -> None:
        slot = protocol.slot
        if self._front.begin_handshake(slot, slot.client):
            handshakes.begin(sock, slot.client, protocol, functools.partial(_end_handshake, protocol))
        else:
            slot.leave()
            self._front.on_drop()
            handshakes.refuse(sock, slot.client)

    async def _receive_header(self, sock: socket.socket, peer: Client) -> None:
        """Serve a balancer's connection for the client that its PROXY header names."""
        slot = self._front.admit_balancer(peer)
        if slot is None:
            self._reject(sock, peer)
            return
        try:
            sock.setblocking(False)
            header = await receive_proxy_header(sock, self._front.limits.read_timeout)
        except BadProxyHeader as exc:
            sock.close()
            self._front.on_bad_header(peer, exc)
            return
        except BaseException:
            sock.close()
            raise
        finally:
            slot.leave()
        client = header.client or peer
        slot = self._front.admit(client)
        if slot is None:
            self._reject(sock, client)
            return
        protocol = self._make_protocol(slot)
        protocol.balancer = peer
        if self._handshakes is not None:
            self._begin_handshake(self._handshakes, sock, protocol)
            return
        await _connect(sock, protocol, is_tcp=True)
        if self.should_exit and protocol in self._front.connections:
            await protocol.wait_closed()  # the end may have looked for connections before this was one

    async def _wait_for_slot(self, sock: socket.socket, client: Client) -> None:
        """Serve the connection once another has left or can be evicted."""
        self._front.waiting += 1
        try:
            for _ in range(_TRIES):
                slot = self._front.admit(client)
                if slot is None and reclaim(self._front.connections, asyncio.get_running_loop().time()):
                    slot = self._front.admit(client)
                if slot is not None:
                    self._serve_connection(sock, slot)
                    return
                await asyncio.sleep(_TRY_EVERY)
        finally:
            self._front.waiting -= 1
        self._reject(sock, client)

    def _reject(self, sock: socket.socket, client: Client) -> None:
        """Refuse a connection for which there is no slot, without waiting for its request."""
        self._front.on_drop()
        if self._handshakes is not None:
            self._handshakes.refuse(sock, client)
            return
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(self._front.busy_answer(client))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(64 * 1024)  # unread data would reset the connection, and lose the answer
        sock.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    def drain(self, on: bool) -> bool:
        """Have every answer close its connection (*on*) or not; new ones are accepted. False once the end has begun."""
        if not self.should_exit:
            self._front.draining = on
        return not self.should_exit

    def close_gracefully(self) -> None:
        """Close every connection once its answer is out, an idle one after the linger; new ones are accepted."""
        if self._handshakes is not None:
            self._handshakes.invalidate_pending()
        for connection in list(self._front.connections):
            cast(FrontProtocol, connection).close_gracefully()

    def recheck(self) -> None:
        """Check again which clients may keep their connections, as the configuration lists other addresses."""
        for connection in list(self._front.connections):
            cast(FrontProtocol, connection).recheck()

    async def run_until_stopped(self) -> None:
        """Accept and serve until ``stop()``; returns when the last connection has closed or the grace is over."""
        await self.serve(self._sockets)

    def stop(self, *, at_once: bool = False, others_accept: bool = False) -> None:
        """Begin the orderly end; *at_once*: wait for no answer.

        *others_accept*: other processes accept on the same sockets meanwhile.
        """
        self.should_exit = True
        self._others_accept = others_accept
        self.force_exit = self.force_exit or at_once


async def _connect(sock: socket.socket, protocol: FrontProtocol, *, is_tcp: bool) -> None:
    """Start the protocol on an accepted socket."""
    try:
        sock.setblocking(False)
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
    except OSError:  # the client has disconnected
        _forget(sock, protocol)
    except BaseException:
        _forget(sock, protocol)
        raise


def _forget(sock: socket.socket, protocol: FrontProtocol) -> None:
    protocol.slot.leave()
    sock.close()


def _end_handshake(protocol: FrontProtocol, succeeded: bool) -> None:
    if succeeded:
        protocol.slot.end_handshake()
    else:
        protocol.slot.leave()


async def wait_until_started(listeners: Sequence[Listener], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all accept. Raises StartError, or what a listener raised, where one ends before."""
    while not all(listener.started for listener in listeners):
        for task in tasks:
            if task.done():
                await task
                raise StartError("a listener ended before it had started")
        await asyncio.sleep(0.005)
