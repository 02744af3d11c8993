"""A worker as its supervisor sees it: replies in parts, acknowledgements, and an end that nobody waits for in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.admin.rpc import ReportTargets
from gateway.server import worker_handle
from gateway.server.channel import Pong, Ready, ReplyPart
from gateway.server.ipc import Ask, Built, Committed, Prepared, Serve
from gateway.server.worker_handle import WorkerHandle


class FakeChannel:
    """What the worker sends, put in by the test; and what it was sent."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[object | None] = asyncio.Queue()
        self.sent: list[object] = []

    async def receive(self) -> object | None:
        return await self.incoming.get()

    def send(self, message: object) -> None:
        self.sent.append(message)

    def close(self) -> None:
        """Nothing is open."""


class Stage:
    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.killed = 0
        process: Any = SimpleNamespace(pid=1, wait=self._end, kill=self._kill)
        made: Any = WorkerHandle
        self.worker: WorkerHandle = made(0, process, self.channel, None)

    async def says(self, *messages: object | None) -> None:
        for message in messages:
            self.channel.incoming.put_nowait(message)
        await asyncio.sleep(0.01)

    async def _end(self) -> int:
        await asyncio.sleep(3600)
        return 0

    def _kill(self) -> None:
        self.killed += 1


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    await made.says(None)
    assert made.worker.is_gone


async def asked(stage: Stage) -> tuple[asyncio.Task[bytes | None], int]:
    """A request under way, and its number."""
    asking = asyncio.create_task(stage.worker.ask(ReportTargets()))
    await asyncio.sleep(0.01)
    message = stage.channel.sent[-1]
    assert isinstance(message, Ask)
    return asking, message.number


async def test_it_is_told_to_serve_once_it_is_built_and_is_ready_when_it_says_so(stage: Stage) -> None:
    assert not stage.worker.is_built
    await stage.says(Built())
    assert (stage.worker.is_built, stage.channel.sent) == (True, [Serve()])
    assert not stage.worker.ready.is_set()
    await stage.says(Ready())
    assert await stage.worker.becomes_ready(asyncio.Event())
    assert stage.killed == 0


async def test_one_that_is_not_ready_in_time_is_killed_unless_the_end_has_come(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_handle, "_START_LIMIT", 0.01)
    stop = asyncio.Event()
    assert not await stage.worker.becomes_ready(stop)
    assert stage.killed == 1
    stop.set()
    assert not await stage.worker.becomes_ready(stop)
    assert stage.killed == 1


async def test_a_reply_is_put_together_from_its_parts_and_late_parts_are_ignored(stage: Stage) -> None:
    await stage.says(Ready())
    asking, number = await asked(stage)
    await stage.says(ReplyPart(number, b"one ", last=False), ReplyPart(number + 7, b"?", last=True))
    await stage.says(ReplyPart(number, b"two", last=True), ReplyPart(number, b"late", last=True))
    assert await asking == b"one two"
    await stage.says(ReplyPart(number, b"later", last=True))


@pytest.mark.parametrize("end", [ReplyPart(0, None, last=True), None], ids=["no reply", "its end"])
async def test_without_a_reply_there_is_none(stage: Stage, end: object) -> None:
    await stage.says(Ready())
    asking, number = await asked(stage)
    assert number == 0
    await stage.says(end)
    assert await asyncio.wait_for(asking, 5) is None


async def test_one_that_does_not_reply_in_time_is_waited_for_no_longer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_handle, "RPC_TIMEOUT", 0.01)
    await stage.says(Ready())
    assert await stage.worker.ask(ReportTargets()) is None


async def test_one_that_is_not_ready_gets_the_request_and_is_not_waited_for(stage: Stage) -> None:
    assert await asyncio.wait_for(stage.worker.ask(ReportTargets()), 0.5) is None
    assert isinstance(stage.channel.sent[-1], Ask)


async def test_each_message_is_a_sign_of_life(stage: Stage) -> None:
    stage.worker.unanswered = 3
    await stage.says(Pong())
    assert stage.worker.unanswered == 0


async def test_acknowledgements_are_told_apart_by_kind_and_serial(stage: Stage) -> None:
    await stage.says(Prepared(1), Prepared(2, "no"), Committed(1))
    assert await stage.worker.acknowledgement(Prepared, 2) == Prepared(2, "no")
    assert await stage.worker.acknowledgement(Committed, 1) == Committed(1)
    waiting = asyncio.create_task(stage.worker.acknowledgement(Committed, 2))
    await stage.says()
    assert not waiting.done()
    await stage.says(None)
    assert await asyncio.wait_for(waiting, 5) is None
