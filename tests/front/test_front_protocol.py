"""The front door on real sockets: what a client may do, what it may not, and how long it may take."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import pytest
from frontdoor import LIMITS, LOOPS, PATIENCE, Client, Door, echo, open_door, request, wait_until
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.front.head import MAX_FIELDS, MAX_HEAD
from gateway.front.protocol import CLIENT_LEFT

Opener = Callable[..., AbstractContextManager[Door]]
HASTY: Final = LIMITS._replace(read_timeout=0.3)
MAX_BODY: Final = LIMITS.max_body


@pytest.fixture(params=LOOPS)
def opener(request: pytest.FixtureRequest) -> Opener:
    """Opens doors on the gateway's own event loop, and on the standard library's."""
    return partial(open_door, request.param)


@pytest.fixture(scope="module", params=LOOPS)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """One that echoes."""
    with open_door(request.param) as opened:
        yield opened


@pytest.fixture(scope="module", params=LOOPS)
def hasty(request: pytest.FixtureRequest) -> Iterator[Door]:
    """One that echoes, with little patience for a request."""
    with open_door(request.param, limits=HASTY) as opened:
        yield opened


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", line: bytes = b"POST / HTTP/1.1") -> bytes:
    head = line + b"\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


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


# --- time ---

HALVES: Final = {
    "a method": b"PO",
    "half a head": b"POST / HTTP/1.1\r\nHos",
    "a head without its end": b"POST / HTTP/1.1\r\nHost: gw\r\n",
    "half a line end": b"\r",
    "a head without its body": request(b"hello")[:-5],
    "half a body": request(b"hello")[:-1],
    "no chunk": chunked(end=b""),
    "half a chunk": chunked(end=b"5\r\nhel"),
    "no last chunk": chunked(b"hello", end=b""),
    "a last chunk without its end": chunked(b"hello", end=b"0\r\n"),
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_half_a_request_is_a_408_when_its_time_is_over(hasty: Door, half: bytes) -> None:
    with hasty.connect() as client:
        client.send(half)
        reply = client.read()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert b"0.3 s" in reply.body
        assert client.rest() == b""


@pytest.mark.parametrize("half", [HALVES["half a head"], HALVES["half a body"]], ids=["head", "body"])
def test_half_a_second_request_is_a_408_too(hasty: Door, half: bytes) -> None:
    with hasty.connect() as client:
        client.send(request(b"first") + half)
        assert client.read().body == b"first"
        assert client.read().status == 408


@pytest.mark.parametrize("data", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_a_client_that_asks_nothing_is_let_go_without_a_word(hasty: Door, data: bytes) -> None:
    refused = len(hasty.refusals)
    with hasty.connect() as client:
        client.send(data)
        assert client.rest() == b""
    assert len(hasty.refusals) == refused


def test_bytes_that_keep_coming_do_not_prolong_a_request_s_time(hasty: Door) -> None:
    with hasty.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nX-Endless: ")
        for _ in range(200):
            client.send(b"x")
            if readable(client, 0.05):
                break
        assert client.read().status == 408


def readable(client: Client, seconds: float) -> bool:
    """Whether something, or the end, comes within so long."""
    return bool(select.select([client.sock], [], [], seconds)[0])


def test_empty_lines_that_keep_coming_do_not_hold_a_connection(hasty: Door) -> None:
    with hasty.connect() as client:
        for _ in range(200):
            client.send(b"\r\n")
            if readable(client, 0.05):
                break
        assert client.is_reset_or_ends()


def test_an_idle_connection_is_closed_without_a_word(opener: Opener) -> None:
    with opener(limits=LIMITS._replace(keepalive_timeout=0.2)) as door, door.connect() as client:
        client.send(request(b"x"))
        assert client.read().body == b"x"
        assert client.rest() == b""
        assert door.refusals == []


def test_a_request_that_has_begun_has_a_request_s_time_and_not_an_idle_connection_s(opener: Opener) -> None:
    with opener(limits=LIMITS._replace(keepalive_timeout=0.3)) as door, door.connect() as client:
        client.send(request(b"first"))
        assert client.read().body == b"first"
        second = request(b"second")
        client.send(second[:20])
        time.sleep(0.6)
        client.send(second[20:])
        assert client.read().body == b"second"


def test_an_answer_may_take_longer_than_a_request(opener: Opener) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await echo(scope, receive, send)

    limits = HASTY._replace(keepalive_timeout=0.3)
    with opener(slow, limits=limits) as door, door.connect() as client:
        client.send(request(b"x"))
        assert client.read().body == b"x"
        assert door.refusals == []


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
        assert [len(one._buffer) < 1024 * 1024 for one in door.connections] == [True]
        door.call(go_on.set)
        client.sock.settimeout(PATIENCE)
        assert client.read().body == b"first"
        assert client.read().status == 400


# --- connections ---


def test_one_connection_too_many_is_refused_and_the_others_served(opener: Opener) -> None:
    with opener(limits=LIMITS._replace(max_connections=2)) as door:
        with door.connect() as one, door.connect() as two:
            for client in (one, two):
                client.send(request(b"x"))
                assert client.read().status == 200
            with door.connect() as three:
                reply = three.read()
                assert (reply.status, reply.headers["connection"]) == (403, "close")
                assert three.rest() == b""
            one.send(request(b"still here"))
            assert one.read().body == b"still here"
        assert wait_until(lambda: not door.connections)
        assert door.ask(request(b"x")).status == 200


def test_a_client_that_has_ended_its_own_side_still_gets_its_answer(opener: Opener) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await echo(scope, receive, send)

    with opener(slow) as door, door.connect() as client:
        client.send(request(b"x"))
        client.half_close()
        reply = client.read()
        assert (reply.body, reply.headers["connection"]) == (b"x", "close")
        assert client.rest() == b""


def test_a_client_that_has_ended_its_own_side_gets_every_answer(opener: Opener) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await echo(scope, receive, send)

    with opener(slow) as door, door.connect() as client:
        client.send(b"".join(request(b"hook %d" % number) for number in range(3)))
        client.half_close()
        replies = [client.read() for _ in range(3)]
        assert [reply.body for reply in replies] == [b"hook 0", b"hook 1", b"hook 2"]
        assert replies[-1].headers["connection"] == "close"
        assert client.rest() == b""


@pytest.mark.parametrize(
    "half", [HALVES["half a head"], HALVES["half a body"], HALVES["half a chunk"]], ids=["head", "body", "chunk"]
)
@pytest.mark.parametrize("how", ["close", "half_close"])
def test_a_client_that_leaves_amid_its_request_is_told_of_as_such(opener: Opener, half: bytes, how: str) -> None:
    with opener() as door, door.connect() as client:
        client.send(half)
        assert wait_until(lambda: [one for one in door.connections if "reading" in repr(one)])
        getattr(client, how)()
        assert wait_until(lambda: door.statuses) == [CLIENT_LEFT]
        assert wait_until(lambda: not door.connections)


def test_a_client_that_leaves_between_requests_is_not_worth_a_word(opener: Opener) -> None:
    with opener() as door:
        door.connect().close()
        with door.connect() as client:
            client.send(request(b"x"))
            assert client.read().body == b"x"
        assert wait_until(lambda: not door.connections)
        assert door.refusals == []


def test_a_client_that_leaves_while_the_app_works_disturbs_nobody(opener: Opener) -> None:
    done = threading.Event()
    inside = threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await asyncio.sleep(0.2)
        await echo(scope, receive, send)
        done.set()

    with opener(slow) as door:
        with door.connect() as client:
            client.send(request(b"x"))
            assert inside.wait(PATIENCE)
        assert done.wait(PATIENCE)
        assert wait_until(lambda: not door.connections)
        assert door.refusals == []


def test_an_app_that_asks_for_more_is_told_when_the_client_leaves(opener: Opener) -> None:
    told: list[str] = []
    inside = threading.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        inside.set()
        told.extend([(await receive())["type"] for _ in range(2)])

    with opener(wait) as door:
        with door.connect() as client:
            client.send(request(b"x"))
            assert inside.wait(PATIENCE)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
        assert wait_until(lambda: len(told) == 2)
    assert told == ["http.disconnect"] * 2


# --- clients that never read ---


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    """An app with far more to say than any socket's buffer holds."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": b"x" * 1024 * 1024, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_a_client_that_never_reads_does_not_hold_up_the_end(opener: Opener) -> None:
    with opener(flood, grace=1.0) as door, door.connect(receive_buffer=4096) as client:
        client.send(request())
        assert wait_until(lambda: [one for one in door.connections if one.writable is not None])
        door.stop()
        door.join()


