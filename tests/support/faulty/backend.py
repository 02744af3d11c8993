"""The server that plays the cases, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator

from tests.support.faulty.answers import reply
from tests.support.faulty.cases import BASE_PATH, CASES, OK, Pause, Recorded, Script, Step, Turn, add_case
from tests.support.faulty.connection import Connection


class FaultyBackend:
    """The server: ``with FaultyBackend() as backend:`` listens on 127.0.0.1 until the block ends.

    It lives in a thread with a loop of its own, so sync and asyncio tests use it alike. On leaving, all its
    connections are cut and its thread is gone; RuntimeError if that takes more than two seconds.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Recorded] = []
        """Every request in the order of arrival."""
        self.problems: list[str] = []
        """What was wrong with requests that a strict server refuses, and errors of the backend itself."""
        self.port = 0
        self.accepted = 0
        """How many connections were accepted (with TLS: before the handshake)."""
        self._scheme = "https" if tls else "http"
        self._tls = tls
        self._open: set[int] = set()
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty-backend", daemon=True)
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """The base under which the cases are."""
        return f"{self._scheme}://127.0.0.1:{self.port}{BASE_PATH}"

    def url_of(self, case: str) -> str:
        """The upstream URL whose hooks meet this case; KeyError for a name that is none."""
        return f"{self.url}/{CASES[case].name}"

    def requests_of(self, case: str) -> list[Recorded]:
        """The requests that this case has had."""
        return [request for request in self.requests if request.case == case]

    def connections_of(self, case: str) -> list[int]:
        """The numbers of the connections that brought this case's requests, each once, in order."""
        return list(dict.fromkeys(request.connection for request in self.requests_of(case)))

    def open_connections(self, case: str | None = None) -> int:
        """How many connections are open just now: all, or those that have brought requests of this case."""
        with self._changed:
            return self._count(case)

    def wait_for_connections(self, count: int, case: str | None = None, within: float = 1.0) -> bool:
        """Block until exactly *count* connections are open, at most *within* seconds; whether it came to that.

        In asyncio tests: ``await asyncio.to_thread(backend.wait_for_connections, 0, "ok")``.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._count(case) == count, within)

    def wait_for_requests(self, count: int, case: str, within: float = 1.0) -> bool:
        """Block until the case has had at least *count* requests, at most *within* seconds; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._counts.get(case, 0) >= count, within)

    def record(self, request: Recorded) -> int:
        """Note a request; how many its case has now had."""
        with self._changed:
            self.requests.append(request)
            nth = self._counts[request.case] = self._counts.get(request.case, 0) + 1
            self._changed.notify_all()
        return nth

    def __enter__(self) -> FaultyBackend:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._thread.start()
        if not self._ready.wait(2):
            raise RuntimeError("the faulty backend did not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)
        self._thread.join(2)
        if self._thread.is_alive():
            raise RuntimeError("the faulty backend did not stop")

    def __repr__(self) -> str:
        return f"<FaultyBackend {self.url} requests={len(self.requests)} open={self.open_connections()}>"

    def _count(self, case: str | None) -> int:
        if case is None:
            return len(self._open)
        return len(self._open.intersection(self.connections_of(case)))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # not by the policy that the tests set
            runner.run(self._serve())

    async def _serve(self) -> None:
        assert self._listener is not None
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._listener.setblocking(False)
        self._accept_on(self._listener)
        self._ready.set()
        try:
            await self._stopping.wait()
        finally:
            self._loop.remove_reader(self._listener)
            if self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks, timeout=1.5)
            self._listener.close()
            await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round

    def _accept_on(self, listener: socket.socket) -> None:
        assert self._stopping is not None
        if not self._stopping.is_set():
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        # Not by sock_accept(): cancelled at the wrong moment, it loses the connection that it has just accepted.
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no file descriptors left, for instance: tests of just that share this process
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(0.05, self._accept_on, listener)
            return
        sock.setblocking(False)
        self.accepted += 1
        task = asyncio.create_task(self._serve_connection(sock, self.accepted))
        self._tasks.add(task)

        def ended(_: object) -> None:
            sock.close()  # of one that was cancelled before it began, too
            self._tasks.discard(task)

        task.add_done_callback(ended)

    async def _serve_connection(self, sock: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        with self._changed:
            self._open.add(number)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = asyncio.StreamReader(loop=loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._tls, ssl_handshake_timeout=2.0 if self._tls else None
            )
            assert isinstance(transport, asyncio.Transport)
            # drain() waits until all is sent; asyncio's TLS transport never resumes with 0
            transport.set_write_buffer_limits(high=1 if self._tls else 0, low=0)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await Connection(number, reader, writer, self.record, self.problems).serve()
        except OSError:
            pass  # a refused certificate, a handshake cut short
        except Exception as exc:
            self.problems.append(f"connection {number}: {exc!r}")
        finally:
            sock.close()
            with self._changed:
                self._open.discard(number)
                self._changed.notify_all()


@contextlib.contextmanager
def added_case(name: str, doc: str, script: Script) -> Iterator[None]:
    """One more case, whose hooks are allowed, as long as the block lasts."""
    add_case(name, doc, OK, 1, script)
    try:
        yield
    finally:
        del CASES[name]


@contextlib.contextmanager
def gated_case(name: str = "gated") -> Iterator[threading.Event]:
    """One more case, which answers right once the event is set; it is when the block ends."""
    opened = threading.Event()

    def script(turn: Turn) -> Iterable[Step]:
        while not opened.is_set():
            yield Pause(0.02)
        yield reply(turn.right)

    with added_case(name, "The right answer, when the test says so.", script):
        try:
            yield opened
        finally:
            opened.set()
