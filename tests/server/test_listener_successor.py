"""One gateway after another on sockets that systemd keeps: no connection is refused, reset or left unanswered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server import FrontLimits, FrontState
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer as Refusal
from gateway.server.listener import Listener
from gateway.server.systemd_sockets import SystemdSocket
from tests.support.faulty import FaultyBackend, gated_case
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.hand_over import handing_over

PATIENCE: Final = 60.0
CALLERS: Final = 4
LIMITS: Final = FrontLimits(max_body=10_000, read_timeout=10.0, keepalive_timeout=10.0, max_connections=100)


def hook(app: str = "a") -> bytes:
    body = b'{"appKey":"%s"}' % app.encode()
    return b"POST /%s/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % (app.encode(), len(body)) + body


# --- the listener alone ---


class SlowApp:
    """Answers each path when it is released."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._released: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].split("/")[1]
        self.seen.append(name)
        await self.event(name).wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def event(self, name: str) -> asyncio.Event:
        return self._released.setdefault(name, asyncio.Event())


def refuse(refusal: BadRequest) -> Refusal:
    return Refusal(refusal.status, [(b"content-length", b"0")], b"")


def listener_on(held: socket.socket, app: SlowApp, state: FrontState | None = None) -> tuple[Listener, SystemdSocket]:
    sock = SystemdSocket(fileno=os.dup(held.fileno()))
    return Listener(app, [sock], state or FrontState(LIMITS, 0.1, refuse), grace=2 * PATIENCE), sock


class Client:
    """One hook on a connection of its own."""

    def __init__(self, held: socket.socket, name: str) -> None:
        self._sock = socket.create_connection(held.getsockname(), PATIENCE)
        self._stream = self._sock.makefile("rb")
        self._sock.sendall(hook(name))

    async def answer(self) -> Answer:
        try:
            return await asyncio.to_thread(read_answer, self._stream)
        finally:
            self._stream.close()
            self._sock.close()


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.005)


async def test_new_connections_are_served_until_the_old_ones_have_ended_and_then_wait_for_the_next_process() -> None:
    app, state = SlowApp(), FrontState(LIMITS, 0.1, refuse)
    with socket.create_server(("127.0.0.1", 0), backlog=8) as held:
        listener, sock = listener_on(held, app, state)
        serving = asyncio.create_task(listener.run_until_stopped())
        await until(lambda: listener.started)
        old = Client(held, "old")
        await until(lambda: app.seen == ["old"])
        listener.stop()
        await until(lambda: state.draining)
        late = Client(held, "late")
        await until(lambda: app.seen == ["old", "late"])
        app.event("old").set()
        answer = await old.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await until(lambda: sock.fileno() == -1)  # "late" alone does not hold up those that wait
        waiting = Client(held, "waiting")
        app.event("late").set()
        app.event("waiting").set()
        answer = await late.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await serving
        assert app.seen == ["old", "late"]
        successor, _ = listener_on(held, app)
        serving = asyncio.create_task(successor.run_until_stopped())
        assert (await waiting.answer()).status == 200
        successor.stop()
        await serving


async def test_a_process_that_ends_beside_others_leaves_new_connections_to_them_at_once() -> None:
    app = SlowApp()
    with socket.create_server(("127.0.0.1", 0), backlog=8) as held:
        listener, sock = listener_on(held, app)
        serving = asyncio.create_task(listener.run_until_stopped())
        await until(lambda: listener.started)
        old = Client(held, "old")
        await until(lambda: app.seen == ["old"])
        listener.stop(others_accept=True)
        await until(lambda: sock.fileno() == -1)
        app.event("old").set()
        assert (await old.answer()).status == 200
        await serving


