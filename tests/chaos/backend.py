"""The backends, a process of their own: ``python -m chaos.backend FILE``.

Three ports: *healthy*, *sick* and *standby*. Prints them as a JSON object, then obeys lines on its standard input: a
mode's name for what *sick* does from now on. Each hook that comes is written to FILE before anything is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TextIO

from chaos.modes import MIX, MODES, REFUSE

DELAY: Final = 0.003
SLOW: Final = 0.25
DRIP: Final = 0.002
DRIP_LATE: Final = 0.1
HANG: Final = 30.0
"""Seconds after which even what hangs is given up."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MIXED: Final = sorted(set(MODES))


class Backends:
    """Three listeners, and what they have seen."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.mode = "ok"
        self._ports: dict[str, int] = {}
        self._sick: asyncio.Server | None = None
        self.of_sick: set[asyncio.StreamWriter] = set()

    async def listen(self) -> dict[str, int]:
        for name in ("healthy", "sick", "standby"):
            await self._open(name)
        return self._ports

    async def _open(self, name: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                await self._serve(name, reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", self._ports.get(name, 0), backlog=512)
        self._ports[name] = server.sockets[0].getsockname()[1]
        if name == "sick":
            self._sick = server

    async def obey(self, mode: str) -> None:
        """Have *sick* do this from now on."""
        if mode == REFUSE:
            if self._sick is not None:
                self._sick.close()
                self._sick = None
                for writer in list(self.of_sick):
                    reset(writer)
            return
        self.mode = mode
        if self._sick is None:
            await self._open("sick")

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if name == "sick":
            self.of_sick.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(name, headers, body, writer, reader):
                    return
        finally:
            self.of_sick.discard(writer)

    async def _answer(
        self,
        name: str,
        headers: dict[str, str],
        body: bytes,
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
    ) -> bool:
        """Treat one hook; whether the connection goes on."""
        try:
            hook = str(json.loads(body)["callId"])
        except (ValueError, KeyError, TypeError):
            hook = "?"
        mode = self.mode if name == "sick" else "ok"
        if mode == MIX:
            mode = _MIXED[zlib.crc32(hook.encode()) % len(_MIXED)]
        answer = b'{"answeredTo":"%b","by":"%b","at":%d}' % (hook.encode(), name.encode(), time.monotonic_ns())
        self._note(hook, name, mode, body, answer, headers.get("x-config-revision", ""))
        on = False
        async for piece in play(mode, answer, writer):
            if piece is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), HANG)
                return False
            if isinstance(piece, bool):
                on = piece
                continue
            writer.write(piece)
            await writer.drain()
            if reader.at_eof():
                return False
        return on

    def _note(self, hook: str, name: str, mode: str, body: bytes, answer: bytes, revision: str) -> None:
        line = {
            "id": hook,
            "at": time.monotonic(),
            "backend": name,
            "mode": mode,
            "body": hashlib.sha1(body).hexdigest(),
            "answer": hashlib.sha1(answer).hexdigest(),
            "revision": revision,
        }
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def head(status: str, length: int, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


FIXED: Final = {
    "denied": head("403 Forbidden", 0),
    "error": head("500 Internal Server Error", 27) + b"<html>a stack trace.</html>",
    "redirect": head("302 Found", 0, "Location: /login"),
    "no_content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "html": head("200 OK", 22) + b"<html>your login</html"[:22],
    "empty": head("200 OK", 0),
    "array": head("200 OK", 2) + b"[]",
}
FOREIGN: Final = b'{"answeredTo":"another hook","by":"sick"}'


async def play(mode: str, answer: bytes, writer: asyncio.StreamWriter) -> AsyncIterator[bytes | bool | None]:
    """What is sent, piece by piece; None: wait until the other side ends it; True at the end: the connection goes on."""
    await asyncio.sleep(DELAY)
    whole = head("200 OK", len(answer)) + answer
    if mode in FIXED:
        yield FIXED[mode]
        yield True
    elif mode == "ok":
        yield whole
        yield True
    elif mode == "slow":
        await asyncio.sleep(SLOW)
        yield whole
        yield True
    elif mode in ("drip", "drip_late"):
        for byte in whole:
            yield bytes([byte])
            await asyncio.sleep(DRIP if mode == "drip" else DRIP_LATE)
        yield True
    elif mode == "connection_close":
        yield head("200 OK", len(answer), "Connection: close") + answer
    elif mode == "closes_silently":
        yield whole
    elif mode == "surplus":
        yield whole + head("200 OK", len(FOREIGN)) + FOREIGN
        yield True
    elif mode == "bom":
        body = b"\xef\xbb\xbf" + answer
        yield head("200 OK", len(body)) + body
        yield True
    elif mode == "php_dies":
        body = b"<b>Fatal error</b>:  Uncaught Error: Call to a member function on null in /a.php:3"
        yield head("200 OK", len(body)) + body
        yield True
    elif mode == "noise":
        yield bytes((number * 7 + 13) % 256 for number in range(512))
    elif mode == "short":
        yield head("200 OK", len(answer) + 50) + answer
    elif mode == "close_amid":
        yield whole[:40]
    elif mode == "reset_amid":
        yield whole[:-10]
        await asyncio.sleep(0.01)
        reset(writer)
    elif mode == "reset":
        reset(writer)
    elif mode == "hang":
        yield None
    elif mode == "hang_amid":
        yield whole[:-10]
        yield None
    elif mode == "endless":
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(2000):
            yield b"400\r\n" + b" " * 1024 + b"\r\n"
            await asyncio.sleep(0.001)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def main(path: Path) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    with path.open("w") as out:
        backends = Backends(out)
        print(json.dumps(await backends.listen()), flush=True)
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while order := await orders.readline():
            await backends.obey(order.decode().strip())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
