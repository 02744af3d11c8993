"""Bytes to answers and back: whatever pieces the network makes of them."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.wire import MAX_UNSENT, Refused, Wire

words = st.binary(max_size=30) | st.text(max_size=30) | st.integers(-(2**62), 2**62)
answers = st.recursive(
    st.binary(max_size=20) | st.none() | st.integers(-(2**62), 2**62), lambda inner: st.lists(inner, max_size=4)
)


def as_bytes(answer: Any) -> bytes:
    """An answer as the server sends it."""
    match answer:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(answer), answer)
        case int():
            return b":%d\r\n" % answer
        case list():
            return b"*%d\r\n" % len(answer) + b"".join(map(as_bytes, answer))
    raise TypeError(answer)


class Pipe:
    """A wire, and the other end of it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(5)
        self.answers: list[Any] = []
        self.ends: list[str] = []

    async def open(self) -> Wire:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=self.ours)
        reader: Any = hiredis.Reader(protocolError=ValueError, replyError=Refused)
        wire = Wire(transport, reader, hiredis.pack_command)
        transport.set_protocol(wire)
        wire.on_answer, wire.on_end = self.answers.append, self.ends.append
        return wire

    def close(self) -> None:
        self.theirs.close()
        self.ours.close()


def read_command(data: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(data)
    command: Any = reader.gets()
    assert command is not False
    return list(command)


@given(command=st.lists(words, min_size=1, max_size=5))
def test_a_command_is_what_the_server_reads(command: list[bytes | str | int]) -> None:
    packed = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    assert read_command(packed) == [it if isinstance(it, bytes) else str(it).encode() for it in command]


@given(sent=st.lists(answers, max_size=5), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_answers_come_whole_and_in_order_however_they_are_cut(sent: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(as_bytes, sent))
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})

    async def receive() -> list[Any]:
        pipe = Pipe()
        try:
            wire = await pipe.open()
            for begin, end in itertools.pairwise(places):
                wire.data_received(data[begin:end])
            wire.close()
            return pipe.answers
        finally:
            pipe.close()

    assert asyncio.run(receive()) == sent


async def test_commands_of_one_turn_are_one_write() -> None:
    pipe = Pipe()
    wire = await pipe.open()
    for number in range(3):
        wire.write(("INCRBY", "a", number))
    await asyncio.sleep(0.05)
    expected = [b"*3\r\n$6\r\nINCRBY\r\n$1\r\na\r\n$1\r\n%d\r\n" % number for number in range(3)]
    assert pipe.theirs.recv(65536) == b"".join(expected)
    wire.close()
    pipe.close()


async def test_a_refusal_is_an_answer() -> None:
    pipe = Pipe()
    wire = await pipe.open()
    wire.data_received(b"-READONLY You can't write\r\n+OK\r\n")
    refusal, ok = pipe.answers
    assert isinstance(refusal, Refused)
    assert refusal.code == "READONLY"
    assert ok == b"OK"
    wire.close()
    pipe.close()


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\x15\x03\x01\x00\x02\x02"]
)
async def test_what_is_no_redis_ends_the_connection(garbage: bytes) -> None:
    pipe = Pipe()
    wire = await pipe.open()
    wire.data_received(garbage)
    assert [end.partition(" (")[0] for end in pipe.ends] == ["it does not speak Redis' protocol"]
    assert wire.has_ended
    pipe.close()


async def test_the_end_is_reported_once_and_not_to_those_who_closed() -> None:
    pipe = Pipe()
    wire = await pipe.open()
    pipe.theirs.close()
    await asyncio.sleep(0.05)
    assert pipe.ends == ["it closed the connection"]
    wire.close()
    await asyncio.sleep(0.05)
    assert pipe.ends == ["it closed the connection"]
    pipe.close()


async def test_it_says_when_the_network_does_not_take_more() -> None:
    pipe = Pipe()
    wire = await pipe.open()
    full = [wire.is_full]
    for _ in range(2 * MAX_UNSENT // 100_000):
        wire.write(("SET", "a", b"x" * 100_000))
    await asyncio.sleep(0.05)
    full.append(wire.is_full)
    assert full == [False, True]
    wire.close()
    pipe.close()