async def test_the_backlog_that_the_socket_unit_sets_stays() -> None:
    def backlog(sock: socket.socket) -> int:
        """Of a listening socket: tcpi_sacked (tcp(7), linux/tcp.h)."""
        return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[28:32], "little")

    with socket.create_server(("127.0.0.1", 0), backlog=37) as held:
        listener, _ = listener_on(held, SlowApp())
        serving = asyncio.create_task(listener.run_until_stopped())
        await until(lambda: listener.started)
        assert backlog(held) == 37
        listener.stop()
        await serving


# --- whole gateways ---


class Systemd:
    """Keeps two sockets, and starts gateways on them."""

    def __init__(self, directory: Path, backend: str) -> None:
        self._directory = directory
        self._backend = backend
        self._sockets = [(name, socket.create_server(("127.0.0.1", 0))) for name in ("hooks", "admin")]
        self.address: tuple[str, int] = self._sockets[0][1].getsockname()

    def close(self) -> None:
        for _, sock in self._sockets:
            sock.close()

    def gateway(self, name: str, workers: int = 1) -> AbstractContextManager[RunningGateway]:
        config = {
            "server": {"listen": "systemd:hooks", "admin": "systemd:admin", "workers": workers},
            "defaults": {"dedupe": "off"},
            "upstreams": {"u": {"url": self._backend}},
            "apps": {"a": {"static": "allow"}, "gated": {"upstream": "u", "timeout": "14s"}},
        }
        (directory := self._directory / name).mkdir()
        descriptors = [sock.fileno() for _, sock in self._sockets]
        command = handing_over(self._sockets)
        return running_gateway(json.dumps(config), directory, program=command, pass_fds=descriptors)

    def ask(self, app: str = "a") -> Answer:
        """One hook on a connection of its own."""
        with socket.create_connection(self.address, PATIENCE) as sock, sock.makefile("rb") as stream:
            sock.sendall(hook(app))
            return read_answer(stream)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    with gated_case() as opened:
        yield opened


@pytest.fixture
def backend(gate: threading.Event) -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture
def systemd(backend: FaultyBackend, tmp_path: Path) -> Iterator[Systemd]:
    running = Systemd(tmp_path, backend.url_of("gated"))
    yield running
    running.close()


class Callers:
    """Each sends one hook after the other, on a connection that it keeps while the gateway keeps it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._over = threading.Event()
        self.answered = 0
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with socket.create_connection(self._address, PATIENCE) as sock, sock.makefile("rb") as stream:
                    self._send(sock, stream)
            except (OSError, AssertionError) as exc:
                self.lost.append(repr(exc))

    def _send(self, sock: socket.socket, stream: BinaryIO) -> None:
        keep = True
        while keep and not self._over.wait(0.02):
            sock.sendall(hook())
            answer = read_answer(stream)
            assert answer.status == 200
            self.answered += 1
            keep = answer.headers.get("connection") != "close"

    def go_on(self) -> None:
        """Return when each may have had an answer since."""
        wanted = self.answered + 3 * CALLERS
        assert wait_until(lambda: self.answered >= wanted, PATIENCE)


def test_one_process_follows_another_under_load_and_no_hook_is_lost(
    systemd: Systemd, backend: FaultyBackend, gate: threading.Event
) -> None:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(CALLERS))
        callers = stack.enter_context(Callers(systemd.address))
        with systemd.gateway("first", workers=2) as gateway:
            callers.go_on()
            slow = pool.submit(systemd.ask, "gated")
            assert backend.wait_for_requests(1, "gated", within=PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: systemd.ask().headers.get("connection") == "close", PATIENCE)
            assert gateway.get("/-/ready").status_code == 503
            callers.go_on()
            assert not slow.done()
            gate.set()
            assert slow.result(PATIENCE).status == 200
            assert gateway.process.wait(PATIENCE) == 0
        waiting = [pool.submit(systemd.ask) for _ in range(CALLERS)]
        with systemd.gateway("second"):
            assert [hook.result(PATIENCE).status for hook in waiting] == [200] * CALLERS
            callers.go_on()
            callers.end()
    assert callers.lost == []
