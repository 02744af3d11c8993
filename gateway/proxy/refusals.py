"""Reads a hook's request from ASGI, and rejects what is no hook: each refusal is a Ruling with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import Receive, Scope

from gateway.http.server.head import BadRequest, NotAllowed, TooManyConnections
from gateway.http.server.protocol import CLIENT_LEFT
from gateway.model.verdicts import PROBLEM_TYPE, ProxyError, Reason, Ruling, Source, Verdict, proxy_status
from gateway.policy.access import UnauthorizedError

_REMEMBERED: Final = 256
is_method_name = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}").fullmatch
"""Whether a path's last segment, decoded, names a method; if not, the answer is 404."""


class RequestRefused(Exception):
    """The request gets this *ruling* as its answer, and no backend sees it."""

    def __init__(self, ruling: Ruling) -> None:
        super().__init__(ruling.error)
        self.ruling = ruling


class Refusal(NamedTuple):
    """A kind of request that is rejected before any backend sees it."""

    when: str
    """What the request was, in words for the documentation."""
    reason: Reason
    remedy: str
    """Where to look and what to do, for the documentation."""


REFUSALS: Final[Mapping[int, tuple[Refusal, ...]]] = {
    400: (
        Refusal(
            "not HTTP/1.x, or HTTP that could be read in two ways",
            Reason.BAD_REQUEST,
            "Find out who sends it (`ss -tn sport = :8080`): a scanner, `https` on a plain port, or a proxy in between "
            "that rewrites requests. The media server's own are never rejected for this.",
        ),
        Refusal(
            "not UTF-8 JSON; without a string `appKey`, or with two; compressed",
            Reason.BAD_REQUEST,
            "`error` says which. Send the media server's own hooks, unchanged; remove anything in between that "
            "compresses or rewrites them.",
        ),
        Refusal(
            "a loop: an upstream's url leads to this gateway itself",
            Reason.BAD_REQUEST,
            "Set `upstreams.*.url` to the backend: the URL that the media server had before.",
        ),
    ),
    401: (
        Refusal(
            "without the app's `credentials` or `signature`, or with wrong ones",
            Reason.UNAUTHORIZED,
            "Compare the app's `restUsername` and `restPassword`, or `rest_hook_send_hash` and `rest_hook_secret_key`, "
            "on the media server with the app here; something in between may change the body.",
        ),
    ),
    403: (
        Refusal(
            "for an `appKey` that no app serves",
            Reason.UNKNOWN_APP,
            "Add the app under `apps` (exact name or glob) and reload. `gateway explain` shows what would match.",
        ),
        Refusal(
            "from an address that is not in `server.allow_from`",
            Reason.UNAUTHORIZED,
            "Add the media server's address, as the gateway sees it (`client` in the log), to `server.allow_from`; "
            "behind a proxy, that is the proxy's, unless `server.trusted_proxies` or `server.proxy_protocol` names the "
            "proxy.",
        ),
        Refusal(
            "on one connection too many (`server.max_connections`), or when memory has run out",
            Reason.OVERLOAD,
            "Find out who holds connections (`ss -tn`), and look for the warning about open files at startup; raise "
            "`server.max_connections` and `LimitNOFILE`, or add memory.",
        ),
    ),
    404: (
        Refusal(
            "without a method's name at the end of its path",
            Reason.BAD_REQUEST,
            "Not a media server, or a proxy rewrites paths: a hook's path ends with its method, as in "
            "`/rest/my_api/OnCallEvent`.",
        ),
    ),
    405: (
        Refusal(
            "not a POST",
            Reason.BAD_REQUEST,
            "A health check or a browser: send those to the admin port (`/-/ready`).",
        ),
    ),
    408: (
        Refusal(
            "not complete within `server.read_timeout`",
            Reason.BAD_REQUEST,
            "The network between media server and gateway loses packets, or somebody holds connections open.",
        ),
    ),
    413: (
        Refusal(
            "larger than `server.max_body`",
            Reason.BAD_REQUEST,
            "If it is a real hook, raise `server.max_body`.",
        ),
    ),
    431: (
        Refusal(
            "with a head or request line that is too large, or too many fields",
            Reason.BAD_REQUEST,
            "No media server sends such heads: look for the proxy in between that adds fields.",
        ),
    ),
    CLIENT_LEFT: (
        Refusal(
            "not complete when its client disconnected (only in the log)",
            Reason.BAD_REQUEST,
            "The media server gave up, or was restarted; if it happens often, look at the network.",
        ),
    ),
}
"""By status; the table in the documentation is generated from it."""


