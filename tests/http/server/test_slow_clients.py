"""Clients that send or read as slowly as they can: hooks beside them are answered, and nothing of them stays."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.pacing import Callers, PacedBackend, configuration, hook_body, open_files, volley
from tests.support.programs import require

READ_TIMEOUT: Final = 2.0
KEEPALIVE_TIMEOUT: Final = 10.0
"""Seconds; more than the callers of this process are ever held up between two hooks."""
CLIENTS: Final = 200
TOOL_CONNECTIONS: Final = 500
HEAD: Final = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\n"
HALF: Final = HEAD + b"Content-Length: 1000\r\n\r\n" + b'{"appKey":"beside","x":"'
LARGE: Final = 200 * 1024
"""Bytes of a hook whose answer, itself, no socket buffer of a client's takes."""


@pytest.fixture(scope="module")
def backend() -> Iterator[PacedBackend]:
    with PacedBackend(delay=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: PacedBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    text = configuration(
        {"u": {"url": backend.url, "keepalive": "off"}},
        {"beside": {"upstream": "u", "timeout": "10s"}, "echo": {"static": "allow"}},
        server={"read_timeout": f"{READ_TIMEOUT:g}s", "keepalive_timeout": f"{KEEPALIVE_TIMEOUT:g}s"},
        log={"access": "off"},
    )
    with running_gateway(text, tmp_path_factory.mktemp("slow")) as running:
        yield running


@contextlib.contextmanager
def undisturbed(gateway: RunningGateway, attack: str) -> Iterator[None]:
    """Hooks go on beside the block; each is answered right, and after it all is as before."""
    assert {answer.status for answer in volley(gateway, [hook_body("beside")])} == {200}
    gateway.client.close()  # its connection to the admin port would count
    assert wait_until(lambda: len(connections(gateway)) == 0)
    before = open_files(gateway)
    # These call again at once: none of their connections is ever idle for as long as keepalive_timeout.
    with Callers(gateway.hooks, "beside", callers=4) as callers:
        yield
    longest = max(answer.seconds for answer in callers.answers)
    print(f"{attack}: {len(callers.answers)} hooks beside, {dict(callers.statuses())}, longest {longest * 1000:.0f} ms")
    assert set(callers.statuses()) == {200}
    assert gateway.process.poll() is None
    assert wait_until(lambda: open_files(gateway) <= before, 30), (open_files(gateway), before)
    assert {answer.status for answer in volley(gateway, [hook_body("beside")])} == {200}


def connections(gateway: RunningGateway) -> list[str]:
    """The connections to the hook port that are open, as the kernel lists them."""
    port = f":{int(gateway.hooks.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line[2] for line in lines if line[1].endswith(port) and line[3] == "01"]


class Ended(NamedTuple):
    """What a slow client was given by the end of its connection."""

    data: bytes
    closed: bool
    """Whether the gateway ended it."""


@contextlib.contextmanager
def clients(gateway: RunningGateway, count: int, receive_buffer: int = 0) -> Iterator[list[socket.socket]]:
    host, _, port = gateway.hooks.rpartition(":")
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(10)
            sock.connect((host, int(port)))
            sock.setblocking(False)
            opened.append(sock)
        yield opened


def end_of(sock: socket.socket) -> Ended:
    """What is there to read, and whether it is all."""
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except BlockingIOError:
        return Ended(data, False)
    except ConnectionError:
        pass
    return Ended(data, True)


def ends(socks: list[socket.socket], within: float = 15.0) -> list[Ended]:
    """How each connection ended, once all have; or how it stands when the time is over."""
    found = dict.fromkeys(socks, Ended(b"", False))

    def all_ended() -> bool:
        for sock, so_far in found.items():
            if not so_far.closed:
                more = end_of(sock)
                found[sock] = Ended(so_far.data + more.data, more.closed)
        return all(ended.closed for ended in found.values())

    wait_until(all_ended, within)
    return list(found.values())


class Slow(NamedTuple):
    """A kind of slow client: what it sends at once, and then byte by byte."""

    at_once: bytes
    then: bytes
    ends: bytes
    """The status line that it gets at last; empty where it gets nothing but the end."""


TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout"
SLOW: Final = {
    "nothing at all": Slow(b"", b"", b""),
    "a head byte by byte": Slow(b"", HEAD, TIMED_OUT),
    "half a body, then nothing": Slow(HALF, b"", TIMED_OUT),
    "a body byte by byte": Slow(HALF, b"x" * 100, TIMED_OUT),
    "chunks byte by byte": Slow(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 20, TIMED_OUT),
}


def drip(kinds: dict[str, list[socket.socket]]) -> None:
    """One byte on each connection every 0.3 s, for longer than the gateway has patience."""
    until = time.monotonic() + READ_TIMEOUT + 0.5
    for at in itertools.count():
        for kind, socks in kinds.items():
            for sock in socks:
                with contextlib.suppress(OSError):  # the gateway has given it up
                    sock.send(SLOW[kind].then[at : at + 1])
        if time.monotonic() > until:
            return
        time.sleep(0.3)


def test_slow_requests_are_given_up_at_read_timeout_each_with_one_408(gateway: RunningGateway) -> None:
    with undisturbed(gateway, f"{CLIENTS} clients of each slow kind"), clients(gateway, CLIENTS * len(SLOW)) as opened:
        kinds = {kind: opened[at * CLIENTS : (at + 1) * CLIENTS] for at, kind in enumerate(SLOW)}
        for kind, socks in kinds.items():
            for sock in socks:
                sock.send(SLOW[kind].at_once)
        drip(kinds)
        for kind, socks in kinds.items():
            found = ends(socks)
            assert all(ended.closed for ended in found), kind
            assert {ended.data.partition(b"\r\n")[0] for ended in found} == {SLOW[kind].ends}, kind
            assert {ended.data.count(b"HTTP/1.1 ") for ended in found} == {1 if SLOW[kind].ends else 0}, kind


def test_a_client_that_never_reads_its_answers_is_dropped(gateway: RunningGateway) -> None:
    body = b'{"appKey":"echo","x":"%b"}' % (b"x" * LARGE)
    hook = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with undisturbed(gateway, "answers never read"), clients(gateway, 50, 4096) as socks:
        left = dict.fromkeys(socks, memoryview(30 * hook))

        def all_dropped() -> bool:
            for sock, data in list(left.items()):
                try:
                    left[sock] = data[sock.send(data) :]
                except BlockingIOError:  # the gateway reads no further than its answers go out
                    pass
                except ConnectionError:
                    del left[sock]
            time.sleep(0.1)  # the callers share this process
            return not left

        assert wait_until(all_dropped, KEEPALIVE_TIMEOUT + 60), len(left)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("header", ["-H"]), ("body", ["-B", "-s", "8192"]), ("read", ["-X", "-k", "10", "-w", "10", "-y", "20"])],
)
@pytest.mark.real
def test_hooks_are_answered_beside_slowhttptest(gateway: RunningGateway, mode: str, options: list[str]) -> None:
    tool = require("slowhttptest", "slowhttptest")
    url = f"{gateway.url}/OnCallEvent"
    pace = ["-c", str(TOOL_CONNECTIONS), "-r", "250", "-i", "1", "-l", "2", "-p", "5"]
    with undisturbed(gateway, f"slowhttptest in {mode} mode"):
        ran = subprocess.run(
            [tool, *options, *pace, "-v", "1", "-u", url], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert wait_until(lambda: len(connections(gateway)) <= 50, 30)
