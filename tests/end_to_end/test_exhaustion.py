"""What runs out: connections, file descriptors, local ports, memory, processor time. All of it comes back."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.pacing import Callers, Mode, PacedBackend, configuration, hook_body, open_files, volley

IDLE: Final = 5000
MAX_BODY: Final = 256 * 1024
HEAD: Final = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\n"
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[int]:
    """As many file descriptors as this user may have, for the tests and the gateways that they start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def gateway_for(
    backend: PacedBackend,
    directory: Path,
    *,
    access: str = "off",
    program: Sequence[str] = (sys.executable, "-m", "gateway"),
    **server: Any,
) -> Iterator[RunningGateway]:
    upstream = {"url": backend.url, "breaker": "off"}
    text = configuration(
        {"u": upstream, "fresh": {**upstream, "keepalive": "off"}},
        {
            "a": {"upstream": "u", "timeout": "10s"},
            "fresh": {"upstream": "fresh", "timeout": "10s"},
            "static": {"static": "reject"},
        },
        server=server,
        log={"access": access},
    )
    with running_gateway(text, directory, program=program) as running:
        yield running


def cpu(gateway: RunningGateway) -> float:
    """Seconds of processor time that the gateway has had, by its own clock (clock_getcpuclockid(3))."""
    return time.clock_gettime(~gateway.pid << 3 | 2)


def memory(gateway: RunningGateway) -> int:
    """Bytes of memory that the gateway has in use (its resident set)."""
    return int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def connected(gateway: RunningGateway, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = gateway.hooks.rpartition(":")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(count)]


def request(body: bytes, *lines: bytes) -> bytes:
    return b"".join((HEAD, *(line + b"\r\n" for line in lines), b"Content-Length: %d\r\n\r\n" % len(body), body))


def statuses(gateway: RunningGateway, app: str, count: int = 1) -> set[int]:
    return {answer.status for answer in volley(gateway, [hook_body(app) for _ in range(count)])}


# --- connections ---


@pytest.mark.slow
def test_hooks_are_answered_beside_5000_idle_connections(
    backend: PacedBackend, tmp_path: Path, many_descriptors: int
) -> None:
    count = min(IDLE, (many_descriptors - 500) // 2)
    with gateway_for(backend, tmp_path, max_connections=IDLE + 100, read_timeout="60s") as gateway:
        assert statuses(gateway, "a") == {200}
        before, files = memory(gateway), open_files(gateway)
        with connected(gateway, count):
            assert wait_until(lambda: open_files(gateway) >= count)
            used = memory(gateway) - before
            with Callers(gateway.hooks, "a", rate=100) as callers:
                assert wait_until(lambda: len(callers.answers) >= 150, 30)
            started = cpu(gateway)
            time.sleep(1)
            idle_cost = cpu(gateway) - started
        longest = max(answer.seconds for answer in callers.answers)
        print(
            f"{count} idle connections: {used / count / 1024:.1f} KiB each, {idle_cost:.2f} s of CPU in a second, "
            f"{len(callers.answers)} hooks beside, longest {longest * 1000:.0f} ms"
        )
        assert set(callers.statuses()) == {200}
        assert used < count * 32 * 1024
        assert idle_cost < 0.5
        assert wait_until(lambda: open_files(gateway) <= files + 8, 90)
        assert statuses(gateway, "a") == {200}
    if count < IDLE:
        pytest.skip(f"done with {count} connections only: no more file descriptors are allowed here")


def test_one_connection_more_than_max_connections_is_told_so(backend: PacedBackend, tmp_path: Path) -> None:
    with gateway_for(backend, tmp_path, max_connections=20, read_timeout="60s") as gateway:
        with connected(gateway, 20):
            with gateway.connect() as sock, sock.makefile("rb") as stream:
                answer = read_answer(stream)
                assert (answer.status, answer.headers["connection"]) == (403, "close")
                assert "server.max_connections" in answer.detail
                assert stream.read() == b""
            assert gateway.metric("gateway_hooks_total", reason="overload") == 1
        assert wait_until(lambda: statuses(gateway, "a") == {200})


# --- file descriptors ---


def test_the_gateway_raises_its_own_limit_of_descriptors_as_far_as_it_may(
    backend: PacedBackend, tmp_path: Path, many_descriptors: int
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, many_descriptors))  # the soft limit that most systems begin with
    try:
        with gateway_for(backend, tmp_path) as gateway:
            allowed, _ = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (many_descriptors, many_descriptors))
    assert allowed == many_descriptors


