"""Hooks at a constant rate, whether earlier ones are answered or not; prints what became of them as JSON.

A latency counts from when its hook was due, so that a proxy which stands still is seen by all the hooks that it kept
waiting (an open loop, without what is called coordinated omission). Waits with select(2), which, unlike epoll as
Python has it, takes less than a millisecond.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.hooks import Requests

_PATIENCE: Final = 10.0
"""Seconds for the last answers."""
_PAUSE: Final = 0.05


@dataclass
class Tally:
    """Every hook's fate, in order of the answers."""

    due: list[float] = field(default_factory=list)
    """Seconds of the system's monotonic clock, which all processes share."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from when it was due."""
    statuses: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0


class Lines:
    """Keep-alive connections, each with at most one hook on it."""

    def __init__(self, host: str, port: int, count: int, tally: Tally) -> None:
        self._address = (host, port)
        self._free = deque(self._connect() for _ in range(count))
        self._busy: dict[socket.socket, tuple[float, bytes]] = {}
        self._tally = tally

    @property
    def busy(self) -> int:
        return len(self._busy)

    @property
    def free(self) -> int:
        return len(self._free)

    def send(self, request: bytes, due: float) -> None:
        line = self._free.popleft()
        self._busy[line] = (due, b"")
        line.sendall(request)

    def wait(self, seconds: float) -> None:
        """Take the answers that come in so many seconds, or in less if there are some."""
        if not self._busy:
            time.sleep(seconds)
            return
        for line in select.select(list(self._busy), [], [], seconds)[0]:
            self._take(line)

    def close(self) -> None:
        for line in (*self._free, *self._busy):
            line.close()

    def _take(self, line: socket.socket) -> None:
        due, answer = self._busy[line]
        try:
            more = line.recv(262_144)
        except OSError:
            more = b""
        answer += more
        if more and not is_whole(answer):
            self._busy[line] = (due, answer)
            return
        del self._busy[line]
        if more:
            self._tally.due.append(due)
            self._tally.latencies.append(time.monotonic() - due)
            self._tally.statuses[answer[9:12].decode()] += 1
            self._free.append(line)
        else:
            self._tally.unanswered += 1
            line.close()
            self._free.append(self._connect())

    def _connect(self) -> socket.socket:
        line = socket.create_connection(self._address, timeout=5)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer with a Content-Length is here."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    assert found, f"an answer without a length: {head!r}"
    return len(body) >= int(rest.partition(b"\r\n")[0])


def send_at_rate(lines: Lines, requests: Requests, rate: float, seconds: float, tally: Tally) -> None:
    """Send for so many seconds; answers are waited for a little longer."""
    total = round(rate * seconds)
    begin = time.monotonic() + _PAUSE
    waiting = deque[tuple[int, float]]()
    number = 0
    while (now := time.monotonic()) < begin + seconds + _PATIENCE:
        while number < total and begin + number / rate <= now:
            waiting.append((number, begin + number / rate))
            number += 1
        while waiting and lines.free:
            which, due = waiting.popleft()
            lines.send(requests[which], due)
        if number == total and not waiting and not lines.busy:
            break
        pause = begin + number / rate - time.monotonic() if number < total else _PAUSE
        lines.wait(min(max(pause, 0.0), _PAUSE))
    tally.unanswered += lines.busy + len(waiting) + total - number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--run", type=int, default=0)
    parser.add_argument("--apps", type=int, default=1)
    options = parser.parse_args(arguments)
    gc.disable()  # a collection here would look like a stall there
    tally = Tally()
    lines = Lines("127.0.0.1", options.port, options.connections, tally)
    try:
        send_at_rate(lines, Requests(options.file, options.run, options.apps), options.rate, options.seconds, tally)
    finally:
        lines.close()
    print(json.dumps(vars(tally)))


if __name__ == "__main__":
    main()
