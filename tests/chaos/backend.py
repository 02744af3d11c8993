"""The backends, a process of their own: ``python -m tests.chaos.backend FILE``.

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
from pathlib import Path
from typing import Final, TextIO

from tests.chaos.modes import MIX, MODES, REFUSE
from tests.chaos.scripts import SCRIPTS, End

DELAY: Final = 0.003
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
                _, *lines = head.decode("latin-1").split("\r\n")
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
        await asyncio.sleep(DELAY)
        for step in SCRIPTS[mode](answer):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                if reader.at_eof():
                    return False
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step is End.WAIT:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), HANG)
            elif step is End.RESET:
                reset(writer)
            else:
                return True
        return False

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
