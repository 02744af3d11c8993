"""Reading a hook's request from ASGI, and refusing what is none: every refusal is a Ruling with its reason."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import Receive, Scope

from gateway.verdicts import PROBLEM_TYPE, ProxyError, Reason, Ruling, Source, Verdict, proxy_status

_method_name = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}").fullmatch
_DISCARD_LIMIT: Final = 8
"""A body that is too large is read on, up to this many times the limit, so that its sender sees the answer."""


class Refused(Exception):
    """The request gets this answer and never reaches a backend."""

    def __init__(self, ruling: Ruling, *, close: bool = False) -> None:
        super().__init__(ruling.error)
        self.ruling = ruling
        self.close = close
        """Whether the connection must not be used again."""


class ClientLeftError(Exception):
    """The client closed the connection before its request was whole: there is nobody to answer."""


def problem(
    status: int,
    detail: str,
    *,
    verdict: Verdict = Verdict.ERROR,
    reason: Reason = Reason.BAD_REQUEST,
    error: ProxyError = ProxyError.HTTP_REQUEST_ERROR,
) -> Ruling:
    """An answer of the gateway's own to bad input, as problem details (RFC 9457)."""
    body = msgspec.json.encode(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    )
    return Ruling(verdict, Source.GATEWAY, reason, status, body, PROBLEM_TYPE, proxy_status(error), detail)


def unknown_app(app_key: str) -> Ruling:
    """The answer to a hook whose appKey no app of the configuration serves."""
    shown = app_key if len(app_key) <= 80 else app_key[:79] + "…"
    return problem(
        403,
        f"no app is configured for the appKey {shown!r}",
        verdict=Verdict.REJECT,
        reason=Reason.UNKNOWN_APP,
        error=ProxyError.HTTP_REQUEST_DENIED,
    )


def method_of(scope: Scope) -> str:
    """The hook's method: the path's last segment, percent-decoded once. Raises Refused (404, 405)."""
    if scope["method"] != "POST":
        raise Refused(problem(405, f"a hook is a POST, not a {scope['method']}"))
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    segment = raw[raw.rfind(b"/") + 1 :]
    if b"%" in segment:
        segment = unquote_to_bytes(segment)
    name = segment.decode("latin-1")
    if not _method_name(name):
        raise Refused(problem(404, "the path's last segment is no method name; a hook goes to /<prefix>/<Method>"))
    return name


async def read_body(scope: Scope, receive: Receive, max_body: int, read_timeout: float) -> bytes:
    """The whole body, *max_body* bytes at most, within *read_timeout* seconds.

    Raises Refused (400, 408, 413) and ClientLeftError.
    """
    announced = _announced_length(scope)
    try:
        async with asyncio.timeout(read_timeout):
            body, size = await _receive_all(receive, max_body)
    except TimeoutError:
        refusal = problem(408, f"the body did not arrive within {read_timeout:g} s")
        raise Refused(refusal, close=True) from None
    if size > max_body:
        raise Refused(problem(413, f"the body is larger than {max_body} bytes"), close=True)
    if announced not in (None, size):
        raise Refused(problem(400, "the body's length is not what Content-Length says"), close=True)
    return body


def _announced_length(scope: Scope) -> int | None:
    """What Content-Length says; None where the body is chunked."""
    length: int | None = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 18:
                raise Refused(problem(400, "Content-Length is not one number"), close=True)
            length = int(value)
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise Refused(problem(400, "a hook's body is plain JSON, not compressed"))
    return length


async def _receive_all(receive: Receive, max_body: int) -> tuple[bytes, int]:
    """The body and its size; what exceeds the limit is read on for a while, counted and thrown away."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size <= max_body:
            chunks.append(chunk)
        elif size > max_body * _DISCARD_LIMIT:
            break
    return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), size