def problem(
    status: int,
    detail: str,
    *,
    verdict: Verdict = Verdict.ERROR,
    reason: Reason = Reason.BAD_REQUEST,
    error: ProxyError = ProxyError.HTTP_REQUEST_ERROR,
) -> Ruling:
    """The gateway's own answer to bad input, as problem details (RFC 9457)."""
    body = msgspec.json.encode({"type": "about:blank", "title": _title(status), "status": status, "detail": detail})
    return Ruling(
        verdict=verdict,
        source=Source.GATEWAY,
        reason=reason,
        status=status,
        body=body,
        content_type=PROBLEM_TYPE,
        proxy_status=proxy_status(error),
        error=detail,
    )


def unauthorized_answer(exc: UnauthorizedError) -> Ruling:
    """The answer to a hook without valid proof that it comes from the app's media server."""
    ruling = problem(401, str(exc), reason=Reason.UNAUTHORIZED, error=ProxyError.HTTP_REQUEST_DENIED)
    return msgspec.structs.replace(ruling, challenge=exc.challenge)


def answer_bad_request(refusal: BadRequest) -> Ruling:
    """The answer to a connection or request that the front door rejects."""
    if isinstance(refusal, NotAllowed):
        verdict, reason, error = Verdict.REJECT, Reason.UNAUTHORIZED, ProxyError.HTTP_REQUEST_DENIED
    elif isinstance(refusal, TooManyConnections):
        verdict, reason, error = Verdict.REJECT, Reason.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED
    else:
        return problem(refusal.status, refusal.detail)
    return problem(refusal.status, refusal.detail, verdict=verdict, reason=reason, error=error)


def _title(status: int) -> str:
    return HTTPStatus(status).phrase if status != CLIENT_LEFT else "Client Left"


def unknown_app_answer(app_key: str) -> Ruling:
    """The answer to a hook whose appKey matches no app."""
    shown = app_key if len(app_key) <= 80 else app_key[:79] + "…"
    return problem(
        403,
        f"no app is configured for the appKey {shown!r}",
        verdict=Verdict.REJECT,
        reason=Reason.UNKNOWN_APP,
        error=ProxyError.HTTP_REQUEST_DENIED,
    )


def read_method(scope: Scope) -> str:
    """The hook's method: the path's last segment, percent-decoded once. Raises RequestRefused (404, 405)."""
    if scope["method"] != "POST":
        raise RequestRefused(problem(405, f"a hook is a POST, not a {scope['method']}"))
    name = _last_segment(scope.get("raw_path") or scope["path"].encode())
    if name is None:
        raise RequestRefused(
            problem(404, "the path's last segment is no method name; a hook goes to /<prefix>/<Method>")
        )
    return name


@lru_cache(_REMEMBERED)
def _last_segment(raw: bytes) -> str | None:
    segment = raw[raw.rfind(b"/") + 1 :]
    if b"%" in segment:
        segment = unquote_to_bytes(segment)
    name = segment.decode("latin-1")
    return name if is_method_name(name) else None


async def read_body(receive: Receive) -> bytes:
    """The whole body; the front door has bounded its size."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):  # another server than ours may hand it over in pieces
        message = await receive()
        body += message.get("body", b"")
    return body
