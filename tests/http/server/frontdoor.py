"""A front door for the tests: the real listener in a loop of its own thread, a small app, and a client of raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.server import FrontLimits, FrontProtocol, FrontState
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer
from gateway.server.listener import Listener

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
LIMITS: Final = FrontLimits(max_body=10_000, read_timeout=10.0, keepalive_timeout=10.0, max_connections=100)
HASTY: Final = LIMITS._replace(read_timeout=0.3)
PATIENCE: Final = 15.0
"""Seconds after which a test gives up on the door."""


class _Connections(set[Any]):
    """The listener's connections, remembered for as long as anything else holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: weakref.WeakSet[FrontProtocol] = weakref.WeakSet()

    def add(self, protocol: FrontProtocol) -> None:
        super().add(protocol)
        self.ever.add(protocol)


Opener = Callable[..., AbstractContextManager["Door"]]
"""open_door() on one of the loops."""


@dataclass
class Door:
    """A listener that runs, and what it has been seen to do."""

    loop: asyncio.AbstractEventLoop
    listener: Listener
    state: FrontState
    port: int
    refusals: list[BadRequest]
    mishaps: list[dict[str, Any]] = field(default_factory=list)
    """What asyncio's exception handler was told."""
    log: list[str] = field(default_factory=list)
    """What the door has logged. Formatted at once: a record would hold the frames of its exception."""
    left: list[str] = field(default_factory=list)
    """Tasks and connections that something still held when the listener had ended."""
    thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def statuses(self) -> list[int]:
        """Of what the door itself has refused."""
        return [refusal.status for refusal in self.refusals]

    @property
    def connections(self) -> list[FrontProtocol]:
        return list(self.state.connections)  # type: ignore[arg-type]  # uvicorn types its own classes only

    def connect(self, receive_buffer: int | None = None) -> Client:
        sock = socket.socket()
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", self.port))
        return Client(sock)

    def ask(self, data: bytes, method: str = "POST") -> Reply:
        """One answer to these bytes, sent on a connection of their own."""
        with self.connect() as client:
            client.send(data)
            return client.read(method)

    def call(self, function: Callable[[], object]) -> None:
        """Run it in the door's loop."""
        self.loop.call_soon_threadsafe(function)

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """The door stands still while the block lasts: what is sent meanwhile is all there when it goes on.

        So no time runs out between a client's connection and its first bytes, however slow the client.
        """
        stands, goes_on = threading.Event(), threading.Event()

        def stand() -> None:
            stands.set()
            goes_on.wait(PATIENCE)

        self.call(stand)
        assert stands.wait(PATIENCE)
        try:
            yield
        finally:
            goes_on.set()

    def connect_with(self, data: bytes) -> Client:
        """A client whose first bytes are there when the door takes its connection."""
        with self.held_up():
            client = self.connect()
            client.send(data)
        return client

    def stop(self, *, at_once: bool = False) -> None:
        """Begin the orderly end."""
        self.call(lambda: self.listener.stop(at_once=at_once))

    def join(self) -> None:
        """Wait for the end."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the listener did not end"


@dataclass
class Reply:
    """An answer as it was read."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection; reads answers strictly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def dribble(self, data: bytes, pause: float = 0.0005) -> None:
        """Byte by byte, in segments of their own."""
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(pause)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def line(self) -> bytes:
        """One line, without its end."""
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    def read(self, method: str = "POST") -> Reply:
        """The next answer, whole."""
        version, status, phrase = self.line().decode("ascii").split(" ", 2)
        assert version == "HTTP/1.1"
        assert phrase
        headers: dict[str, str] = {}
        while line := self.line():
            name, value = line.decode("ascii").split(": ", 1)
            assert name not in headers
            headers[name] = value
        assert headers.pop("date")
        return Reply(int(status), headers, b"" if method == "HEAD" else self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            body = self._file.read(int(headers["content-length"]))
            assert len(body) == int(headers["content-length"])
            return body
        if "transfer-encoding" not in headers:
            return self.rest()
        parts = []
        while size := int(self.line(), 16):
            parts.append(self._file.read(size))
            assert self.line() == b""
        assert self.line() == b""
        return b"".join(parts)

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which comes in order; but for the answers' dates."""
        return re.sub(rb"(?m)^date: .{29}\r\n", b"", self._file.read())

    def is_reset_or_ends(self) -> bool:
        """Read on; whether the connection ends, in order or not, before patience does."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True


def readable(client: Client, seconds: float) -> bool:
    """Whether something, or the end, comes within so long."""
    return bool(select.select([client.sock], [], [], seconds)[0])


def request(
    body: bytes = b"", *lines: bytes, method: bytes = b"POST", path: bytes = b"/", version: bytes = b"1.1"
) -> bytes:
    """A valid request."""
    head = [b"%b %b HTTP/%b" % (method, path, version), b"Host: gw", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", line: bytes = b"POST / HTTP/1.1") -> bytes:
    """A request whose body comes in chunks."""
    head = line + b"\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


HALVES: Final = {
    "a method": b"PO",
    "half a head": b"POST / HTTP/1.1\r\nHos",
    "a head without its end": b"POST / HTTP/1.1\r\nHost: gw\r\n",
    "half a line end": b"\r",
    "a head without its body": request(b"hello")[:-5],
    "half a body": request(b"hello")[:-1],
    "no chunk": chunked(end=b""),
    "half a chunk": chunked(end=b"5\r\nhel"),
    "no last chunk": chunked(b"hello", end=b""),
    "a last chunk without its end": chunked(b"hello", end=b"0\r\n"),
}
"""Requests broken off, by where."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with the body that it got, and its path."""
    message = await receive()
    headers = [(b"x-path", scope["raw_path"])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"]})


def refuse_into(refusals: list[BadRequest]) -> Callable[[BadRequest], Answer]:
    def refuse(refusal: BadRequest) -> Answer:
        refusals.append(BadRequest(refusal.status, refusal.detail))  # without the frames that its traceback holds
        return Answer(refusal.status, [(b"content-type", b"text/plain")], refusal.detail.encode())

    return refuse


@contextlib.contextmanager
def open_door(
    loop: str, app: ASGIApp = echo, *, limits: FrontLimits = LIMITS, linger: float = 0.0, grace: float = 5.0
) -> Iterator[Door]:
    """A door that serves *app*; once it is shut, nothing of it may be left."""
    opened: list[Door] = []
    started = threading.Event()

    async def serve() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        refusals: list[BadRequest] = []
        state = FrontState(limits, linger, refuse_into(refusals))
        connections = _Connections()
        state.connections = connections
        listener = Listener(app, [sock], state, grace=grace)
        door = Door(asyncio.get_running_loop(), listener, state, sock.getsockname()[1], refusals)
        door.loop.set_exception_handler(lambda _, context: door.mishaps.append(context))
        opened.append(door)
        serving = asyncio.create_task(listener.run_until_stopped())
        while not listener.started and not serving.done():
            await asyncio.sleep(0.005)
        started.set()
        await serving
        del serving
        await _see_what_is_left(door, connections)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=LOOPS[loop], debug=loop == "asyncio") as runner:
                runner.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run, name=f"front door on {loop}")
    thread.start()
    assert started.wait(PATIENCE)
    (door,) = opened
    door.thread = thread
    with _logging_into(door.log):
        try:
            yield door
        finally:
            if thread.is_alive():
                door.stop()
            door.join()
    assert door.mishaps == []
    assert door.left == []


@contextlib.contextmanager
def _logging_into(lines: list[str]) -> Iterator[None]:
    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))
            record.exc_info = None

    logger, handler = logging.getLogger("gateway.http.server"), Lines()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


async def _see_what_is_left(door: Door, connections: _Connections) -> None:
    """What holds a connection, a task or a timer also holds its protocol."""
    deadline = door.loop.time() + 4.0
    while True:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if door.listener.force_exit:  # then the end of the loop ends them
            for task in tasks:
                task.cancel()
        door.left = [*map(repr, tasks), *map(repr, connections.ever)]
        if not door.left or door.loop.time() > deadline:
            return
        tasks.clear()
        await asyncio.sleep(0.05)
        gc.collect()
