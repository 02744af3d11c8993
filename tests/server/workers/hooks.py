"""Hooks to several workers, one by one, under way, and as a load."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.support.faulty import FaultyBackend, right_answer
from tests.support.gateways import RunningGateway, wait_until


def hook_of(app: str, **fields: Any) -> bytes:
    """A hook that no other equals."""
    return json.dumps({"appKey": app, "n": uuid.uuid4().hex, **fields}).encode()


@contextlib.contextmanager
def client_of(gateway: RunningGateway) -> Iterator[HTTPConnection]:
    """A connection as a media server holds one; cheaper than httpx's, of which these tests would need hundreds."""
    client = HTTPConnection(gateway.hooks, timeout=60)
    try:
        yield client
    finally:
        client.close()


def send(client: HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    client.request("POST", "/rest/my_api/OnCallEvent", body)
    answer = client.getresponse()
    return answer.status, answer.read()


def send_one(gateway: RunningGateway, body: bytes) -> int:
    """Send a hook on a connection of its own; the status."""
    with client_of(gateway) as client:
        return send(client, body)[0]


def connected(gateway: RunningGateway) -> socket.socket:
    """A connection for bytes of the test's own making, with a minute's patience."""
    host, port = gateway.hooks.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def exchange(sock: socket.socket, body: bytes) -> bytes:
    """One hook whose answer ends the connection; what came, or nothing where the connection broke."""
    head = b"POST /OnCallEvent HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.suppress(ConnectionError):
        sock.sendall(head + body)
        return b"".join(iter(lambda: sock.recv(65536), b""))
    return b""


def status_in(answer: bytes) -> int | None:
    """The status of an answer, None for none."""
    return int(answer.split(b" ", 2)[1]) if answer else None


@contextlib.contextmanager
def under_way(gateway: RunningGateway, backend: FaultyBackend, *apps: str) -> Iterator[dict[int, Future[bytes]]]:
    """Hooks that the backend has begun to work on when the block begins, by the client's port; the answer's bytes."""
    before = len(backend.requests)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(apps)))
        hooks = {}
        for app in apps:
            sock = stack.enter_context(connected(gateway))
            hooks[sock.getsockname()[1]] = pool.submit(exchange, sock, hook_of(app))
        assert wait_until(lambda: len(backend.requests) - before == len(apps)), gateway.log.read_text()
        yield hooks


class Load:
    """Clients that send one hook after the other, each on its own connection for as long as that lives."""

    def __init__(self, gateway: RunningGateway, app: str, clients: int) -> None:
        self._gateway = gateway
        self._app = app
        self._clients = clients
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []

    @property
    def answered(self) -> int:
        return self.statuses.total()

    def __enter__(self) -> Load:
        self._running = [self._pool.submit(self._run) for _ in range(self._clients)]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()

    def has_answered(self, more: int) -> bool:
        """Wait until that many more hooks have been answered."""
        wanted = self.answered + more
        return bool(wait_until(lambda: self.answered >= wanted, 30))

    def _run(self) -> None:
        with client_of(self._gateway) as client:
            while not self._over.is_set():
                body = hook_of(self._app)
                try:
                    status, answer = send(client, body)
                except (OSError, HTTPException) as exc:
                    self.errors.append(repr(exc))
                    client.close()  # and the next hook opens it again
                    continue
                assert answer == right_answer(body)
                self.statuses[status] += 1
                time.sleep(0.005)
