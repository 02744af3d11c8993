"""An operator's orders reach every gateway of the fleet, by a real server that is lost, emptied and cut off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from gateway.fleet.orders import Orders
from gateway.policy.orders import KEEP_ENDED, Order, SpoolOrder, TargetOrder, read_order, write_order, write_subject
from tests.support.redis import RedisServer
from tests.support.slow_relay import SlowRelay

from .links import until
from .replicas import Gateway, running

URL = "http://192.0.2.1:8080/rest"
TARGET = TargetOrder("php", URL)
KEY = write_subject(TARGET)
EJECTED = {("php", URL)}


@contextlib.asynccontextmanager
async def fleet(server: RedisServer, *names: str) -> AsyncIterator[list[Gateway]]:
    async with contextlib.AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(running(name, server.url)) for name in names]
        for gateway in gateways:
            assert await gateway.orders.wait_until_settled(10)
            await until(lambda gateway=gateway: gateway.link.up)  # type: ignore[misc]
        yield gateways


def held(server: RedisServer) -> dict[str, Order | None]:
    fields = server.command("HGETALL", "wcs:orders")
    return {key.decode(): read_order(value) for key, value in zip(fields[::2], fields[1::2], strict=True)}


async def eject(gateway: Gateway, *, on: bool = True) -> str | None:
    """As the admin port does: carry it out here, then tell the others."""
    await gateway.local.set_ejected("php", URL, on, "operator")
    return await gateway.orders.give(TARGET, on=on)


async def test_an_order_given_at_one_is_obeyed_by_all_with_the_name_of_where_it_was_given(server: RedisServer) -> None:
    async with fleet(server, "a", "b", "c") as (a, b, c):
        assert await eject(a) is None
        await until(lambda: b.local.ejected == c.local.ejected == EJECTED)
        assert b.local.told == [(URL, True, "a")]
        assert await eject(c, on=False) is None
        await until(lambda: not a.local.ejected and not b.local.ejected)
        assert await a.orders.give(SpoolOrder(None, "shop"), on=True) is None
        await until(lambda: b.local.paused == c.local.paused == {(None, "shop")})


async def test_a_gateway_that_starts_later_obeys_before_it_is_settled(server: RedisServer) -> None:
    async with fleet(server, "a") as (a,):
        await eject(a)
        await a.orders.give(SpoolOrder("php", None), on=True)
    async with running("later", server.url) as later:
        assert await later.orders.wait_until_settled(10)
        assert later.local.ejected == EJECTED
        assert later.local.paused == {("php", None)}


async def test_an_order_that_was_not_heard_is_read_with_a_heartbeat(server: RedisServer) -> None:
    async with fleet(server, "a", "b") as (a, b):
        server.command("CLIENT", "PAUSE", "1", "WRITE")
        order = Order(int(time.time() * 1000), "c", True)  # by a gateway whose publication was lost
        server.command("HSET", "wcs:orders", KEY, write_order(order))
        server.command("SET", "wcs:orders:stamp", "another")
        await until(lambda: a.local.ejected == b.local.ejected == EJECTED)


async def test_orders_return_to_a_server_that_was_emptied(server: RedisServer) -> None:
    async with fleet(server, "a", "b") as (a, b):
        await eject(a)
        await until(lambda: b.local.ejected == EJECTED)
        server.command("FLUSHALL")
        await until(lambda: held(server).get(KEY) == a.orders.book.orders[KEY])
        assert a.local.ejected == b.local.ejected == EJECTED
        async with running("later", server.url) as later:
            await until(lambda: later.local.ejected == EJECTED)


async def test_a_server_that_has_gone_back_in_time_is_told_what_it_has_forgotten(server: RedisServer) -> None:
    async with fleet(server, "a", "b") as (a, b):
        await eject(a)
        await until(lambda: b.local.ejected == EJECTED)
        before = write_order(a.orders.book.orders[KEY])
        await eject(b, on=False)
        await until(lambda: not a.local.ejected)
        server.command("HSET", "wcs:orders", KEY, before)  # as after a failover to a replica that was behind
        server.command("SET", "wcs:orders:stamp", "older")
        await until(lambda: held(server)[KEY] == b.orders.book.orders[KEY])
        assert not a.local.ejected
        assert not b.local.ejected


async def test_an_order_given_while_the_server_is_away_holds_here_and_is_written_later(server: RedisServer) -> None:
    with SlowRelay(server.port) as relay:
        async with fleet(server, "far") as (far,), running("cut", f"redis://127.0.0.1:{relay.port}/0") as near:
            assert await near.orders.wait_until_settled(10)
            relay.cut()
            await until(lambda: not near.link.up)
            assert await eject(near) == "the state's server is away"
            assert near.local.ejected == EJECTED
            assert not far.local.ejected
            relay.restore()
            await until(lambda: far.local.ejected == EJECTED)


async def test_of_two_orders_that_contradict_each_other_the_later_one_holds_after_the_partition(
    server: RedisServer,
) -> None:
    with SlowRelay(server.port) as one, SlowRelay(server.port) as two:
        urls = [f"redis://127.0.0.1:{relay.port}/0" for relay in (one, two)]
        async with running("a", urls[0]) as a, running("b", urls[1]) as b:
            for gateway in (a, b):
                assert await gateway.orders.wait_until_settled(10)
            for relay in (one, two):
                relay.cut()
            await until(lambda: not a.link.up and not b.link.up)
            await eject(a, on=False)
            await eject(b)
            for relay in (one, two):
                relay.restore()
            await until(lambda: a.orders.book.orders == b.orders.book.orders == held(server))
            later = max((a.orders.book, b.orders.book), key=lambda book: book.orders[KEY].at).orders[KEY]
            assert later.by == "b"
            await until(lambda: a.local.ejected == b.local.ejected == EJECTED)


async def test_an_operator_who_knows_an_order_ends_it_even_by_a_clock_that_is_slow(server: RedisServer) -> None:
    async with fleet(server, "a", "b") as (a, b):
        fast = Orders(a.link, a.membership, a.local, lambda: time.time() + 600)
        assert await fast.give(TARGET, on=True) is None
        await until(lambda: b.local.ejected == EJECTED)
        assert await eject(b, on=False) is None
        await until(lambda: held(server)[KEY] == b.orders.book.orders[KEY])
        await until(lambda: not a.local.ejected)
        assert not b.local.ejected


async def test_what_cannot_be_carried_out_is_tried_again(server: RedisServer) -> None:
    async with fleet(server, "a", "b") as (a, b):
        b.local.fails = True
        await eject(a)
        await until(lambda: KEY in b.orders.book.orders)
        assert not b.local.ejected
        b.local.fails = False
        await until(lambda: b.local.ejected == EJECTED)


async def test_a_thousand_orders_at_once_from_everywhere_are_the_same_in_the_end(server: RedisServer) -> None:
    async with fleet(server, "a", "b", "c") as gateways:
        for number in range(300):
            subject = SpoolOrder("php", f"app {number % 20}")
            await gateways[number % 3].orders.give(subject, on=number % 7 < 4)
        first = gateways[0].orders.book
        await until(lambda: all(gateway.orders.book.orders == first.orders for gateway in gateways))
        assert held(server) == first.orders
        paused = {("php", f"app {number}") for number in range(20)}
        paused = {each for each in paused if first.orders[write_subject(SpoolOrder(*each))].on}
        await until(lambda: all(gateway.local.paused == paused for gateway in gateways))


async def test_an_order_of_a_later_version_is_kept_and_not_touched(server: RedisServer) -> None:
    server.command("HSET", "wcs:orders", '["mute","php","x"]', '{"at":1,"by":"z","on":true,"why":"?"}')
    server.command("HSET", "wcs:orders", "nonsense", "nonsense")
    server.command("SET", "wcs:orders:stamp", "1")
    async with fleet(server, "a", "b") as (a, b):
        await eject(a)
        await until(lambda: b.local.ejected == EJECTED)
    assert server.command("HGET", "wcs:orders", '["mute","php","x"]') == b'{"at":1,"by":"z","on":true,"why":"?"}'
    assert server.command("HGET", "wcs:orders", "nonsense") == b"nonsense"


async def test_an_order_that_ended_long_ago_is_forgotten_everywhere(server: RedisServer) -> None:
    old = Order(int((time.time() - KEEP_ENDED - 60) * 1000), "z", False)
    server.command("HSET", "wcs:orders", KEY, write_order(old))
    server.command("SET", "wcs:orders:stamp", "1")
    async with fleet(server, "a") as (a,):
        a.orders.book.merge(KEY, old)
        await until(lambda: KEY not in held(server) and KEY not in a.orders.book.orders)
        assert a.local.told == []
