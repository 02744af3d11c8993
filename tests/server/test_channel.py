"""The channel between supervisor and worker: whole messages, long replies in parts, and an end that both sides see."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.admin.rpc import ReportTargets
from gateway.config import loads
from gateway.server.channel import Channel, Ping, ReplyPart
from gateway.server.ipc import Ask, Build


@pytest.mark.parametrize("size", [0, 1, 15 * 1024, 15 * 1024 + 1, 1_000_000])
async def test_a_long_reply_travels_in_parts_and_whole(size: int) -> None:
    ours, theirs = socket.socketpair()
    near, far = await Channel.over(ours), await Channel.over(theirs)
    telling = asyncio.create_task(far.send_reply(3, b"x" * size))
    pieces = []
    async with asyncio.timeout(10):
        while True:
            told = await near.receive()
            assert isinstance(told, ReplyPart)
            assert told.number == 3
            assert told.piece is not None
            assert len(told.piece) <= 15 * 1024
            pieces.append(told.piece)
            if told.last:
                break
        await telling
        near.send(Ask(4, ReportTargets()))
        assert await far.receive() == Ask(4, ReportTargets())
    assert b"".join(pieces) == b"x" * size
    near.close()
    far.close()


async def test_a_message_of_any_size_comes_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    near, far = await Channel.over(ours), await Channel.over(theirs)
    apps = "".join(f"  app{number}: {{static: allow}}\n" for number in range(1000))
    build = Build(1, loads(f"apps:\n{apps}").config)
    for message in (Ping(), build, Ping()):
        near.send(message)
    async with asyncio.timeout(10):
        assert [await far.receive() for _ in range(3)] == [Ping(), build, Ping()]
    near.close()
    far.close()


async def test_the_end_of_one_side_is_seen_at_the_other_which_may_still_send() -> None:
    ours, theirs = socket.socketpair()
    near, far = await Channel.over(ours), await Channel.over(theirs)
    near.close()
    async with asyncio.timeout(10):
        assert await far.receive() is None
    far.send(Ping())  # is dropped
    far.close()
    far.send(Ping())
