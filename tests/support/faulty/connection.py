"""One connection of the backend's: requests are read as a strict server reads them, and scripts played."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from tests.support.faulty.answers import BLOCK, head, reply
from tests.support.faulty.cases import CASES, Case, End, Pause, Recorded, Turn, right_answer

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with which a close is a reset."""
_MAX_REQUEST: Final = 16 * 1024 * 1024
_PATIENCE: Final = 30.0
"""Seconds after which a silent connection is closed."""


class _PeerGoneError(Exception):
    """The peer has closed its side."""


class _BadRequestError(Exception):
    """The request's framing is not what a strict server takes."""


_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


def _parse_head(raw: bytes, connection: int, turn: int) -> Recorded:
    line, *fields = raw.split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(line)
    if request_line is None:
        raise _BadRequestError(f"request line {line[:100]!r}")
    headers = []
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise _BadRequestError(f"header line {field[:100]!r}")
        headers.append((match[1], match[2]))
    path = request_line[2].decode("latin-1")
    segments = path.partition("?")[0].split("/")
    return Recorded(
        line, request_line[1].decode("ascii"), path, headers,
        segments[-2] if len(segments) > 2 else "", connection, turn, time.monotonic(),
    )  # fmt: skip


def _framing(request: Recorded) -> int | None:
    """The body's length, or None for chunks."""
    lengths, codings = request.values("content-length"), request.values("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise _BadRequestError(f"two framings: {lengths + codings!r}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise _BadRequestError(f"Transfer-Encoding {codings[0][:100]!r}")
        return None
    if not lengths:
        return 0
    if not re.fullmatch(rb"[0-9]{1,10}", lengths[0]):
        raise _BadRequestError(f"Content-Length {lengths[0][:100]!r}")
    return int(lengths[0])


class Connection:
    """One accepted connection: reads strictly, plays scripts."""

    def __init__(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        record: Callable[[Recorded], int],
        problems: list[str],
    ) -> None:
        """*record* notes a request and says how many its case has now had; what is wrong goes to *problems*."""
        self._record = record
        self._problems = problems
        self._number = number
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def serve(self) -> None:
        """Take requests until a script or the peer ends the connection."""
        turn = 0
        try:
            while True:
                turn += 1
                if not await self._serve_one(turn):
                    return
        except _BadRequestError as exc:
            self._problems.append(f"connection {self._number}: {exc}")
            await self._send(head(b"Content-Length: 0", b"Connection: close", start=b"HTTP/1.1 400 Bad Request"))
        except (_PeerGoneError, OSError):
            pass  # the gateway may leave whenever it likes: that is what many cases are for
        finally:
            await self._close()

    async def _serve_one(self, turn: int) -> bool:
        raw = await self._read_until(b"\r\n\r\n")
        request = _parse_head(raw, self._number, turn)
        length = _framing(request)
        case = CASES.get(request.case)
        if case is not None and case.early:
            request = dataclasses.replace(request, chunked=length is None, complete=False)
            goes_on = await self._play(case, request)
            if goes_on:
                await self._read_body(length)
            return goes_on
        body = await self._read_body(length)
        request = dataclasses.replace(request, body=body, chunked=length is None)
        if case is None:
            self._record(request)
            await self._send(reply(b"", start=b"HTTP/1.1 404 No Such Case"))
            return True
        return await self._play(case, request)

    async def _play(self, case: Case, request: Recorded) -> bool:
        nth = self._record(request)
        for step in case.script(Turn(request, right_answer(request.body), nth)):
            if isinstance(step, bytes):
                await self._send(step)
            elif isinstance(step, Pause):
                await self._pause(step.seconds)
            else:
                await self._end(step)
                return False
        return True

    async def _end(self, end: End) -> None:
        if end is End.SILENCE:
            await self._pause(_PATIENCE, discard=True)
        elif end is End.RESET:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._writer.transport.abort()

    async def _send(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise _PeerGoneError
        self._writer.write(data)
        await self._writer.drain()

    async def _pause(self, seconds: float, *, discard: bool = False) -> None:
        """Wait, but notice at once when the peer leaves; what it sends meanwhile is kept or dropped."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while (left := until - clock()) > 0:
            try:
                await asyncio.wait_for(self._fill(), left)
            except TimeoutError:
                return
            if discard:
                self._buffer.clear()

    async def _fill(self) -> None:
        data = await self._reader.read(BLOCK)
        if not data:
            raise _PeerGoneError
        self._buffer += data
        if len(self._buffer) > _MAX_REQUEST:
            raise _BadRequestError("more than the largest request")

    async def _read_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._fill()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _read_exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            await self._fill()
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found

    async def _read_body(self, length: int | None) -> bytes:
        if length is not None:
            return await self._read_exactly(length)
        parts = []
        while True:
            size = await self._read_until(b"\r\n")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,7}", size):
                raise _BadRequestError(f"chunk size {size[:100]!r}")
            parts.append(await self._read_exactly(int(size, 16)))
            if await self._read_exactly(2) != b"\r\n":
                raise _BadRequestError("a chunk without its line end, or trailers")
            if not parts[-1]:
                return b"".join(parts)

    async def _close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 0.5)
        self._writer.transport.abort()
