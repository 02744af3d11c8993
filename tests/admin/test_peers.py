"""Other gateways are asked all at once and for a bounded time; each that gives no answer is named with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from gateway.admin import peers as module
from gateway.admin.peer_auth import is_signed
from gateway.admin.peers import Peer, PeerAnswer, Peers
from tests.support.faulty import refused_port

TOKEN = "the token"
ANSWER = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Other:
    """A server that answers each request with the same bytes, or never."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def other(answer: bytes | None) -> AsyncIterator[Other]:
    gateway = Other(answer)
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    try:
        yield gateway
    finally:
        server.close()


def ok(body: bytes, status: bytes = b"200 OK") -> bytes:
    return ANSWER % (status, len(body), body)


async def ask(*admins: str, token: str | None = TOKEN, seconds: float = 2.0) -> list[PeerAnswer]:
    known = [Peer(str(number), f"gw{number}", admin) for number, admin in enumerate(admins)]
    return await Peers(lambda: known, lambda: token).ask("/api/decisions", [("q", "+49 30")], seconds)


async def test_the_answers_of_all_come_together() -> None:
    async with other(ok(b'{"n":1}')) as one, other(ok(b'{"n":2}')) as two:
        found = await ask(f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}")
    assert [(answer.peer.name, answer.content, answer.error) for answer in found] == [
        ("gw0", {"n": 1}, None),
        ("gw1", {"n": 2}, None),
    ]


async def test_a_question_is_signed_for_the_one_that_is_asked_and_the_token_stays_here() -> None:
    async with other(ok(b"{}")) as one:
        await ask(f"127.0.0.1:{one.port}")
    (request,) = one.requests
    line, *headers = request.split(b"\r\n")
    fields = dict(header.split(b": ", 1) for header in headers if header)
    assert {name.lower() for name in fields} >= {b"authorization", b"host"}
    by_name = {name.lower(): value for name, value in fields.items()}
    target = line.split(b" ")[1]
    assert is_signed(by_name[b"authorization"], TOKEN, b"127.0.0.1:%d" % one.port, target, time.time())
    assert TOKEN.encode() not in request
    async with other(ok(b"{}")) as one:
        await ask(f"127.0.0.1:{one.port}", token=None)
    assert b"authorization" not in one.requests[0].lower()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            ok(b"send the token", b"401 Unauthorized"),
            "it rejects this gateway: admin.token must be the same everywhere",
        ),
        (ok(b"no\x1b[2Jpe", b"500 Oops"), "it answers 500: no?[2Jpe"),
        (ok(b"<html>"), "its answer is not JSON: probably not a gateway's admin port"),
        (b"SSH-2.0-OpenSSH\r\n", "no connection to"),
        (b"", "no connection to"),
    ],
)
async def test_an_answer_that_is_of_no_use_is_named_in_plain_words(answer: bytes, error: str) -> None:
    async with other(answer) as one:
        (found,) = await ask(f"127.0.0.1:{one.port}")
    assert found.content is None
    assert (found.error or "").replace("\\x1b", "?").startswith(error)


async def test_one_that_does_not_have_it_is_none_that_is_silent() -> None:
    async with other(ok(b"request not in the journal", b"404 Not Found")) as one:
        (found,) = await ask(f"127.0.0.1:{one.port}")
    assert found.knows_nothing


async def test_one_that_hangs_holds_up_nobody() -> None:
    async with other(None) as silent, other(ok(b"{}")) as quick:
        hung, answered = await ask(f"127.0.0.1:{silent.port}", f"127.0.0.1:{quick.port}", seconds=0.3)
    assert (hung.error, answered.error) == ("no answer within 0.3 s", None)


async def test_one_that_is_not_there_is_named() -> None:
    with refused_port() as port:
        (found,) = await ask(f"127.0.0.1:{port}")
    assert (found.error or "").startswith(f"no connection to 127.0.0.1:{port}: ")


async def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 2**20)
    async with other(ok(b" " * (2 * 2**20))) as one:
        (found,) = await ask(f"127.0.0.1:{one.port}")
    assert found.error == "its answer is larger than 1 MiB"


async def test_one_that_is_lost_is_asked_all_the_same_for_it_may_only_be_cut_off_from_the_state() -> None:
    words = "lost: no sign of life for 9 s"
    async with other(ok(b'{"n":1}')) as alive, other(None) as silent:
        ports = {"cut off": alive.port, "hung": silent.port}
        known = [Peer(name, name, f"127.0.0.1:{port}", words) for name, port in ports.items()]
        answered, hung = await Peers(lambda: known, lambda: None).ask("/api/status", (), 60.0)
    assert (answered.content, answered.error) == ({"n": 1}, None)
    assert hung.error == words


async def test_nonsense_for_an_address_is_named() -> None:
    known = [Peer("2", "odd", "no such:address:at all"), Peer("3", "empty", ""), Peer("4", "gone", "", "lost")]
    found = await Peers(lambda: known, lambda: None).ask("/api/status")
    assert (found[0].error or "").startswith("no connection to no such:address:at all: ")
    assert [answer.error for answer in found[1:]] == ["its admin port is not known", "lost"]
