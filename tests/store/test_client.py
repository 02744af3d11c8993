"""The store's client: confirmed or refused, never in doubt for longer than the deadline, and back by itself."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from gateway.store import client as client_module
from gateway.store.client import BEHIND, LATE, LOST, NOT_CONNECTED, StoreClient
from gateway.store.messages import Backlogs, Settle
from gateway.store.requests import SpoolReport, SpoolStatus, StoreReport, StoreUnavailable
from tests.store.serving import Serving, event, serving, settings, until


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def connected(running: Serving, role: str = "worker") -> StoreClient:
    client = running.client(role)
    client.start()
    await until(lambda: client.up)
    return client


async def test_an_event_is_kept_once_it_is_committed() -> None:
    async with serving() as running:
        await running.start()
        running.spool.confirms = False
        async with await connected(running) as client:
            keeping = asyncio.create_task(client.keep(event(b"one"), soon()))
            await until(lambda: running.spool.waiting)
            assert not keeping.done()
            running.spool.commit()
            assert await keeping is None
            assert [each.body for each in running.spool.events.values()] == [b"one"]


async def test_an_event_that_cannot_be_kept_is_refused_at_once_with_the_reason() -> None:
    async with serving() as running:
        await running.start()
        async with await connected(running) as client:
            running.spool.is_up = False
            assert await client.keep(event(), soon()) == "the disk is full"


async def test_nobody_waits_where_there_is_no_store() -> None:
    async with serving() as running, running.client() as client:
        assert await client.keep(event(), soon(3600)) == NOT_CONNECTED
        assert not client.send_decisions([b"x"])
        assert not client.send_shadow("r", 1.0, b"x")
        assert await client.take("php", 1) == ()
        with pytest.raises(StoreUnavailable, match=NOT_CONNECTED):
            await client.ask(SpoolStatus())
        assert not client.up


async def test_a_socket_that_nobody_accepts_from_is_no_store() -> None:
    """The main process holds it while the store's process is replaced."""
    async with serving() as running, running.client() as client:
        await until(lambda: client._connection is not None)
        assert await client.keep(event(), soon(3600)) == NOT_CONNECTED
        await running.start()
        await until(lambda: client.up)
        assert await client.keep(event(), soon()) is None


async def test_while_the_gateway_starts_an_event_waits_for_the_store() -> None:
    async with serving(known=False) as running, running.client() as client:
        assert client.has_backlog(b"k" * 16)
        keeping = asyncio.create_task(client.keep(event(), soon()))
        await asyncio.sleep(0.05)
        assert not keeping.done()
        await running.start()
        assert await keeping is None


async def test_a_gateway_that_starts_waits_for_its_store_before_it_takes_hooks() -> None:
    async with serving(known=False) as running, running.client() as client:
        waiting = asyncio.create_task(client.wait_for_start())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await running.start()
        await waiting
        assert not client.has_backlog(b"k" * 16), "what waits is known"


async def test_while_the_gateway_starts_an_event_waits_no_longer_than_its_deadline() -> None:
    async with serving(known=False) as running, running.client() as client:
        assert await client.keep(event(), soon(0.05)) == NOT_CONNECTED


async def test_an_event_that_is_not_confirmed_in_time_may_be_committed_later() -> None:
    async with serving() as running:
        await running.start()
        running.spool.confirms = False
        async with await connected(running) as client:
            assert await client.keep(event(b"late"), soon(0.05)) == LATE
            running.spool.commit()
            assert [each.body for each in running.spool.events.values()] == [b"late"]
            running.spool.confirms = True
            assert await client.keep(event(), soon()) is None, "the late confirmation is nobody else's"


async def test_when_the_connection_ends_what_is_not_confirmed_is_not() -> None:
    async with serving() as running:
        await running.start()
        running.spool.confirms = False
        async with await connected(running) as client:
            keeping = asyncio.create_task(client.keep(event(), soon()))
            await until(lambda: running.spool.waiting)
            await running.stop()
            assert await keeping == LOST
            assert not client.up


async def test_it_connects_again_by_itself() -> None:
    states: list[bool] = []
    async with serving() as running:
        await running.start()
        client = running.client()
        client.on_state = states.append
        async with client:
            for _ in range(3):
                await until(lambda: client.up)
                await running.stop()
                await until(lambda: not client.up)
                await running.start()
            await until(lambda: client.up)
            assert await client.keep(event(), soon()) is None
        assert states == [True, False] * 4