def limited_to(descriptors: int) -> tuple[str, ...]:
    """The gateway as started by a user who may open so many files, and no more by any means."""
    return ("sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"', sys.executable, "-m", "gateway")


def few_descriptors(gateway: RunningGateway) -> list[str]:
    return [line["message"] for line in gateway.lines() if line.get("event") == "few_descriptors"]


@pytest.mark.parametrize("in_one_burst", [False, True])
@pytest.mark.parametrize("limit", [128, 256, pytest.param(1024, marks=pytest.mark.slow)])
def test_whoever_comes_when_the_descriptors_are_used_up_is_told_so_and_the_others_are_served(
    backend: PacedBackend, tmp_path: Path, limit: int, in_one_burst: bool
) -> None:
    count = 2 * limit
    with (
        gateway_for(backend, tmp_path, program=limited_to(limit), access="all", read_timeout="60s") as gateway,
        contextlib.ExitStack() as stack,
    ):
        if in_one_burst:
            os.kill(gateway.pid, signal.SIGSTOP)
            stack.callback(os.kill, gateway.pid, signal.SIGCONT)
        socks = stack.enter_context(connected(gateway, count))
        os.kill(gateway.pid, signal.SIGCONT)
        assert wait_until(lambda: len(readable(socks)) == count - granted(gateway))
        refused = readable(socks)
        for sock in refused:
            with sock.makefile("rb") as stream:
                answer = read_answer(stream)
                assert (answer.status, answer.headers["connection"]) == (403, "close")
                assert "connection_limit_reached" in answer.headers["proxy-status"]
        # No one else was dropped, and what the backend needs is there, for every one of them.
        served = [sock for sock in socks if sock not in refused]
        assert len(served) >= limit // 8
        for app in ("a", "fresh"):
            for sock in served:
                with sock.makefile("rb") as stream:
                    assert ask(sock, stream, hook_body(app)).status == 200
        assert gateway.metric("gateway_hooks_total", reason="overload") == len(refused)


def granted(gateway: RunningGateway) -> int:
    """The connections that the gateway says it grants."""
    words = gateway.wait_for_line(lambda line: line.get("event") == "few_descriptors")["message"]
    found = re.search(r"only (\d+) of 10000 connections are granted", words)
    assert found is not None, words
    return int(found[1])


def readable(socks: Sequence[socket.socket]) -> list[socket.socket]:
    """Those that something has come for: an answer, or the end."""
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_limit_of_descriptors_below_max_connections_is_told_at_start_with_what_to_set(
    backend: PacedBackend, tmp_path: Path, workers: int
) -> None:
    with gateway_for(backend, tmp_path, program=limited_to(512), workers=workers) as gateway:
        assert wait_until(lambda: few_descriptors(gateway))
        (words,) = few_descriptors(gateway)  # once for all workers
        assert "512" in words
        needed = re.search(r"LimitNOFILE=(\d+)", words)
        assert needed is not None
    with gateway_for(backend, tmp_path, program=limited_to(int(needed[1])), workers=workers) as gateway:
        assert len(few_descriptors(gateway)) == 1  # the first one's, in the same file


def test_a_reload_that_asks_for_more_than_there_is_is_told_so_too(backend: PacedBackend, tmp_path: Path) -> None:
    with gateway_for(backend, tmp_path, program=limited_to(512), max_connections=50) as gateway:
        assert few_descriptors(gateway) == []
        gateway.reload(gateway.config.read_text().replace('"max_connections": 50', '"max_connections": 5000'))
        assert wait_until(lambda: few_descriptors(gateway))


@pytest.mark.parametrize("backends", [1, 100])
def test_half_of_what_is_left_goes_to_clients_however_many_backends_there_are(tmp_path: Path, backends: int) -> None:
    upstreams = {f"u{number}": {"url": f"http://127.0.0.1:{number + 1}/"} for number in range(backends)}
    text = configuration(upstreams, {"a": {"static": "reject"}})
    with running_gateway(text, tmp_path, program=limited_to(1024)) as gateway:
        left = 1024 - 3 * 64
        assert granted(gateway) == left - min(64 * backends, left // 2)


def test_without_file_descriptors_the_gateway_neither_spins_nor_floods_its_log_and_recovers(
    backend: PacedBackend, tmp_path: Path, many_descriptors: int
) -> None:
    with gateway_for(backend, tmp_path, read_timeout="60s") as gateway:
        assert statuses(gateway, "a") == {200}
        files = open_files(gateway)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (64, many_descriptors))
        size = gateway.log.stat().st_size
        started = cpu(gateway)
        with connected(gateway, 300):
            time.sleep(3)
            assert gateway.process.poll() is None
            spent, grown = cpu(gateway) - started, gateway.log.stat().st_size - size
        print(f"no file descriptors for 3 s: {spent:.2f} s of CPU, {grown} bytes of log")
        assert spent < 1.5
        assert grown < 64 * 1024
        assert wait_until(lambda: open_files(gateway) <= files + 2)
        assert wait_until(lambda: statuses(gateway, "a") == {200})


def test_a_hook_for_which_no_descriptor_is_left_is_an_overload(
    backend: PacedBackend, tmp_path: Path, many_descriptors: int
) -> None:
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_for(backend, tmp_path, access="all", read_timeout="60s"))
        sock = stack.enter_context(gateway.connect())
        stream = stack.enter_context(sock.makefile("rb"))
        assert ask(sock, stream, hook_body("static")).status == 403
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (first_free(gateway), many_descriptors))
        for _ in range(5):
            refused = ask(sock, stream, hook_body("fresh"))
            assert refused.status == 403
            assert gateway.access_line(refused.headers["x-request-id"])["reason"] == "overload"
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (1024, many_descriptors))
        assert ask(sock, stream, hook_body("fresh")).status == 200


