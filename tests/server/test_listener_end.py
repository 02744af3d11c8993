"""The end of a gateway under load: who was let in is answered, who comes later is refused, nobody is reset."""

from __future__ import annotations

import functools
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.gateways import RunningGateway, running_gateway, wait_until

BODY = b'{"appKey":"defaultApp"}'
HEAD = b"POST /OnCallEvent HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
HOOK = HEAD % len(BODY) + BODY
CALLERS = 6
STOPS = 4


class Callers:
    """Each makes one connection after the other, with a hook on it, until nobody listens any more."""

    def __init__(self, gateway: RunningGateway) -> None:
        host, port = gateway.hooks.rsplit(":", 1)
        self._address = (host, int(port))
        self.answered = 0
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)

    def _call(self) -> None:
        deadline = time.monotonic() + 25
        while time.monotonic() < deadline:
            try:
                sock = socket.create_connection(self._address, 10)
            except OSError:
                return  # refused: the client knows that nothing was sent
            with sock:
                answer = b""
                try:
                    sock.sendall(HOOK)
                    answer = sock.recv(12)
                except OSError as exc:
                    self.lost.append(repr(exc))
                    continue
            if answer == b"HTTP/1.1 200":
                self.answered += 1
            else:
                self.lost.append(repr(answer))


def has_enough(callers: Callers) -> bool:
    return callers.answered > CALLERS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_connection_that_was_made_is_answered_whenever_the_end_comes(tmp_path: Path, workers: int) -> None:
    text = json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
            "log": {"access": "off"},
            "apps": {"defaultApp": {"static": "allow"}},
        }
    )
    for stop in range(STOPS):
        directory = tmp_path / str(stop)
        directory.mkdir()
        with running_gateway(text, directory) as gateway:
            callers = Callers(gateway)
            callers.start()
            assert wait_until(functools.partial(has_enough, callers))
            assert gateway.stop(signal.SIGTERM) == 0
            callers.join()
        assert callers.lost == []
