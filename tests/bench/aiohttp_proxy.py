"""A contender: the same routing as a careful developer writes it with aiohttp on both sides."""
# mypy: disable-error-code="import-not-found"
# aiohttp is in the venv of `make bench` alone.

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

NOT_PASSED_ON: Final = {"host", "connection", "keep-alive", "transfer-encoding", "content-length"}


class Proxy:
    """Finds the app's backend by the body's appKey, and asks it."""

    def __init__(self, backends: dict[str, str], session: ClientSession) -> None:
        self._backends = backends
        self._session = session

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            backend = self._backends[json.loads(body)["appKey"]]
        except (ValueError, KeyError, TypeError):
            return web.Response(status=403)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED_ON}
        try:
            async with self._session.post(backend + request.path, data=body, headers=headers) as answer:
                return web.Response(
                    status=answer.status, body=await answer.read(), headers={"Content-Type": answer.content_type}
                )
        except (ClientError, TimeoutError):
            return web.Response(status=403)


async def serve(port: int, backends: dict[str, str]) -> None:
    connector = TCPConnector(limit=64, keepalive_timeout=60)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=3), auto_decompress=False) as session:
        application = web.Application(client_max_size=256 * 1024)
        application.router.add_post("/{path:.*}", Proxy(backends, session).hook)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    names = Path(sys.argv[3]).read_text().split()
    run = uvloop.run if "--uvloop" in sys.argv else asyncio.run
    run(serve(int(sys.argv[1]), dict.fromkeys(names, f"http://127.0.0.1:{sys.argv[2]}")))
