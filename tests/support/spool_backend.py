"""A backend that writes down every event before it answers: a process of its own, whose answers a test scripts.

Nothing is kept back in it: each line of its log is one write to a file, so that ``kill -9`` loses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.support.spool_oracle import Received

_ROOT: Final = Path(__file__).parents[2]
_START: Final = 20.0
"""Seconds in which it must have started, or followed a script."""


class Script(msgspec.Struct, frozen=True):
    """What it does with events from now on."""

    up: bool = True
    """False: it does not listen, and all its connections are reset."""
    status: int = 200
    delay: float = 0.0
    """Seconds before each answer."""
    poison: Mapping[str, int] = msgspec.field(default_factory=dict)
    """The status that single events get, by their id."""
    lose: int = 0
    """So many of the next events are taken, and their connections reset in place of an answer."""
    die_after: int | None = None
    """After so many more answers it takes one event, and ends without an answer."""


class EventBackend:
    """``with EventBackend(directory) as backend:`` listens on 127.0.0.1 until the block ends."""

    def __init__(self, directory: Path, name: str = "backend") -> None:
        self.log = directory / f"{name}.jsonl"
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            self.port: int = finder.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/rest/my_api"

    def start(self, script: Script | None = None) -> None:
        """Start it, or start it again after its end, on the same port."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.spool_backend", str(self.port), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        self.follow(script or Script())

    def follow(self, script: Script) -> None:
        """Do this from now on; it is in force when this returns."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(script) + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n", "the backend does not follow its script"

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def wait(self) -> None:
        """Wait until it has ended by itself."""
        assert self._process is not None
        self._process.wait(_START)
        self._end(signal.SIGKILL)

    def __enter__(self) -> EventBackend:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end(signal.SIGKILL)

    def received(self) -> list[Received]:
        """Everything that it got so far, in the order in which it came."""
        found: dict[str, Received] = {}
        for line in self.log.read_bytes().splitlines() if self.log.exists() else ():
            entry = json.loads(line)
            kind, serial = entry.pop("kind"), entry.pop("serial")
            if kind == "asked":
                found[serial] = Received(**entry)
            elif kind == "answered":
                found[serial] = found[serial]._replace(answered=entry["at"], status=entry["status"], read=entry["read"])
            else:
                found[serial] = found[serial]._replace(read=False)
        return list(found.values())

    def count(self) -> int:
        """How many events it has answered."""
        return self.log.read_bytes().count(b'"kind":"answered"') if self.log.exists() else 0

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self._process = None


# --- the process ---


class _Server:
    def __init__(self, port: int, log: int) -> None:
        self._port = port
        self._log = log
        self._script = Script(up=False)
        self._lose = 0
        self._answers_left: int | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._serial = 0

    async def follow(self, script: Script) -> None:
        self._script, self._lose, self._answers_left = script, script.lose, script.die_after
        if not script.up:
            if self._server is not None:
                self._server.close()
                self._server = None
            for writer in list(self._connections):
                writer.transport.abort()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=512)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        serial = ""
        try:
            while True:
                head, body = await _read_request(reader)
                serial = self._write_asked(head, body)
                if not await self._answer(serial, json.loads(body).get("id", ""), reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            if serial and (isinstance(exc, ConnectionError) or _is_reset(writer)):
                self._write(kind="unread", serial=serial)
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer(
        self, serial: str, event: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection may bring more."""
        script = self._script
        if self._lose > 0:
            self._lose -= 1
            return False
        if self._answers_left is not None:
            if self._answers_left == 0:
                os._exit(9)
            self._answers_left -= 1
        if script.delay:
            await asyncio.sleep(script.delay)
        status = script.poison.get(event, script.status)
        read = not reader.at_eof() and not writer.transport.is_closing()
        self._write(kind="answered", serial=serial, at=time.monotonic(), status=status, read=read)
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status)
        await writer.drain()
        return read

    def _write_asked(self, head: Mapping[str, str], body: bytes) -> str:
        self._serial += 1
        serial = f"{os.getpid()}-{self._serial}"
        self._write(
            kind="asked",
            serial=serial,
            asked=time.monotonic(),
            id=json.loads(body).get("id", ""),
            digest=hashlib.sha256(body).hexdigest()[:16],
            redelivery=head.get("x-gateway-redelivery"),
            event_time=head.get("x-gateway-event-time"),
            idempotency_key=head.get("idempotency-key"),
        )
        return serial

    def _write(self, **entry: Any) -> None:
        os.write(self._log, json.dumps(entry, separators=(",", ":")).encode() + b"\n")


def _is_reset(writer: asyncio.StreamWriter) -> bool:
    """Whether an answer went to a socket that was closed: the end of the stream, which came before, hides that."""
    return bool(writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


async def _read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields: dict[str, str] = {}
    for line in head.split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return fields, await reader.readexactly(int(fields["content-length"]))


async def _run(port: int, log: Path) -> None:
    server = _Server(port, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def scripts() -> Iterator[Script]:
        for line in sys.stdin.buffer:
            yield msgspec.json.decode(line, type=Script)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended before
            for script in scripts():
                asyncio.run_coroutine_threadsafe(server.follow(script), loop).result()
                os.write(1, b"done\n")
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()  # the test has ended, or was killed


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), Path(sys.argv[2])))
