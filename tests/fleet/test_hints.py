"""A target that fails at one gateway is named to the others, and to nobody else."""

from __future__ import annotations

from tests.support.redis import RedisServer

from .links import until
from .replicas import running

URL = "http://192.0.2.1:8080/rest"


async def test_the_others_hear_of_a_target_that_fails_here(server: RedisServer) -> None:
    async with running("a", server.url) as a, running("b", server.url) as b, running("c", server.url) as c:
        await until(lambda: server.command("PUBSUB", "NUMSUB", "wcs:hints")[1] == 3 and a.link.up)
        a.hints.give("php", URL)
        await until(lambda: b.local.hints == c.local.hints == [("php", URL)])
        assert a.local.hints == []


async def test_noise_and_hints_of_a_later_version_do_no_harm(server: RedisServer) -> None:
    async with running("a", server.url) as a:
        await until(lambda: server.command("PUBSUB", "NUMSUB", "wcs:hints")[1] == 1)
        for noise in ("", "x", "[]", '{"by":1}', '{"by":"z","upstream":"php"}'):
            server.command("PUBLISH", "wcs:hints", noise)
        server.command("PUBLISH", "wcs:hints", '{"by":"z","upstream":"php","url":"u","why":"?"}')
        await until(lambda: a.local.hints == [("php", "u")])


async def test_only_so_many_hints_are_given_in_one_second(server: RedisServer) -> None:
    async with running("a", server.url) as a, running("b", server.url) as b:
        await until(lambda: server.command("PUBSUB", "NUMSUB", "wcs:hints")[1] == 2 and a.link.up)
        for number in range(500):
            a.hints.give("php", f"http://192.0.2.1:{number}")
        await until(lambda: len(b.local.hints) >= 100)
        await a.link.call("PING")
        assert len(b.local.hints) <= 200  # two seconds may have begun


async def test_without_the_server_a_hint_is_dropped_and_nothing_waits(server: RedisServer) -> None:
    async with running("a", "redis://127.0.0.1:1/0") as a:
        a.hints.give("php", URL)
        assert a.link.dropped == 1