async def test_a_store_that_does_not_keep_up_is_sent_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HISTORY_BUFFER", 100_000)
    monkeypatch.setattr(client_module, "EVENT_BUFFER", 300_000)
    async with serving() as running:
        await running.start()
        async with await connected(running) as client:
            assert client.send_decisions([b"x" * 200_000])
            assert not client.send_decisions([b"y"]), "one turn of the loop has sent nothing yet"
            sizes = (400_000, 9, 9)
            kept = await asyncio.gather(*(client.keep(event(b"z" * size), soon()) for size in sizes))
            assert kept == [None, BEHIND, BEHIND]
            await until(lambda: running.history.decisions == [b"x" * 200_000])
            assert client.send_decisions([b"again", b"and again"])
            assert client.send_shadow("r", 2.5, b"same")
            await until(lambda: running.history.shadows == [("r", 2.5, b"same")])
            assert running.history.decisions[1:] == [b"again", b"and again"]


async def test_what_was_taken_and_settled_is_known_after_each_reconnection_until_it_is_committed() -> None:
    async with serving() as running:
        await running.start()
        async with await connected(running) as client:
            for body in (b"one", b"two"):
                await client.keep(event(body), soon())
            one, two = await client.take("php", 10)
            assert [one.event.body, two.event.body] == [b"one", b"two"]
            running.spool.confirms = False
            client.settle(Settle(one.id, "delivered"))
            await until(lambda: running.spool.waiting)
            running.spool.waiting.clear()  # the store's process dies with the outcome uncommitted
            await running.stop()
            await until(lambda: not client.up)
            running.spool.confirms = True
            await running.start()
            await until(lambda: running.spool.outcomes)
            assert running.spool.outcomes == [Settle(one.id, "delivered")]
            assert await client.take("php", 10) == (), "the other one is still in its hands"
            client.settle(Settle(two.id, "failed", 5.0, "500"))
            await until(lambda: len(running.spool.outcomes) == 2)
            await until(lambda: "0 held, 0 unconfirmed" in repr(client))
            assert [each.id for each in await client.take("php", 10)] == [two.id]


async def test_what_comes_for_one_that_has_given_up_is_given_back() -> None:
    async with serving() as running:
        await running.start()
        async with await connected(running) as client:
            await client.keep(event(), soon())
            taking = asyncio.create_task(client.take("php", 10))
            await asyncio.sleep(0)
            taking.cancel()
            await until(lambda: running.spool.outcomes)
            assert running.spool.outcomes == [Settle(1, "released")]
            assert len(await client.take("php", 10)) == 1


async def test_the_duty_ends_with_the_connection_and_comes_with_the_next() -> None:
    duties: list[bool] = []
    backlogs: list[Backlogs] = []
    async with serving() as running:
        client = running.client()
        client.on_duty, client.on_backlogs = duties.append, backlogs.append
        async with client:
            await running.start()
            await until(lambda: duties == [True])
            await client.keep(event(b"12345"), soon())
            await until(lambda: backlogs and backlogs[-1].upstreams[0].bytes == 5)
            await running.stop()
            await until(lambda: duties == [True, False])
            await running.start()
            await until(lambda: duties == [True, False, True])


async def test_operators_get_answers_and_reasons() -> None:
    async with serving() as running:
        await running.start()
        async with await connected(running, "admin") as client:
            assert await client.ask(SpoolStatus()) == SpoolReport([], [], 4711)
            running.spool.is_up = False
            with pytest.raises(StoreUnavailable, match="the disk is full"):
                await client.ask(SpoolStatus())
            with pytest.raises(StoreUnavailable, match="within 0 s"):
                await client.ask(StoreReport(), timeout=0)


async def test_an_operator_s_question_ends_with_the_connection() -> None:
    async with serving() as running, running.client("admin") as client:
        await running.start()
        await until(lambda: client.up)
        asking = asyncio.create_task(client.ask(SpoolStatus()))
        await asyncio.sleep(0)
        assert client._connection is not None
        client._connection.abort()
        with pytest.raises(StoreUnavailable):
            await asking


async def test_the_configuration_comes_first_on_each_connection() -> None:
    config = settings()
    async with serving() as running, running.client("admin") as client:
        client.configure(pickle.dumps(config))
        await running.start()
        await until(lambda: running.configs == [config])
        other = settings(apps=frozenset())
        client.configure(pickle.dumps(other))
        await until(lambda: running.configs == [config, other])
        await running.stop()
        await running.start()
        await until(lambda: running.configs == [config, other, other])


async def test_the_last_words_are_sent_before_the_end() -> None:
    async with serving() as running:
        await running.start()
        client = await connected(running)
        for number in range(1000):
            client.send_decisions([b"%d" % number])
        await client.aclose()
        await running.stop(limit=10)
        assert running.history.decisions == [b"%d" % number for number in range(1000)]
