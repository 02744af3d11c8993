"""Asks the other gateways of the fleet for what they know, all at once and for a bounded time.

A gateway that gives no answer is part of the result, with the reason in words: what is missing is never silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import httpx
import msgspec

from gateway.admin.peer_auth import sign
from gateway.model.text import printable, shorten

ASK_TIME: Final = 2.0
"""Seconds that the others have for an overview."""
SEARCH_TIME: Final = 4.5
"""Seconds that they have for a search, which may read their history."""
LOST_TIME: Final = 0.5
"""Seconds that one that is lost has: where it hangs, no view is to wait for it long."""
MAX_ANSWER: Final = 16 * 2**20
"""Bytes of an answer."""
_MAX_REASON: Final = 120
"""Characters of another gateway's own words."""
_STATUS_WORDS: Final = {
    401: "it rejects this gateway: admin.token must be the same everywhere",
    403: "it rejects this gateway: admin.token must be the same everywhere",
}


class Peer(msgspec.Struct, frozen=True):
    """Another gateway."""

    id: str
    """Of this process: another one after a restart."""
    name: str
    admin: str
    """host:port of its admin port; empty where it is not known."""
    lost: str | None = None
    """How it is missed; None while the state knows it. It is asked, too: it may only be cut off from the state."""


class PeerAnswer(msgspec.Struct, frozen=True):
    """What another gateway has answered."""

    peer: Peer
    content: Any
    """The JSON of the answer; None without one."""
    error: str | None = None
    """Why there is none."""
    knows_nothing: bool = False
    """Whether it answers, but has not got what was asked for (404)."""


class NoPeerAnswer(Exception):
    """There is no answer of use; the text says why."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Peers:
    """The other gateways."""

    def __init__(self, peers: Callable[[], Iterable[Peer]], token: Callable[[], str | None]) -> None:
        """*peers*: those known now; *token*: the admin token of the configuration in force."""
        self._peers = peers
        self._token = token

    async def ask(
        self, path: str, query: Sequence[tuple[str, str]] = (), seconds: float = ASK_TIME
    ) -> list[PeerAnswer]:
        """The answers of all to a GET, within so many seconds."""
        peers = list(self._peers())
        if not peers:
            return []
        transport = httpx.AsyncHTTPTransport(verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=seconds) as client:
            return list(await asyncio.gather(*(self._ask(client, peer, path, query, seconds) for peer in peers)))

    async def _ask(
        self, client: httpx.AsyncClient, peer: Peer, path: str, query: Sequence[tuple[str, str]], seconds: float
    ) -> PeerAnswer:
        if not peer.admin:
            return PeerAnswer(peer, None, peer.lost or "its admin port is not known")
        limit = seconds if peer.lost is None else min(seconds, LOST_TIME)
        try:
            async with asyncio.timeout(limit):
                return PeerAnswer(peer, await self._get(client, peer.admin, path, query))
        except (TimeoutError, httpx.TimeoutException):
            return PeerAnswer(peer, None, peer.lost or f"no answer within {limit:g} s")
        except NoPeerAnswer as exc:
            return PeerAnswer(peer, None, str(exc), exc.status == 404)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            text = printable(shorten(str(exc), _MAX_REASON)) or "the connection was closed"
            return PeerAnswer(peer, None, peer.lost or f"no connection to {printable(peer.admin)}: {text}")

    async def _get(self, client: httpx.AsyncClient, address: str, path: str, query: Sequence[tuple[str, str]]) -> Any:
        """The JSON of an answer. Raises NoPeerAnswer, and what httpx raises."""
        request = client.build_request("GET", f"http://{address}{path}", params=list(query))
        token = self._token()
        if token is not None:
            target, host = request.url.raw_path.decode("ascii"), request.headers["host"]
            request.headers["authorization"] = sign(token, host, target, time.time())
        answer = await client.send(request, stream=True)
        try:
            content = await _read(answer)
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            text = content.decode("utf-8", "replace").strip()
            said = f"it answers {answer.status_code}: {shorten(text, _MAX_REASON)}"
            raise NoPeerAnswer(printable(_STATUS_WORDS.get(answer.status_code, said)), answer.status_code)
        try:
            return await asyncio.to_thread(msgspec.json.decode, content)
        except msgspec.DecodeError as exc:
            raise NoPeerAnswer("its answer is not JSON: probably not a gateway's admin port") from exc


async def _read(answer: httpx.Response) -> bytes:
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > MAX_ANSWER:
            raise NoPeerAnswer(f"its answer is larger than {MAX_ANSWER >> 20} MiB")
    return bytes(content)
