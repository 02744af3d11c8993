"""Connections of the store: messages come whole and in order, however they are cut on the way."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.connection import Connection, Frames, NotAMessage
from gateway.store.messages import MAX_MESSAGE


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50)))
def test_messages_come_whole_and_in_order_wherever_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    data, frames = b"".join(map(framed, messages)), Frames()
    found: list[bytes] = []
    for size in cuts:
        found += frames.feed(data[:size])
        data = data[size:]
    found += frames.feed(data)
    assert found == messages


@given(st.integers(MAX_MESSAGE + 1, 2**32 - 1))
def test_a_message_that_is_too_long_is_no_message(length: int) -> None:
    with pytest.raises(NotAMessage, match=str(length)):
        list(Frames().feed(length.to_bytes(4, "big")))


class End:
    """One end, and what it got."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.reason: object = "none yet"
        self.connection = Connection(self.messages.append, self.end)

    def end(self, reason: Exception | None) -> None:
        self.reason = reason


async def pair() -> tuple[End, End]:
    loop = asyncio.get_running_loop()
    one, other = End(), End()
    for end, sock in zip((one, other), socket.socketpair(), strict=True):
        sock.setblocking(False)
        await loop.create_unix_connection(lambda end=end: end.connection, sock=sock)  # type: ignore[misc]
    return one, other


async def test_what_was_sent_arrives_before_the_end() -> None:
    one, other = await pair()
    sent = [bytes([number]) * size for number, size in enumerate((0, 1, 70_000, 3_000_000, 5))]
    for message in sent:
        one.connection.send(message)
    assert one.connection.buffered > sum(map(len, sent))
    one.connection.close()
    async with asyncio.timeout(10):
        await asyncio.gather(one.connection.ended, other.connection.ended)
    assert other.messages == sent
    assert other.reason is None
    assert not one.connection.is_open
    one.connection.send(b"too late")
    assert one.connection.buffered == 0


async def test_a_turn_s_messages_go_out_together() -> None:
    one, other = await pair()
    for number in range(1000):
        one.connection.send(b"%d" % number)
    async with asyncio.timeout(10):
        while len(other.messages) < 1000:
            await asyncio.sleep(0)
    assert other.messages == [b"%d" % number for number in range(1000)]
    for end in (one, other):
        end.connection.abort()
        await end.connection.ended


async def test_a_failing_callback_ends_its_own_connection_and_says_why() -> None:
    one, other = await pair()

    def fail(message: bytes) -> None:
        raise ValueError("nonsense")

    other.connection._on_message = fail
    one.connection.send(b"x")
    async with asyncio.timeout(10):
        await asyncio.gather(one.connection.ended, other.connection.ended)
    assert isinstance(other.reason, ValueError)