def first_free(gateway: RunningGateway) -> int:
    """The number that the next file descriptor of the gateway would get."""
    taken = {int(name) for name in os.listdir(f"/proc/{gateway.pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


def ask(sock: socket.socket, stream: Any, body: bytes) -> Answer:
    sock.sendall(request(body))
    return read_answer(stream)


# --- local ports ---


def in_a_network_of_its_own(work: Callable[[], None]) -> None:
    """Do the work in a thread with a network namespace of its own, where only loopback is."""

    def enter_and_work() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace may be made here: {os.strerror(ctypes.get_errno())}")
        with socket.socket() as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
        work()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(enter_and_work).result(120)


def outside(gateway: RunningGateway, number: int) -> socket.socket:
    """A client's connection whose own port is not of the range that the system picks from."""
    host, port = gateway.hooks.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 20, ("127.0.0.1", 30_000 + number))


def test_a_hook_for_which_no_local_port_is_left_is_an_overload(tmp_path: Path) -> None:
    range_of_ports = Path("/proc/sys/net/ipv4/ip_local_port_range")

    def work() -> None:
        with PacedBackend() as backend, gateway_for(backend, tmp_path, access="all") as gateway:
            range_of_ports.write_text("20000 20003")
            backend.mode = Mode.HOLD
            with contextlib.ExitStack() as stack:
                socks = []
                for number in range(4):
                    socks.append(stack.enter_context(outside(gateway, number)))
                    socks[-1].sendall(request(hook_body("a")))
                    assert wait_until(lambda held=number + 1: backend.held == held)  # type: ignore[misc]
                late = stack.enter_context(outside(gateway, 4))
                stream = stack.enter_context(late.makefile("rb"))
                refused = ask(late, stream, hook_body("a"))
                assert refused.status == 403
                error = refused.headers["proxy-status"]
                assert "connection_limit_reached" in error, error
                backend.mode = Mode.OK
                backend.release()
                for sock in socks:
                    with sock.makefile("rb") as answers:
                        assert read_answer(answers).status == 200
                assert ask(late, stream, hook_body("a")).status == 200
            late_line = gateway.access_line(refused.headers["x-request-id"])
            assert late_line["reason"] == "overload"

    try:
        in_a_network_of_its_own(work)
    except PermissionError as exc:
        pytest.skip(f"the range of local ports may not be set here: {exc}")


# --- memory ---


def test_2000_half_bodies_cost_no_more_than_max_body_each_and_are_given_back(
    backend: PacedBackend, tmp_path: Path, many_descriptors: int
) -> None:
    count = min(2000, (many_descriptors - 500) // 2)
    half = b"x" * (MAX_BODY // 2)
    start = HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY
    server: dict[str, Any] = {"max_body": f"{MAX_BODY}B", "max_connections": count + 100, "read_timeout": "60s"}
    with gateway_for(backend, tmp_path, **server) as gateway:
        assert statuses(gateway, "a") == {200}
        before, files = memory(gateway), open_files(gateway)
        with connected(gateway, count) as socks:
            for sock in socks:
                sock.sendall(start + half)
            assert wait_until(lambda: memory(gateway) - before >= count * len(half) * 0.9, 20)
            assert statuses(gateway, "a") == {200}
            most = memory(gateway) - before
        assert wait_until(lambda: open_files(gateway) <= files + 2, 20)
        wait_until(lambda: memory(gateway) - before < most / 4, 5)
        left = memory(gateway) - before
        print(f"{count} half bodies: {most / 2**20:.0f} MiB, {left / 2**20:.0f} MiB when they were gone")
        assert most < count * (MAX_BODY + 32 * 1024)
        assert left < most / 4
        assert statuses(gateway, "a") == {200}


def test_random_app_keys_leave_series_and_memory_as_they_were(backend: PacedBackend, tmp_path: Path) -> None:
    names = (os.urandom(12).hex() for _ in itertools.count())
    with gateway_for(backend, tmp_path, access="all") as gateway:
        assert set(pipelined(gateway, [b'{"appKey":"%b"}' % next(names).encode() for _ in range(1000)])) == {403}
        before, series = memory(gateway), series_of(gateway)
        for _ in range(4):
            many = [b'{"appKey":"%b"}' % next(names).encode() for _ in range(5000)]
            assert set(pipelined(gateway, many)) == {403}
        grown = memory(gateway) - before
        print(f"20,000 random appKeys: {grown / 2**20:.1f} MiB, {series} series before and {series_of(gateway)} after")
        assert series_of(gateway) == series
        assert grown < 10 * 2**20
        assert gateway.metric("gateway_hooks_total", app="_unknown", reason="unknown_app") == 21_000


def series_of(gateway: RunningGateway) -> int:
    return sum(not line.startswith("#") for line in gateway.get("/metrics").text.splitlines())


def pipelined(gateway: RunningGateway, bodies: Sequence[bytes]) -> list[int]:
    """The statuses of hooks sent one after the other on one connection, without waiting for the answers."""
    with gateway.connect() as sock, sock.makefile("rb") as stream:
        data = b"".join(map(request, bodies))
        sending = threading.Thread(target=sock.sendall, args=(data,))
        sending.start()
        found = [read_answer(stream).status for _ in bodies]
        sending.join()
    return found


# --- processor time ---


def filled(start: bytes, unit: bytes, end: bytes) -> bytes:
    """A body of as many units as max_body takes."""
    return start + unit * ((MAX_BODY - len(start) - len(end)) // len(unit)) + end


def chunks_of(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


PLAIN: Final = filled(b'{"appKey":"static","x":"', b"x", b'"}')
COSTLY: Final = {
    "nested arrays": request(filled(b'{"appKey":"static","x":', b"[", b"")),
    "nested objects": request(filled(b'{"appKey":"static","x":', b'{"a":', b"")),
    "one huge number": request(filled(b'{"appKey":"static","x":', b"9", b"}")),
    "one huge fraction": request(filled(b'{"appKey":"static","x":0.', b"9", b"}")),
    "a huge number that is logged": request(filled(b'{"appKey":"static","caller":', b"9", b"}")),
    "many fields": request(filled(b'{"appKey":"static"', b',"a":1', b"}")),
    "one field again and again": request(filled(b'{"appKey":"static"', b',"caller":1', b"}")),
    "escapes": request(filled(b'{"appKey":"static","x":"', b"\\u0061", b'"}')),
    "many objects beside an escape": request(filled(b'{"appKey":"static","y":"\\u0061","x":[', b"{},", b"1]}")),
    "many numbers beside an escape": request(filled(b'{"appKey":"static","y":"\\u0061","x":[', b"1,", b"1]}")),
    "many appKeys further down": request(filled(b'{"appKey":"static","x":[', b'{"appKey":0},', b"1]}")),
    "half surrogate pairs": request(filled(b'{"appKey":"static","x":"', b"\\ud83d", b'"}')),
    "chunks of 32 bytes": chunks_of(PLAIN, 32),
    "chunks of one byte": chunks_of(PLAIN, 1),
    "one header field after the other": HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(3000)) + b"\r\n",
}
TURNS: Final = 10


def test_no_body_costs_a_hundred_times_what_a_plain_one_of_its_size_costs(
    backend: PacedBackend, tmp_path: Path
) -> None:
    with gateway_for(backend, tmp_path, max_body=f"{MAX_BODY}B") as gateway:
        spent = {what: cost_of(gateway, raw) for what, raw in {"plain": request(PLAIN), **COSTLY}.items()}
        plain = spent["plain"]
        for what, seconds in spent.items():
            print(f"{what:36} {seconds / TURNS * 1000:7.2f} ms, {seconds / plain:5.1f} times the plain body")
        assert plain > 0
        assert max(spent.values()) < 100 * plain
        assert statuses(gateway, "a") == {200}


def cost_of(gateway: RunningGateway, raw: bytes) -> float:
    before = cpu(gateway)
    for _ in range(TURNS):
        with gateway.connect() as sock, sock.makefile("rb") as stream:
            with contextlib.suppress(ConnectionError):  # refused amid the body
                sock.sendall(raw)
            assert read_answer(stream).status in (400, 403, 431)
    return cpu(gateway) - before
