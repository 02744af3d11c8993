"""A contender: a proxy as the tutorials on Starlette and httpx show it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Proxy:
    """Finds the app's backend by the body's appKey, and asks it."""

    def __init__(self, backends: dict[str, str]) -> None:
        self._backends = backends
        self._client = httpx.AsyncClient()

    async def hook(self, request: Request) -> Response:
        body = await request.body()
        backend = self._backends.get((await request.json())["appKey"])
        if backend is None:
            return Response(status_code=403)
        headers = [(name, value) for name, value in request.headers.raw if name not in (b"host", b"connection")]
        answer = await self._client.post(backend + request.url.path, content=body, headers=headers, timeout=3.0)
        return Response(answer.content, answer.status_code, media_type=answer.headers["Content-Type"])

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._client:
            yield


if __name__ == "__main__":
    names = Path(sys.argv[3]).read_text().split()
    proxy = Proxy(dict.fromkeys(names, f"http://127.0.0.1:{sys.argv[2]}"))
    app = Starlette(routes=[Route("/{path:path}", proxy.hook, methods=["POST"])], lifespan=proxy.lifespan)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
