"""The front door on real sockets: what a client may send, and what it may not."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server.head import MAX_FIELDS, MAX_HEAD
from tests.http.server.frontdoor import LIMITS, PATIENCE, Client, Door, Opener, chunked, echo, readable, request

MAX_BODY: Final = LIMITS.max_body


# --- requests ---


def test_a_request_is_answered_and_its_connection_kept_for_the_next(door: Door) -> None:
    with door.connect() as client:
        for body in (b"one", b"", b"three" * 500):
            client.send(request(body, path=b"/a/b?c"))
            reply = client.read()
            assert (reply.status, reply.body) == (200, body)
            assert reply.headers["x-path"] == b"/a/b".decode()
            assert "connection" not in reply.headers


def test_an_app_is_told_of_the_request_as_asgi_has_it(opener: Opener) -> None:
    seen: list[tuple[Scope, Any]] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, await receive()))
        await echo(scope, replay(seen[-1][1]), send)

    with opener(note) as door, door.connect() as client:
        client.send(request(b"x", b"X-Own:  \xe9 ", path=b"/a%2Fb/%C3%BC%ff?q=%20"))
        assert client.read().status == 200
        address = client.sock.getsockname()
    ((scope, message),) = seen
    assert message == {"type": "http.request", "body": b"x", "more_body": False}
    assert {key: scope[key] for key in scope.keys() - {"headers", "asgi"}} == {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a/b/ü\ufffd",
        "raw_path": b"/a%2Fb/%C3%BC%ff",
        "query_string": b"q=%20",
        "root_path": "",
        "extensions": {},
        "client": address,
        "server": ("127.0.0.1", door.port),
    }
    assert scope["headers"] == ((b"host", b"gw"), (b"x-own", b"\xe9")), "the length is the body's own"


def replay(message: Any) -> Receive:
    async def receive() -> Any:
        return message

    return receive


ONE_BY_ONE: Final = {
    "a length": request(b"hello", b"Connection: close"),
    "chunks": chunked(b"hello", b", ", b"world", end=b"0;a=b\r\nX-Sum: 1\r\n\r\n") + request(b"", b"Connection: close"),
    "no body": b"GET /x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n",
    "an empty line before": b"\r\n" + request(b"hello", b"Connection: close"),
    "two requests": request(b"one") + request(b"two", b"Connection: close"),
    "an empty line between": request(b"one") + b"\r\n" + request(b"two", b"Connection: close"),
    "garbage after a request": request(b"one") + b"\x16\x03\x01",
    "a bad head": b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a bad chunk": chunked(b"hello", end=b"-1\r\n"),
    "a body too large": b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 999999\r\n\r\n",
}


@pytest.mark.parametrize("data", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_byte_by_byte_a_request_is_answered_as_in_one_piece(door: Door, data: bytes) -> None:
    answers = []
    for sent_by in ("send", "dribble"):
        with door.connect() as client:
            getattr(client, sent_by)(data)
            answers.append(client.rest())
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


def test_ten_hooks_in_one_segment_are_answered_in_their_order_one_at_a_time(opener: Opener) -> None:
    inside: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        inside.append(1)
        assert len(inside) == 1
        await asyncio.sleep(0.01)
        await echo(scope, receive, send)
        inside.pop()

    with opener(slow) as door, door.connect() as client:
        client.send(b"".join(request(b"hook %d" % number) for number in range(10)))
        assert [client.read().body for _ in range(10)] == [b"hook %d" % number for number in range(10)]
        client.send(request(b"and one more"))
        assert client.read().body == b"and one more"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00",
        b"hello",
        b"\x00",
        b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_garbage_after_a_whole_request_is_refused_after_that_is_answered(door: Door, garbage: bytes) -> None:
    with door.connect() as client:
        client.send(request(b"whole") + garbage)
        assert client.read().body == b"whole"
        refusal = client.read()
        assert (refusal.status, refusal.headers["connection"]) == (400, "close")
        assert client.rest() == b""


def test_nothing_after_a_refused_request_is_read_as_one(opener: Opener) -> None:
    seen: list[bytes] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["raw_path"])
        await echo(scope, receive, send)

    with opener(note) as door, door.connect() as client:
        bad = b"POST /bad HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(bad + request(path=b"/smuggled"))
        assert client.read().status == 400
        client.send(request(path=b"/later"))
        assert client.rest() == b""
    assert seen == []


def test_nothing_after_a_connection_s_last_request_is_read_as_one(opener: Opener) -> None:
    seen: list[bytes] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["raw_path"])
        await echo(scope, receive, send)

    with opener(note) as door, door.connect() as client:
        client.send(request(b"", b"Connection: close", path=b"/last") + request(path=b"/more"))
        assert client.read().headers["connection"] == "close"
        assert client.rest() == b""
    assert seen == [b"/last"]


@pytest.mark.parametrize(
    "data", [request(b"x", b"Connection: close"), request(b"x", version=b"1.0"), request(b"x", b"connection: x, Close")]
)
def test_a_connection_that_the_client_does_not_keep_is_closed_after_its_answer(door: Door, data: bytes) -> None:
    with door.connect() as client:
        client.send(data)
        reply = client.read()
        assert (reply.body, reply.headers["connection"]) == (b"x", "close")
        assert client.rest() == b""


# --- Expect: 100-continue ---

WAITING: Final = b"POST / HTTP/1.%b\r\nHost: gw\r\nExpect: 100-continue\r\n%b\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "body"), [(b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")]
)
def test_a_client_that_waits_for_a_word_gets_one(door: Door, framing: bytes, body: bytes) -> None:
    with door.connect() as client:
        client.send(WAITING % (b"1", framing))
        assert client.line() == b"HTTP/1.1 100 Continue"
        assert client.line() == b""
        client.send(body)
        assert client.read().body == b"hello"


def test_a_client_that_did_not_wait_gets_its_answer_alone(door: Door) -> None:
    reply = door.ask(WAITING % (b"1", b"Content-Length: 5") + b"hello")
    assert (reply.status, reply.body) == (200, b"hello")


def test_a_client_that_has_nothing_to_send_gets_its_answer_alone(door: Door) -> None:
    assert door.ask(WAITING % (b"1", b"Content-Length: 0")).status == 200


def test_http_1_0_gets_no_word_that_it_does_not_know(door: Door) -> None:
    with door.connect() as client:
        client.send(WAITING % (b"0", b"Content-Length: 5"))
        assert not readable(client, 0.1)
        client.send(b"hello")
        assert client.read().body == b"hello"


def test_a_body_too_large_is_refused_before_it_is_asked_for(door: Door) -> None:
    with door.connect() as client:
        client.send(WAITING % (b"1", b"Content-Length: %d" % (MAX_BODY + 1)))
        assert client.read().status == 413


# --- sizes ---


def test_a_body_may_have_its_limit(door: Door) -> None:
    assert door.ask(request(b"x" * MAX_BODY)).body == b"x" * MAX_BODY
    assert door.ask(chunked(b"x" * (MAX_BODY - 1), b"y")).body == b"x" * (MAX_BODY - 1) + b"y"


@pytest.mark.parametrize("length", [MAX_BODY + 1, 10**15])
def test_a_body_announced_as_too_large_is_a_413_before_it_comes(door: Door, length: int) -> None:
    reply = door.ask(b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % length)
    assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_a_body_that_grows_too_large_is_a_413_while_it_comes(door: Door) -> None:
    reply = door.ask(chunked(b"x" * MAX_BODY, end=b"1\r\n"))
    assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_a_client_that_sends_its_refused_body_all_the_same_reads_the_answer(door: Door) -> None:
    # Closed at once, the connection would be reset by what still comes, and the answer lost with it.
    with door.connect() as client:
        client.send(request(b"x" * (4 * MAX_BODY)))
        time.sleep(0.05)
        client.send(b"x" * MAX_BODY)
        assert client.read().status == 413
        assert client.rest() == b""


def test_a_refused_client_that_never_ends_is_not_read_for_ever(door: Door) -> None:
    with door.connect() as client:
        client.send(request(b"x" * (2 * MAX_BODY)))
        with pytest.raises(ConnectionError):
            send_on(client, 500, 0.01)


def send_on(client: Client, most: int, pause: float = 0.0) -> None:
    """Send so many times 100 kB."""
    for _ in range(most):
        client.send(b"x" * 100_000)
        time.sleep(pause)


def test_a_head_that_never_ends_is_a_431(door: Door) -> None:
    with door.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nX-Endless: " + b"x" * MAX_HEAD)
        assert client.read().status == 431


@pytest.mark.parametrize(
    "head",
    [
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: gw\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gw\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gw\r\n" + b"X: 1\r\n" * 1000 + b"\r\n",
        b"POST /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: gw\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gw\r\n" + b"X: 1\r\n" * MAX_FIELDS + b"\r\n",
    ],
    ids=[
        "100 kB of request line",
        "a header of 100 kB",
        "1000 headers",
        "10 kB of request line",
        "one header too many",
    ],
)
def test_a_head_too_large_is_a_431(door: Door, head: bytes) -> None:
    reply = door.ask(head)
    assert (reply.status, reply.headers["connection"]) == (431, "close")


def test_what_is_pipelined_is_not_read_without_bound(opener: Opener) -> None:
    go_on = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    with opener(wait, grace=1.0) as door, door.connect() as client:
        client.send(request(b"first"))
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            send_on(client, 640)
        assert [len(one._reader.buffer) < 1024 * 1024 for one in door.connections] == [True]
        door.call(go_on.set)
        client.sock.settimeout(PATIENCE)
        assert client.read().body == b"first"
        assert client.read().status == 400
