"""The front door's connections: how many, who leaves them or never reads, and how they end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server.protocol import CLIENT_LEFT
from tests.http.server.frontdoor import HALVES, LIMITS, PATIENCE, Opener, echo, request
from tests.support.gateways import wait_until

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
        with door.held_up():
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
        with door.held_up():
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
        assert wait_until(lambda: door.state.total_requests)
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


# --- the end ---


def test_what_is_in_flight_at_the_end_is_answered_and_its_connection_closed(opener: Opener) -> None:
    inside, go_on = threading.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await go_on.wait()
        await echo(scope, receive, send)

    with opener(wait, linger=5.0) as door, door.connect() as client:
        client.send(request(b"x"))
        assert inside.wait(PATIENCE)
        door.stop()
        assert wait_until(lambda: door.state.draining)
        door.call(go_on.set)
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
