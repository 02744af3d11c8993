"""The store's process as its peers meet it: who may talk to it, and which of several workers redelivers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.store.connection import Connection
from gateway.store.messages import Duty, Hello, KeepEvent, Take, Work, decode_for_client, encode
from tests.store.serving import Serving, event, serving, until

ROOT = Path(__file__).parents[2]

_WORKER = """
import asyncio, os, sys
from gateway.store.backlog_table import BacklogTable
from gateway.store.client import StoreClient

async def main():
    client = StoreClient(sys.argv[1], "worker", BacklogTable(int(sys.argv[2])))
    client.on_duty = lambda redelivers: print("duty" if redelivers else "no duty", flush=True)
    client.on_state = lambda up: print("up" if up else "down", flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with client:
        while line := await reader.readline():
            taken = await client.take("php", int(line))
            print("took", *(each.id for each in taken), flush=True)

asyncio.run(main())
"""


class Worker:
    """A process with a client of the store."""

    def __init__(self, at: Serving) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, at.name, str(at.table)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(at.table,), cwd=ROOT,
        )  # fmt: skip

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).decode().strip()

    async def take(self, most: int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % most)
        self.process.stdin.flush()
        return await self.line()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


async def test_the_duty_goes_to_another_worker_when_its_process_has_ended_and_not_when_the_store_s_has() -> None:
    async with serving() as at:
        await at.start()
        workers = [Worker(at)]
        try:
            assert [await workers[0].line(), await workers[0].line()] == ["up", "duty"]
            workers.append(Worker(at))
            assert await workers[1].line() == "up"
            at.spool.events = {number: event() for number in (1, 2, 3)}
            assert await workers[0].take(2) == "took 1 2"
            assert await workers[1].take(9) == "took", "it has not the duty"
            await at.stop()
            assert [await workers[0].line(), await workers[0].line()] == ["down", "no duty"]
            assert await workers[1].line() == "down"
            await at.start()
            assert await workers[0].line() == "up"
            assert await workers[0].line() == "duty", "whichever of them comes first"
            assert await workers[1].line() == "up"
            assert await workers[0].take(9) == "took 3", "what is in its hands is not given again"
            workers[0].end()
            assert await workers[1].line() == "duty"
            assert await workers[1].take(9) == "took 1 2 3"
            assert sorted(at.spool.released) == [1, 2, 3]
        finally:
            for worker in workers:
                worker.end()


async def raw(at: Serving) -> tuple[Connection, list[bytes]]:
    """A connection for messages of the test's own making."""
    got: list[bytes] = []
    connection = Connection(got.append)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect("\0" + at.name)
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=sock)
    return connection, got


@pytest.mark.parametrize(
    "messages",
    [[b"\xc1"], [b""], [encode(KeepEvent(1, event()))], [encode(Hello("worker", 1))] * 2],
    ids=["no message", "an empty one", "no greeting", "two greetings"],
)
async def test_who_does_not_speak_the_language_is_disconnected_alone(
    messages: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as at:
        await at.start()
        async with at.client() as client:
            await until(lambda: client.up)
            connection, _ = await raw(at)
            for message in messages:
                connection.send(message)
            await connection.ended
            assert [record.levelno for record in caplog.records] == [logging.ERROR]
            assert client.up
            assert not at.spool.events


async def test_another_user_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as at:
        await at.start()
        monkeypatch.setattr("gateway.store.service.os.getuid", lambda: os.geteuid() + 1)
        connection, got = await raw(at)
        connection.send(encode(Hello("worker", os.getpid())))
        await connection.ended
        assert got == []


async def test_a_worker_that_ends_while_its_events_are_looked_for_leases_none() -> None:
    async with serving() as at:
        await at.start()
        at.spool.events = {1: event()}
        connection, got = await raw(at)
        connection.send(encode(Hello("worker", os.getpid())))
        connection.send(encode(Take(1, "php", 1)))
        await until(lambda: got)
        connection.abort()
        await connection.ended
        connection, got = await raw(at)
        connection.send(encode(Hello("worker", os.getpid())))
        connection.send(encode(Take(2, "php", 1)))
        await until(lambda: len(got) >= 2)
        answers = [decode_for_client(each) for each in got]
        assert Duty(redelivers=True) in answers
        await until(lambda: any(isinstance(decode_for_client(each), Work) for each in got))
        (work,) = [each for each in map(decode_for_client, got) if isinstance(each, Work)]
        assert [each.id for each in work.deliveries] == [1]


async def test_a_database_that_is_silent_does_not_keep_back_that_it_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked = []

    async def backlogs() -> None:
        asked.append(1)
        await answer

    async with serving() as at:
        await at.start()
        async with at.client() as client:
            await until(lambda: client.up)
            assert at.service is not None
            monkeypatch.setattr(at.spool, "backlogs", backlogs)
            at.service.note_change()
            await until(lambda: asked)
            at.spool.is_up = False
            at.service.note_change()
            await until(lambda: not client.up)
            assert len(asked) == 1, "it was asked again while it was silent"
            at.spool.is_up = True
            answer.set_result(None)
            await until(lambda: client.up)
