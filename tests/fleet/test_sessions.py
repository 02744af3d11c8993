"""Sessions in the shared state: what one process writes, another finds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.encoding import MAX_SESSION, FoundSession, session_digest
from gateway.fleet.link import Link
from gateway.fleet.sessions import KEEP, FleetSessions
from gateway.policy.rest_client_config import MethodSettings
from tests.support.redis import RedisServer, redis_server

SET = {"call": MethodSettings(fails=True, exclude=("caller",))}
FOUND = FoundSession(frozenset({"call"}), SET)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


@contextlib.asynccontextmanager
async def sessions(redis: RedisServer, prefix: str = "wcs:") -> AsyncIterator[FleetSessions]:
    link = Link(StateConfig(url=parse_state_url(redis.url), prefix=prefix), "test")
    up = asyncio.Event()
    link.on_up.append(up.set)
    await link.start()
    try:
        async with asyncio.timeout(5):
            await up.wait()
        yield FleetSessions(link)
    finally:
        await link.aclose()


def key(session: str) -> str:
    return f"wcs:session:{session_digest(session).hex()}"


async def test_what_one_process_writes_another_finds_for_a_day(redis: RedisServer) -> None:
    async with sessions(redis) as one, sessions(redis) as two, sessions(redis, "other:") as stranger:
        one.write("n s", FOUND.failing, SET)
        assert await one.find("n s") == FOUND  # the command before it is done
        assert await two.find("n s") == FOUND
        assert await two.find("n t") is None
        assert await stranger.find("n s") is None
        assert 0 < redis.command("TTL", key("n s")) <= KEEP


async def test_a_new_connect_replaces_what_was_known_also_where_it_says_too_much_to_be_stored(
    redis: RedisServer,
) -> None:
    async with sessions(redis) as one:
        one.write("n s", FOUND.failing, SET)
        one.write("n s", frozenset(), {})
        assert await one.find("n s") == FoundSession(frozenset(), {})
        one.write("n s", frozenset(), {"call": MethodSettings(exclude=("x" * MAX_SESSION,))})
        assert await one.find("n s") is None
        assert redis.command("EXISTS", key("n s")) == 0


async def test_neither_the_session_s_id_nor_anything_of_a_head_is_in_the_state(redis: RedisServer) -> None:
    async with sessions(redis) as one:
        one.write("node 192.0.2.1:5060/secret", FOUND.failing, SET)
        await one.find("")
        stored = [name.encode() + redis.command("GET", name) for name in redis.keys()]  # noqa: SIM118
        assert len(stored) >= 1
        assert not any(b"192.0.2.1" in each or b"secret" in each for each in stored)


@pytest.mark.parametrize("value", [b"", b"\x01damaged", b"\x02of another version"])
async def test_what_cannot_be_read_is_unknown(redis: RedisServer, value: bytes) -> None:
    async with sessions(redis) as one:
        redis.command("SET", key("s"), value)
        assert await one.find("s") is None
        redis.command("DEL", key("s"))
        redis.command("LPUSH", key("s"), value)
        assert await one.find("s") is None


async def test_while_the_server_hangs_or_is_away_every_session_is_unknown() -> None:
    with redis_server() as server:
        async with sessions(server) as one:
            one.write("s", FOUND.failing, SET)
            assert await one.find("s") == FOUND
            server.pause()
            assert await one.find("s") is None
            server.kill()
            async with asyncio.timeout(5):
                while one._link.up:
                    await asyncio.sleep(0.01)
            one.write("s", FOUND.failing, SET)
            assert await one.find("s") is None
