"""Starts programs on chosen CPUs, waits until they serve, and ends them; each by its own process id."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, NamedTuple

_HERE: Final = Path(__file__).resolve().parent
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])
_START_LIMIT: Final = 30.0
_STOP_LIMIT: Final = 5.0
_WANTED_DESCRIPTORS: Final = 65_536
_PLAIN_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
OWN_ENVIRONMENT: Final = {**_PLAIN_ENVIRONMENT, "PYTHONPATH": str(_HERE.parent.parent)}
"""For the programs of this package."""


class BenchError(Exception):
    """The bench cannot go on; says why in one line."""


class Cpus(NamedTuple):
    """Which CPU is whose, as taskset(1) takes them."""

    contender: str
    load: str
    """The load generator and the backend share it."""

    @property
    def both(self) -> str:
        return f"{self.contender},{self.load}"

    @classmethod
    def of_this_machine(cls) -> Cpus:
        """The first two that this process may use; raises BenchError where there is only one."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise BenchError("the bench needs two CPUs: one for the contender, one for the load and the backend")
        return cls(str(allowed[0]), str(allowed[1]))


def program(name: str, package: str) -> str:
    """The path of a program; raises BenchError, naming its Debian package, where it is missing."""
    path = shutil.which(name, path=_SEARCH_PATH)
    if path is None:
        raise BenchError(f"{name} is not installed (Debian package {package})")
    return path


def filled(template: str, **values: object) -> str:
    """A file beside this one with each @NAME@ replaced."""
    text = (_HERE / template).read_text()
    for name, value in values.items():
        mark = f"@{name.upper()}@"
        assert mark in text, f"{template} has no {mark}"
        text = text.replace(mark, str(value))
    return text


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on; bind it soon, for it is not reserved."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as the block lasts: bound, but nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, cpus: str, output: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program on these CPUs, its output in the file *output*; by default without this package's path."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "-c", cpus, *command],  # becomes the program, with the same process id
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment if environment is not None else _PLAIN_ENVIRONMENT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_that(is_so: Callable[[], bool], process: subprocess.Popen[bytes], output: Path, every: float = 0.02) -> None:
    """Wait for it, as long as the program runs; raises BenchError with the end of its output otherwise."""
    deadline = time.monotonic() + _START_LIMIT
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            said = output.read_text(errors="replace").strip()[-600:]
            raise BenchError(f"{process.args!r} does not start: {said}")
        time.sleep(every)


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Answer(NamedTuple):
    """An answer to ``ask``; status 0 where there was none."""

    status: int
    body: bytes


def ask(
    port: int, path: str, *, method: str = "GET", body: bytes | None = None, tls: bool = False, limit: float = 30.0
) -> Answer:
    """Send one request to 127.0.0.1 on a connection of its own; *limit* in seconds. Never raises for a bad answer."""
    connection: HTTPConnection
    if tls:
        connection = HTTPSConnection("127.0.0.1", port, timeout=limit, context=_TRUSTING)
    else:
        connection = HTTPConnection("127.0.0.1", port, timeout=limit)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except (OSError, HTTPException):
        return Answer(0, b"")
    finally:
        connection.close()


def _trusting() -> ssl.SSLContext:
    """For the certificate that was made a moment ago."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TRUSTING: Final = _trusting()


def allow_descriptors() -> int:
    """Raise the limit on open files for this process and those it starts, as far as it may; the limit in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _WANTED_DESCRIPTORS:
        with contextlib.suppress(ValueError, OSError):  # only root may
            resource.setrlimit(resource.RLIMIT_NOFILE, (_WANTED_DESCRIPTORS, _WANTED_DESCRIPTORS))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, _WANTED_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