def test_a_client_that_never_reads_is_let_go_in_the_end(opener: Opener) -> None:
    limits = LIMITS._replace(keepalive_timeout=0.3)
    with opener(flood, limits=limits) as door, door.connect(receive_buffer=4096) as client:
        client.send(request())
        assert wait_until(lambda: [one for one in door.connections if one.writable is not None])
        assert wait_until(lambda: not door.connections)
        assert client.is_reset_or_ends()


def test_a_client_that_never_reads_its_last_answer_is_let_go_in_the_end(opener: Opener) -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 32 * 1024 * 1024})

    limits = LIMITS._replace(keepalive_timeout=0.3)
    with opener(large, limits=limits) as door, door.connect(receive_buffer=4096) as client:
        client.send(request())
        assert wait_until(lambda: door.state.total_requests)
        assert wait_until(lambda: not door.connections)


def test_a_client_that_reads_slowly_gets_all(opener: Opener) -> None:
    with opener(flood) as door, door.connect(receive_buffer=65536) as client:
        client.send(request())
        time.sleep(0.2)
        assert len(client.read().body) == 64 * 1024 * 1024


# --- answers ---


def test_head_gets_no_body_and_the_connection_is_kept(door: Door) -> None:
    with door.connect() as client:
        client.send(request(b"hello", method=b"HEAD"))
        reply = client.read("HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, "5")
        client.send(request(b"next"))
        assert client.read().body == b"next"


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one ", b"", b"two ", b"three"):
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_an_answer_in_parts_is_chunked_and_the_connection_kept(opener: Opener) -> None:
    with opener(stream) as door, door.connect() as client:
        for _ in range(2):
            client.send(request())
            reply = client.read()
            assert reply.headers == {"transfer-encoding": "chunked"}
            assert reply.body == b"one two three"


def test_an_answer_in_parts_to_http_1_0_ends_with_the_connection(opener: Opener) -> None:
    with opener(stream) as door:
        reply = door.ask(request(version=b"1.0"))
    assert (reply.headers, reply.body) == ({"connection": "close"}, b"one two three")


# --- apps that fail ---


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("the app's own fault")


async def raising_midway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("the app's own fault")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def lying(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hell"})


async def forging(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1\r\nx-forged: 2")]})
    await send({"type": "http.response.body", "body": b""})


async def unheard_of(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 799, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("app", "got"),
    [
        (raising, b""),
        (raising_midway, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        (silent, b""),
        (lying, b""),
        (forging, b""),
        (unheard_of, b""),
    ],
)
def test_an_app_that_fails_ends_the_connection_and_nothing_looks_like_a_whole_answer(
    opener: Opener, app: ASGIApp, got: bytes
) -> None:
    with opener(app) as door, door.connect() as client:
        client.send(request(b"x") + request(b"y"))
        assert client.rest() == got
        assert wait_until(lambda: not door.connections)
    if app is not silent:
        assert "the app failed" in door.log[0]


def test_an_app_that_fails_after_its_answer_costs_nobody_anything(opener: Opener) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        raise ValueError("the app's own fault")

    with opener(failing) as door, door.connect() as client:
        for body in (b"one", b"two"):
            client.send(request(body))
            assert client.read().body == body
    assert "the app failed" in door.log[0]


def test_an_app_that_never_answers_does_not_hold_up_the_end(opener: Opener) -> None:
    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await asyncio.Event().wait()

    inside = threading.Event()
    with opener(hanging, grace=1.0) as door, door.connect() as client:
        client.send(request())
        assert inside.wait(PATIENCE)
        door.stop()
        assert client.rest() == b""
        door.join()


# --- the end ---


def test_what_is_in_flight_at_the_end_is_answered_and_its_connection_closed(opener: Opener) -> None:
    inside = threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await asyncio.sleep(0.3)
        await echo(scope, receive, send)

    with opener(slow, linger=5.0) as door, door.connect() as client:
        client.send(request(b"x"))
        assert inside.wait(PATIENCE)
        door.stop()
        reply = client.read()
        assert (reply.body, reply.headers["connection"]) == (b"x", "close")
        assert client.rest() == b""
        client.close()
        door.join()


def test_a_request_that_comes_in_the_end_on_a_connection_of_late_is_answered(opener: Opener) -> None:
    # Java's client sends a hook again, unasked, if its connection closes under it without a byte of answer.
    with opener(linger=5.0) as door, door.connect() as client:
        client.send(request(b"before"))
        assert client.read().body == b"before"
        door.stop()
        assert wait_until(lambda: door.state.draining)
        client.send(request(b"amid")[:10])
        time.sleep(0.1)
        client.send(request(b"amid")[10:])
        reply = client.read()
        assert (reply.body, reply.headers["connection"]) == (b"amid", "close")
        assert client.rest() == b""


def test_a_connection_idle_for_longer_than_the_linger_is_closed_with_the_door(opener: Opener) -> None:
    with opener(linger=0.2) as door, door.connect() as client:
        client.send(request(b"x"))
        assert client.read().body == b"x"
        time.sleep(0.3)
        door.stop()
        assert client.rest() == b""
        door.join()
        assert door.refusals == []


def test_a_connection_that_stays_idle_is_closed_when_the_linger_is_over(opener: Opener) -> None:
    with opener(linger=0.5) as door, door.connect() as client:
        client.send(request(b"x"))
        assert client.read().body == b"x"
        door.stop()
        assert client.rest() == b""
        door.join()


def test_half_a_request_at_the_end_may_still_become_whole(opener: Opener) -> None:
    whole = request(b"hello")
    with opener() as door, door.connect() as client:
        client.send(whole[:-2])
        assert wait_until(lambda: [one for one in door.connections if "reading" in repr(one)])
        door.stop()
        assert wait_until(lambda: door.state.draining)
        client.send(whole[-2:])
        reply = client.read()
        assert (reply.body, reply.headers["connection"]) == (b"hello", "close")


def test_told_to_end_at_once_the_door_waits_for_nobody(opener: Opener) -> None:
    inside = threading.Event()

    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await asyncio.Event().wait()

    with opener(hanging, linger=30.0, grace=30.0) as door, door.connect() as client:
        client.send(request())
        assert inside.wait(PATIENCE)
        door.stop(at_once=True)
        door.join()
