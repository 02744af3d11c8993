"""The front door's patience: how long a client may take for a request, and between two."""

from __future__ import annotations

import asyncio
import time

import pytest
from starlette.types import Receive, Scope, Send

from tests.http.server.frontdoor import HALVES, HASTY, LIMITS, Door, Opener, echo, readable, request


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_half_a_request_is_a_408_when_its_time_is_over(hasty: Door, half: bytes) -> None:
    with hasty.connect_with(half) as client:
        reply = client.read()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert b"0.3 s" in reply.body
        assert client.rest() == b""


@pytest.mark.parametrize("half", [HALVES["half a head"], HALVES["half a body"]], ids=["head", "body"])
def test_half_a_second_request_is_a_408_too(hasty: Door, half: bytes) -> None:
    with hasty.connect_with(request(b"first") + half) as client:
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
    with hasty.connect_with(b"POST / HTTP/1.1\r\nHost: gw\r\nX-Endless: ") as client:
        for _ in range(200):
            client.send(b"x")
            if readable(client, 0.05):
                break
        assert client.read().status == 408


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
    idle = 1.0
    with opener(limits=LIMITS._replace(keepalive_timeout=idle)) as door, door.connect() as client:
        client.send(request(b"first"))
        assert client.read().body == b"first"
        second = request(b"second")
        client.send(second[:20])
        time.sleep(1.3 * idle)
        client.send(second[20:])
        assert client.read().body == b"second"


def test_an_answer_may_take_longer_than_a_request(opener: Opener) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await echo(scope, receive, send)

    limits = HASTY._replace(keepalive_timeout=0.3)
    with opener(slow, limits=limits) as door, door.connect_with(request(b"x")) as client:
        assert client.read().body == b"x"
        assert door.refusals == []
