"""The backend: it does with each hook what the test has told it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Mode(Enum):
    """What the backend does with a hook."""

    OK = b"200 OK"
    DENY = b"403 Forbidden"
    ERROR = b"500 Internal Server Error"
    BAD_GATEWAY = b"502 Bad Gateway"
    UNAVAILABLE = b"503 Service Unavailable"
    GATEWAY_TIMEOUT = b"504 Gateway Timeout"
    HTML = b"200 OK, though not JSON"
    HOLD = b"no answer until release()"
    RESET = b"the connection is reset"


class Request(NamedTuple):
    """A hook, or a check, as the backend got it."""

    connection: int
    """The connection's number, from 1 in the order of arrival."""
    path: str
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes

    @property
    def app(self) -> str:
        return str(json.loads(self.body).get("appKey")) if self.body else ""

    @property
    def told_ms(self) -> int:
        """What the gateway said was left of the budget."""
        return int(self.headers["x-request-timeout-ms"])


class PacedBackend:
    """``with PacedBackend() as backend:`` listens on 127.0.0.1, in a thread of its own, until the block ends."""

    def __init__(self, mode: Mode = Mode.OK, delay: float = 0.0) -> None:
        self.mode = mode
        self.delay = delay
        """Seconds before each answer."""
        self.spread = 0.0
        """The part of *delay* by which a single answer may come earlier or later, evenly spread."""
        self.apps: dict[str, Mode] = {}
        """What single apps meet in place of *mode*."""
        self.checks: Callable[[int], Mode] = lambda number: Mode.OK
        """What the health check of this number (from 1) meets."""
        self.hooks: list[Request] = []
        self.check_requests: list[Request] = []
        self.most_in_hand = 0
        """The most hooks that it has had in hand at once."""
        self.most_open = 0
        """The most connections that were open at once."""
        self.worked = 0.0
        """Seconds that it has had hooks in hand, those of all connections together."""
        self.accepted = 0
        self.lose: Callable[[int], bool] = lambda number: False
        """Whether the hook of this number (from 1) is acted on and its answer lost: the connection is reset."""
        with socket.socket() as finder:  # a port named in bind() stays ours while it does not listen
            finder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            finder.bind(("127.0.0.1", 0))
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(finder.getsockname())
        self.port: int = self._listener.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"
        """As the gateway names the target."""
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"backend {self.port}", daemon=True)
        self._open: set[_Serving] = set()
        self._held: list[tuple[_Serving, Request]] = []
        self._listens = False
        self._beginning: set[asyncio.Task[object]] = set()
        """Connections that are accepted, and not served yet."""
        self._dice = random.Random(self.port)

    @property
    def url(self) -> str:
        return f"http://{self.name}/rest/my_api"

    @property
    def count(self) -> int:
        """Hooks that have arrived."""
        return len(self.hooks)

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._open)

    @property
    def is_connected(self) -> bool:
        """Whether anybody has a connection open."""
        return bool(self._open)

    @property
    def held(self) -> int:
        """Hooks held on to whose callers are still there."""
        return len(self._held)

    def count_of(self, app: str) -> int:
        return sum(request.app == app for request in list(self.hooks))

    def held_of(self, app: str) -> int:
        return sum(request.app == app for _, request in list(self._held))

    def release(self, mode: Mode = Mode.OK) -> None:
        """Answer what is held, and every hook from now on, this way."""
        self._do(self._release, mode)

    def kill(self) -> None:
        """Reset every connection and refuse new ones."""
        self._do(self._kill)

    def revive(self) -> None:
        """Listen again, on the same port."""
        self._do(self._listen)

    def __enter__(self) -> PacedBackend:
        self._thread.start()
        self.revive()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._do(self._kill)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._listener.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def __repr__(self) -> str:
        return f"<PacedBackend {self.name} {self.mode.name} {self.count} hooks, {self.held} held>"

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run it in the backend's thread, and wait for its end."""
        done = threading.Event()

        def act() -> None:
            action(*arguments)
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(5), "the backend's thread hangs"

    def _listen(self) -> None:
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._listens = True
        self._loop.add_reader(self._listener, self._accept)

    def _kill(self) -> None:
        self._listens = False
        self._loop.remove_reader(self._listener)
        with contextlib.suppress(OSError):  # it does not listen
            self._listener.shutdown(socket.SHUT_RD)
        for serving in list(self._open):
            serving.reset()

    def _release(self, mode: Mode) -> None:
        self.mode = mode
        self.apps.clear()
        held, self._held = self._held, []
        for serving, request in held:
            serving.answer(mode, request)

    async def _end(self) -> None:
        """Wait for the connections that were accepted at the last moment, which are reset as soon as they are there."""
        await asyncio.gather(*self._beginning)
        while self._open:
            await asyncio.sleep(0)

    def _accept(self) -> None:
        # Not by sock_accept(): cancelled at the wrong moment, it loses the connection that it has just accepted.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            serving = functools.partial(_Serving, self, self.accepted)
            task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(serving, sock))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    # --- what a connection calls ---

    def opened(self, serving: _Serving) -> None:
        self._open.add(serving)
        self.most_open = max(self.most_open, len(self._open))
        if not self._listens:
            serving.reset()

    def gone(self, serving: _Serving) -> None:
        self._open.discard(serving)
        self._held = [held for held in self._held if held[0] is not serving]

    def take(self, serving: _Serving, request: Request) -> None:
        if not request.body:
            self.check_requests.append(request)
            self._treat(serving, request, self.checks(len(self.check_requests)))
            return
        self.hooks.append(request)
        serving.in_hand_since = self._loop.time()
        self.most_in_hand = max(self.most_in_hand, sum(one.in_hand_since is not None for one in self._open))
        if self.lose(len(self.hooks)):
            serving.reset()
            return
        mode = self.apps.get(request.app, self.mode) if self.apps else self.mode
        if self.delay and mode is not Mode.HOLD:
            delay = self.delay * (1 + self.spread * self._dice.uniform(-1, 1))
            self._loop.call_later(delay, self._treat, serving, request, mode)
        else:
            self._treat(serving, request, mode)

    def _treat(self, serving: _Serving, request: Request, mode: Mode) -> None:
        if mode is Mode.HOLD:
            self._held.append((serving, request))
        elif mode is Mode.RESET:
            serving.reset()
        else:
            serving.answer(mode, request)

    def body_of(self, mode: Mode, request: Request) -> bytes:
        if mode is Mode.OK:
            return b'{"number":%d,"from":%d}' % (len(self.hooks), self.port)
        return b"<html>no verdict</html>" if mode is Mode.HTML else b""


class _Serving(asyncio.Protocol):
    """One connection of the backend's."""

    def __init__(self, backend: PacedBackend, number: int) -> None:
        self._backend = backend
        self._number = number
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.in_hand_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._backend.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._put_down()
        self._transport = None
        self._backend.gone(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._backend.take(self, Request(self._number, first.split(" ")[1], headers, rest[:length]))

    def answer(self, mode: Mode, request: Request) -> None:
        self._put_down()
        if self._transport is not None:
            body = self._backend.body_of(mode, request)
            status = mode.value.partition(b",")[0]
            head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            self._transport.write(head + body)

    def reset(self) -> None:
        self._put_down()
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    def _put_down(self) -> None:
        if self.in_hand_since is not None:
            self._backend.worked += asyncio.get_running_loop().time() - self.in_hand_since
            self.in_hand_since = None


@contextlib.contextmanager
def backends(count: int) -> Iterator[list[PacedBackend]]:
    """Several of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PacedBackend()) for _ in range(count)]
