"""Backends for the transport's tests: a function of the test plays each connection, on a real loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import httpx

from gateway.http.client import Resolver, Transport, TransportSettings

PATIENCE: Final = 10.0
"""Seconds after which a test that waits has failed."""


class Peer:
    """The backend's side of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        """From 1, in the order in which the connections were accepted."""
        self.turn = 0
        """Requests read so far."""
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request, head and body; raises EOFError or ConnectionError when the connection ends instead."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(int(length[15:]))
        self.turn += 1
        return head + body

    async def head(self) -> bytes:
        """The next request's head alone."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, body: bytes = b"{}", *lines: bytes, status: bytes = b"200 OK") -> None:
        await self.send(answer(body, *lines, status=status))

    async def gone(self) -> None:
        """Wait until the other side has left; what it still sends is thrown away."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def reset(self) -> None:
        """End the connection with a reset instead of an orderly close."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Play = Callable[[Peer], Awaitable[None]]


class Backend:
    """A listener on 127.0.0.1 whose connections are played by *play*; each is closed when *play* returns."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._peers: dict[Peer, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.port = 0
        self.accepted = 0
        self.most_open = 0
        self.failures: list[BaseException] = []

    @property
    def open(self) -> int:
        """Connections open just now."""
        return len(self._peers)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        peer = Peer(self.accepted, reader, writer)
        self._peers[peer] = writer
        self.most_open = max(self.most_open, self.open)
        try:
            await self._play(peer)
        except (EOFError, ConnectionError):
            pass  # the transport may leave whenever it likes
        except asyncio.CancelledError:
            pass  # the test is over
        except Exception as exc:
            self.failures.append(exc)
        finally:
            writer.close()
            del self._peers[peer]
            self._tasks.discard(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._peers.values():
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def backend(play: Play, host: str = "127.0.0.1") -> AsyncIterator[Backend]:
    """A Backend until the block ends; what went wrong in *play* is raised then."""
    played = Backend(play)
    server = await asyncio.start_server(played.connected, host, 0, backlog=256, limit=1 << 20)
    played.port = server.sockets[0].getsockname()[1]
    played.url = f"http://{host}:{played.port}/hook"
    try:
        yield played
    finally:
        server.close()
        await played.stop()
        await asyncio.sleep(0.01)  # aborted transports close their sockets in the loop's next rounds
    if played.failures:
        raise played.failures[0]


@contextlib.asynccontextmanager
async def transport_of(
    resolver: Resolver | None = None,
    *,
    connect_timeout: float = PATIENCE,
    keepalive: float | None = 60.0,
    max_connections: int = 64,
    max_answer: int = 1024 * 1024,
) -> AsyncIterator[Transport]:
    """A Transport that is closed when the block ends."""
    settings = TransportSettings(connect_timeout, keepalive, max_connections, max_answer)
    transport = Transport(settings, resolver=resolver)
    try:
        yield transport
    finally:
        await transport.aclose()
        await asyncio.sleep(0.01)


async def echo(peer: Peer) -> None:
    """Answers each request with its own body."""
    while True:
        request = await peer.request()
        await peer.answer(request.partition(b"\r\n\r\n")[2])


async def silence(peer: Peer) -> None:
    """Reads and never answers."""
    await peer.gone()


def answer(body: bytes = b"{}", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole answer with its true Content-Length."""
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % len(body), b"", body))


def hook(
    url: str, body: bytes = b"{}", *, within: float = PATIENCE, fresh: bool = False, **headers: str
) -> httpx.Request:
    """A request as the gateway makes them."""
    deadline = asyncio.get_running_loop().time() + within
    extensions = {"deadline": deadline, "fresh_connection": fresh}
    return httpx.Request("POST", url, content=body, headers=headers, extensions=extensions)


async def exchange(
    transport: Transport, url: str, body: bytes = b"{}", *, within: float = PATIENCE, fresh: bool = False
) -> bytes:
    """Send one hook and return its answer's body."""
    response = await transport.handle_async_request(hook(url, body, within=within, fresh=fresh))
    return await response.aread()


async def until(check: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until *check* holds; fails where it never does."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def established_to(port: int) -> int:
    """How many of this machine's TCP connections to the loopback port are established, as the kernel sees it."""
    with open("/proc/self/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@contextlib.contextmanager
def full_backlog(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that never completes a connection: its queue is full, so SYNs meet silence."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.05)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()[1]
                return
        raise OSError("the kernel completes connections although the queue is full")
