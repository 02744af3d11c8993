"""The console: one page for operators on the admin port, made of the files beside this module.

The page contains no data: it fetches everything from the admin API, with the same access checks as other clients. So
its files are public, and a browser can load them before it has the token.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_PAGE: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page runs only its own files, and talks only to its own gateway."""


def _read() -> dict[str, tuple[bytes, str]]:
    """Content and type by path."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in resources.files(__name__).iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            found[f"/console/{file.name}"] = (file.read_bytes(), _TYPES[suffix])
    return {"/": found.pop(f"/console/{_PAGE}"), **found}


_FILES: Final = _read()
PATHS: Final = frozenset(_FILES)
"""The paths of the console's files, which contain nothing about this gateway."""


def routes() -> list[BaseRoute]:
    """The page at ``/`` and its parts below ``/console/``."""
    return [Route(path, _serve) for path in _FILES]


async def _serve(request: Request) -> Response:
    content, kind = _FILES[request.url.path]
    return Response(content, headers={"Content-Type": kind, "Content-Security-Policy": CONTENT_SECURITY_POLICY})
