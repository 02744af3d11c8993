"""What the front door makes of an app: its answers, and its failures."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.http.server.frontdoor import PATIENCE, Door, Opener, echo, request
from tests.support.gateways import wait_until

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
