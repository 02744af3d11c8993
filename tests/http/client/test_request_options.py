"""How a request gets a connection: its place in the queue, its tenant's share, what the backend is told."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client import (
    Answer,
    AnswerTimedOut,
    Pool,
    QueueTimedOut,
    RequestOptions,
    Resolver,
    Transport,
    TransportSettings,
)
from gateway.http.client.dialer import Origin
from gateway.http.client.pool import PoolLimits
from gateway.model.verdicts import Cause
from tests.http.client.loopback import PATIENCE, Backend, Peer, backend, transport_of, until

HEAD = b"POST /hook HTTP/1.1\r\nhost: backend\r\ncontent-length: %d\r\n"


class Gate:
    """A backend that answers with the request's body once it is told to, and remembers what came."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.arrived: list[bytes] = []

    async def play(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            self.arrived.append(request)
            await self.open.wait()
            await peer.answer(request.partition(b"\r\n\r\n")[2])

    def bodies(self) -> list[bytes]:
        return [request.partition(b"\r\n\r\n")[2] for request in self.arrived]


def pool_to(there: Backend, transport: Transport) -> Pool:
    return transport.pool(httpx.URL(there.url))


def options(
    within: float = PATIENCE,
    *,
    usual: float = 0.0,
    tenant: str = "",
    read: float | None = None,
    timeout_header: bytes = b"",
) -> RequestOptions:
    """A hook's, which have one deadline for everything."""
    deadline = asyncio.get_running_loop().time() + within
    return RequestOptions(deadline, deadline, deadline, deadline, usual, tenant, read, timeout_header)


def ask(pool: Pool, body: bytes, on: RequestOptions) -> asyncio.Task[Answer]:
    return asyncio.create_task(pool.exchange(HEAD % len(body), body, on))


# --- what is written ---


async def test_a_request_is_written_as_it_was_handed_over_with_the_end_of_its_head() -> None:
    gate = Gate()
    gate.open.set()
    async with backend(gate.play) as there, transport_of() as transport:
        answer = await pool_to(there, transport).exchange(HEAD % 7, b'{"a":1}', options())
        assert gate.arrived == [HEAD % 7 + b'\r\n{"a":1}']
        assert answer == Answer(200, ((b"Content-Length", b"7"),), b'{"a":1}')


def told(request: bytes) -> int:
    found = re.findall(rb"\r\nx-left: ([0-9]+)\r\n", request)
    assert len(found) == 1
    return int(found[0])


async def test_the_backend_is_told_the_milliseconds_left_when_its_turn_has_come() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        pool, on = pool_to(there, transport), options(timeout_header=b"x-left")
        first = ask(pool, b"1", on)
        await until(lambda: len(gate.arrived) == 1)
        second = ask(pool, b"2", on)
        await until(lambda: pool.queued == 1)
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(first, second)
        assert PATIENCE * 1000 >= told(gate.arrived[0]) > told(gate.arrived[1]), "the time in the queue is gone"


async def test_an_answer_has_the_seconds_that_its_request_queued_and_no_others() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        pool = pool_to(there, transport)
        first = ask(pool, b"1", options())
        await until(lambda: len(gate.arrived) == 1)
        second = ask(pool, b"2", options())
        await until(lambda: pool.queued == 1)
        await asyncio.sleep(0.05)
        gate.open.set()
        assert (await first).queued == 0.0
        assert (await second).queued > 0.0
        assert (await second).body == b"2"


async def test_the_time_for_an_answer_alone_ends_it_before_the_budget_does() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of() as transport:
        with pytest.raises(AnswerTimedOut) as caught:
            await pool_to(there, transport).exchange(HEAD % 0, b"", options(3600, read=0.05))
        assert caught.value.failure.cause is Cause.TIMEOUT
        assert transport.open_connections == 0


# --- who need not queue ---


async def test_who_could_not_be_answered_in_time_does_not_even_queue() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        pool = pool_to(there, transport)
        first = ask(pool, b"1", options())
        await until(lambda: len(gate.arrived) == 1)
        with pytest.raises(QueueTimedOut, match="queue too long") as caught:
            await pool.exchange(HEAD % 1, b"2", options(PATIENCE, usual=PATIENCE))
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.OVERLOAD, True)
        gate.open.set()
        assert (await first).body == b"1"
        assert gate.bodies() == [b"1"]


async def test_those_who_stand_before_one_in_the_queue_count() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        pool = pool_to(there, transport)
        tasks = [ask(pool, b"%d" % number, options(3600, usual=1000.0)) for number in range(3)]
        await until(lambda: len(gate.arrived) == 1 and pool.queued == 2)
        # Its own usual time and those of three turns would fit into 4000 seconds, and not into these.
        with pytest.raises(QueueTimedOut, match="queue too long"):
            await pool.exchange(HEAD % 1, b"3", options(3900, usual=1000.0))
        tasks.append(ask(pool, b"4", options(4100, usual=1000.0)))
        await until(lambda: pool.queued == 3)
        gate.open.set()
        assert [answer.body for answer in await asyncio.gather(*tasks)] == [b"0", b"1", b"2", b"4"]


