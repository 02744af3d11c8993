"""Sends hooks as a media server does: a few keep-alive connections, one hook at a time on each, at an even pace.

A session's hooks keep their order and stay on one connection; many sessions are under way at once. Nothing is sent
twice: an answer that does not come is a lost hook.
"""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.rehearsal.day import Hook, Session

CONNECTIONS: Final = 16
SESSIONS_AT_ONCE: Final = 8
"""On each connection."""
ANSWER_LIMIT: Final = 15.0
"""Seconds, as the media server has it: rest_request_timeout."""
_HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/json;charset=UTF-8",
    "User-Agent": "Java/1.8.0_111",
    "Connection": "keep-alive",
}


class Sent(NamedTuple):
    """A hook and what came back."""

    hook: Hook
    status: int
    """0 where no whole answer came."""
    body: bytes
    proxy_status: str
    """Says why the gateway itself decided; empty where it did not."""
    began: float
    """Unix time, in seconds."""
    ended: float
    error: str = ""


class Sending:
    """Hooks on their way; the block ends when all are answered, or *limit* seconds have passed."""

    def __init__(self, address: str, sessions: Sequence[Session], rate: float, limit: float) -> None:
        self._address = address
        self._pause = 1 / rate
        self._deadline = time.monotonic() + limit
        self.total = sum(map(len, sessions))
        self._answers: list[Sent] = []
        self._tickets = itertools.count()
        self._began = time.monotonic()
        shares = [sessions[number::CONNECTIONS] for number in range(min(CONNECTIONS, len(sessions)))]
        self._threads = [
            threading.Thread(target=self._send_all, args=(share, random.Random(number)), daemon=True)
            for number, share in enumerate(shares)
        ]

    def __enter__(self) -> Sending:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for thread in self._threads:
            thread.join(max(0.1, self._deadline + ANSWER_LIMIT - time.monotonic()))

    def wait_for(self, share: float) -> None:
        """Until this share of the hooks has been answered."""
        while len(self._answers) < share * self.total and time.monotonic() < self._deadline:
            time.sleep(0.005)

    @property
    def answers(self) -> list[Sent]:
        """Those so far, in the order in which they came."""
        return list(self._answers)

    def _send_all(self, sessions: Sequence[Session], dice: random.Random) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_LIMIT)
        waiting = iter(sessions)
        under_way = [iter(session) for session in itertools.islice(waiting, SESSIONS_AT_ONCE)]
        while under_way and time.monotonic() < self._deadline:
            session = dice.choice(under_way)
            if (hook := next(session, None)) is None:
                under_way.remove(session)
                under_way += [iter(another) for another in itertools.islice(waiting, 1)]
                continue
            due = self._began + next(self._tickets) * self._pause
            time.sleep(max(0.0, due - time.monotonic()))
            self._answers.append(_asked(connection, hook))
        connection.close()


def _asked(connection: http.client.HTTPConnection, hook: Hook) -> Sent:
    began = time.time()
    try:
        connection.request("POST", f"/rest/my_api/{hook.method}", hook.body, _HEADERS)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        connection.close()
        return Sent(hook, 0, b"", "", began, time.time(), repr(exc))
    return Sent(hook, answer.status, body, answer.headers.get("Proxy-Status", ""), began, time.time())
