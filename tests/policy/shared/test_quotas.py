"""Connections of several workers to one target: never more than may be, and none waits for nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.http.client import Answer, Pool, RequestOptions, Transport, TransportSettings
from gateway.policy.shared import SharedBreaker
from gateway.policy.shared.memory import Memory
from tests.http.client.loopback import PATIENCE, Backend, Peer, backend, until
from tests.policy.shared.workers import workers

HEAD = b"POST /hook HTTP/1.1\r\nhost: backend\r\ncontent-length: %d\r\n"


class Echo:
    """A backend that answers when it is told to, and counts the connections that it has open."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.open = self.most = self.held = 0

    async def play(self, peer: Peer) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while True:
                request = await peer.request()
                self.held += 1
                await asyncio.sleep(random.random() / 500)
                await self.go_on.wait()
                self.held -= 1
                await peer.answer(request.partition(b"\r\n\r\n")[2])
        finally:
            self.open -= 1


@asynccontextmanager
async def pools_to(there: Backend, most: int, count: int = 2) -> AsyncIterator[list[Pool]]:
    with workers(count) as running:
        pools, transports = [], []
        for memory in running.memories:
            breaker = SharedBreaker.attach(memory, "target u http://a")
            assert breaker is not None
            transport = Transport(TransportSettings(max_connections=most), quota=breaker.quota)
            transports.append(transport)
            pools.append(transport.pool(httpx.URL(there.url)))
        yield pools
        for transport in transports:
            await transport.aclose()


def ask(pool: Pool, body: bytes, within: float = PATIENCE) -> asyncio.Task[Answer]:
    deadline = asyncio.get_running_loop().time() + within
    options = RequestOptions(deadline, deadline, deadline, deadline)
    return asyncio.create_task(pool.exchange(HEAD % len(body), body, options))


@pytest.mark.parametrize("most", [1, 2, 3, 8, 64])
async def test_no_more_connections_are_open_than_may_be_whoever_asks(most: int) -> None:
    echo = Echo()
    async with backend(echo.play) as there, pools_to(there, most, 3) as pools:
        for burst in range(6):
            # now evenly, now all at one worker
            chosen = pools if burst % 2 else [pools[burst % 3]]
            bodies = [b"%d" % number for number in range(40)]
            asked = [ask(random.choice(chosen), body) for body in bodies]
            assert [answer.body for answer in await asyncio.gather(*asked)] == bodies
        # An aborted connection is closed at the backend a moment later.
        assert echo.most <= most + 3
        assert all(pool._quota is not None and pool._quota.others() <= most for pool in pools)
        assert [pool.queued for pool in pools] == [0, 0, 0]


async def test_one_worker_alone_may_have_all_of_them_and_another_gets_the_next() -> None:
    echo = Echo()
    async with backend(echo.play) as there, pools_to(there, 4) as (one, other):
        echo.go_on.clear()
        first = [ask(one, b"1") for _ in range(100)]
        await until(lambda: echo.held == 4 and one.queued == 96)
        second = ask(other, b"2")
        await until(lambda: other.queued == 1)
        done: list[bytes] = []
        second.add_done_callback(lambda task: done.append(b"2"))
        for task in first:
            task.add_done_callback(lambda task: done.append(b"1"))
        echo.go_on.set()
        await asyncio.gather(*first, second)
        assert b"2" in done[:50], "it does not wait until the other worker's queue is empty"


async def test_idle_connections_are_given_up_where_a_hook_waits_at_another_worker() -> None:
    echo = Echo()
    async with backend(echo.play) as there, pools_to(there, 8) as (one, other):
        await asyncio.gather(*(ask(one, b"1") for _ in range(8)))
        assert one.open_connections == 7
        assert (await ask(other, b"2")).body == b"2", "one is free at once"
        echo.go_on.clear()
        waiting = [ask(other, b"2") for _ in range(8)]
        await until(lambda: other.queued > 0)
        one.yield_idle()
        await until(lambda: echo.held == 8)
        assert one.open_connections == 0
        echo.go_on.set()
        await asyncio.gather(*waiting)


async def test_a_worker_that_is_lost_while_its_hooks_wait_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Echo()
    async with backend(echo.play) as there, pools_to(there, 4) as (one, other):
        assert other._quota is not None
        other._quota.note(0, 5)
        echo.go_on.clear()
        tasks = [ask(one, b"1") for _ in range(4)]
        await until(lambda: echo.held == 1)
        await asyncio.sleep(0.05)
        assert echo.held == 1, "the other one's turn"
        monkeypatch.setattr(Memory, "is_alive", lambda self, owner: False)
        await until(lambda: echo.held == 4)
        echo.go_on.set()
        await asyncio.gather(*tasks)


async def test_connections_that_the_backend_closes_while_idle_are_free_for_the_other_worker() -> None:
    echo = Echo()
    async with backend(echo.play) as there, pools_to(there, 8) as (one, other):
        await asyncio.gather(*(ask(one, b"1") for _ in range(8)))
        assert one.open_connections == 7
        for connection in list(one._idle):  # its promise of Keep-Alive is over
            assert connection.transport is not None
            connection.transport.abort()
        await until(lambda: one.open_connections == 0)
        assert other._quota is not None
        assert other._quota.others() == 0, "nobody asks at the first worker any more"
        echo.go_on.clear()
        waiting = [ask(other, b"2") for _ in range(8)]
        await until(lambda: echo.held == 8)
        echo.go_on.set()
        await asyncio.gather(*waiting)