async def test_who_has_less_left_than_an_answer_takes_leaves_the_queue_before_the_budget_is_over() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=64) as transport:
        pool = pool_to(there, transport)
        tasks = [ask(pool, b"1", options(3600)) for _ in range(64)]
        await until(lambda: len(gate.arrived) == 64)
        with pytest.raises(QueueTimedOut, match="stayed busy"):
            await asyncio.wait_for(pool.exchange(HEAD % 1, b"2", options(100, usual=98.0)), 50)
        assert pool.queued == 0
        gate.open.set()
        assert len(await asyncio.gather(*tasks)) == 64


async def test_an_idle_connection_is_used_however_long_answers_take() -> None:
    gate = Gate()
    gate.open.set()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        pool = pool_to(there, transport)
        for body in (b"1", b"2"):
            assert (await pool.exchange(HEAD % 1, body, options(PATIENCE, usual=3600.0))).body == body


# --- tenants ---


async def test_one_tenant_whose_hooks_hang_leaves_room_for_the_next() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of() as transport:
        transport.configure(TransportSettings(max_connections=6, shared=True))
        pool = pool_to(there, transport)
        hanging = [ask(pool, b"a", options(tenant="a")) for _ in range(10)]
        await until(lambda: len(gate.arrived) == 4 and pool.queued == 6)
        other = ask(pool, b"b", options(tenant="b"))
        await until(lambda: gate.bodies() == [b"a"] * 4 + [b"b"])
        gate.open.set()
        assert [answer.body for answer in await asyncio.gather(other, *hanging)] == [b"b"] + [b"a"] * 10
        assert not pool._busy
        assert not pool._in_use


async def test_where_nobody_shares_it_one_may_have_every_connection() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=6) as transport:
        pool = pool_to(there, transport)
        tasks = [ask(pool, b"a", options(tenant="a")) for _ in range(10)]
        await until(lambda: len(gate.arrived) == 6 and pool.queued == 4)
        gate.open.set()
        assert len(await asyncio.gather(*tasks)) == 10


async def test_one_in_the_queue_is_not_held_up_by_another_tenants_who_came_before() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of() as transport:
        transport.configure(TransportSettings(max_connections=3, shared=True))
        pool = pool_to(there, transport)
        tasks = [ask(pool, name.encode(), options(tenant=name)) for name in ("a", "b", "c")]
        await until(lambda: len(gate.arrived) == 3)
        tasks.append(ask(pool, b"a", options(tenant="a")))
        await until(lambda: pool.queued == 1)
        tasks.append(ask(pool, b"d", options(tenant="d")))
        await until(lambda: pool.queued == 2)
        tasks[1].cancel()  # b's place is free: the last one, which a may not have while it holds another
        await until(lambda: gate.bodies()[3:] == [b"d"])
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, Answer) for one in done] == [True, False, True, True, True]


async def test_a_long_queue_of_one_tenant_s_does_not_turn_another_away() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of() as transport:
        transport.configure(TransportSettings(max_connections=2, shared=True))
        pool = pool_to(there, transport)
        tasks = [ask(pool, name.encode(), options(tenant=name)) for name in ("a", "b")]
        await until(lambda: len(gate.arrived) == 2)
        tasks += [ask(pool, b"a", options(tenant="a")) for _ in range(100)]
        await until(lambda: pool.queued == 100)
        # A hundred waiting at 2 s each are more than a minute; but the next place is not theirs.
        tasks.append(ask(pool, b"c", options(tenant="c", usual=2.0)))
        await until(lambda: pool.queued == 101)
        with pytest.raises(QueueTimedOut, match="queue too long"):
            await pool.exchange(HEAD % 1, b"a", options(tenant="a", usual=2.0))
        tasks[1].cancel()
        await until(lambda: gate.bodies()[2:] == [b"c"])
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in done if not isinstance(one, Answer)] == [asyncio.CancelledError]


@given(most=st.integers(2, 64), tenants=st.lists(st.sampled_from("abcde"), max_size=200))
async def test_whatever_tenants_hang_there_is_a_place_for_one_who_has_none(most: int, tenants: list[str]) -> None:
    pool = Pool(Origin("http", "127.0.0.1", 1), PoolLimits(60.0, most, 1000, shared=True), Resolver())
    held: dict[str, int] = {}
    for tenant in tenants:
        free = most - sum(held.values())
        assert pool._has_room("newcomer") is (free > 0)
        if pool._has_room(tenant):
            pool._begin_exchange(tenant)
            held[tenant] = held.get(tenant, 0) + 1
            assert held[tenant] == 1 or held[tenant] <= 2 * (free - 1), "no more than twice what is left"
        else:
            assert not free or held[tenant] + 1 > 2 * (free - 1)
    for tenant, count in held.items():
        for _ in range(count):
            pool._end_exchange(tenant)
    assert (pool._busy, pool._in_use) == (0, {})
