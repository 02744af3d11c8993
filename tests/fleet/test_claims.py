"""Claims between processes, each with its own link to a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.claim_script import DECIDED, MINE, TAKEN
from gateway.fleet.claims import (
    HEARTBEAT_TTL,
    LOOK_EVERY,
    ClaimOwnerLost,
    FleetClaims,
    HookClaim,
    SharedVerdict,
    read_message,
    read_reply,
)
from gateway.fleet.encoding import encode_verdict, hook_digest
from gateway.fleet.link import Link
from gateway.model.verdicts import Ruling, backend_allow, backend_reject
from tests.support.redis import PASSWORD, USER, RedisServer, acl_options, redis_server

BODY = b'{"appKey": "a"}'
METHOD = "OnCallEvent"
DIGEST = hook_digest(METHOD, BODY)
SOON = 5.0
"""Seconds for what takes a moment."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


@contextlib.asynccontextmanager
async def claims(
    redis: RedisServer, timeout: float = 1.0, *, url: str = "", login: Sequence[str] = ()
) -> AsyncIterator[FleetClaims]:
    """A process of its own, as far as the server can tell; its timeout is long, for the machine may be busy."""
    link = Link(StateConfig(url=parse_state_url(url or redis.url)), "test")
    process = FleetClaims(link, timeout)
    await link.start()
    try:
        await until(lambda: link.up and bool(redis.command("PUBSUB", "NUMSUB", process.channel, login=login)[1]))
        yield process
    finally:
        process.close()
        await link.aclose()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


async def take(process: FleetClaims, body: bytes = BODY, seconds: float = SOON) -> HookClaim | SharedVerdict:
    return await process.take(METHOD, body, asyncio.get_running_loop().time() + seconds)


async def claim(process: FleetClaims, body: bytes = BODY, seconds: float = SOON) -> HookClaim:
    found = await take(process, body, seconds)
    assert isinstance(found, HookClaim)
    return found


async def waiting(process: FleetClaims, redis: RedisServer, seconds: float = SOON) -> asyncio.Task[Any]:
    """A hook that waits for another process's verdict."""
    before = waiters(redis)
    task = asyncio.create_task(take(process, seconds=seconds))
    await until(lambda: waiters(redis) > before)
    return task


def is_kept(found: HookClaim | SharedVerdict, ruling: Ruling) -> bool:
    """Whether it is this verdict, to be kept for a minute, or what a look some moments later says is left of it."""
    return isinstance(found, SharedVerdict) and found.ruling == ruling and 60.0 - SOON < found.keep <= 60.0


def waiters(redis: RedisServer) -> int:
    keys = [key for key in redis.keys() if key.startswith("wcs:claim:")]  # noqa: SIM118
    return sum(name.startswith(b"w:") for key in keys for name in redis.command("HKEYS", key))


@pytest.mark.parametrize("ruling", [backend_allow(BODY), backend_allow(b'{"callee": "2"}'), backend_reject()], ids=str)
async def test_one_process_has_the_hook_and_all_others_get_its_verdict(redis: RedisServer, ruling: Ruling) -> None:
    async with claims(redis) as one, claims(redis) as two, claims(redis) as three:
        mine = await claim(one)
        others = [await waiting(two, redis), await waiting(three, redis)]
        one.finish(mine, BODY, ruling, 60.0)
        for found in await asyncio.gather(*others):
            assert is_kept(found, ruling)
        later = await take(two)
        assert isinstance(later, SharedVerdict)
        assert later.ruling == ruling
        assert 0 < later.keep <= 60.0
        assert isinstance(await take(two, BODY + b" "), HookClaim)


async def test_a_verdict_that_is_not_kept_is_for_those_who_waited(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two, claims(redis) as three:
        mine = await claim(one)
        waits = await waiting(two, redis)
        one.finish(mine, BODY, backend_reject(), None)
        assert await waits == SharedVerdict(backend_reject(), 0.0)
        assert isinstance(await take(three), HookClaim)


async def test_a_verdict_that_was_published_while_nobody_heard_is_found_at_the_next_look(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two:
        mine = await claim(one)
        waits = await waiting(two, redis)
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        one.finish(mine, BODY, backend_reject(), None)
        assert await waits == SharedVerdict(backend_reject(), 0.0)


async def test_those_who_wait_are_told_of_an_end_without_a_verdict_and_the_next_one_asks(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two:
        mine = await claim(one)
        waits = await waiting(two, redis)
        one.drop(mine)
        with pytest.raises(ClaimOwnerLost):
            await waits
        assert isinstance(await take(two), HookClaim)


async def test_a_verdict_that_is_too_large_makes_one_of_those_who_wait_ask(redis: RedisServer) -> None:
    large = backend_allow(b'{"a": "%b"}' % (b"x" * 70_000))
    async with claims(redis) as one, claims(redis) as two, claims(redis) as three:
        mine = await claim(one)
        others = {await waiting(two, redis), await waiting(three, redis)}
        one.finish(mine, BODY, large, 60.0)
        (first,), rest = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(first.result(), HookClaim)
        await until(lambda: waiters(redis) == 1)
        second = two if three._process in first.result().token else three
        assert repr(second).endswith("1 followed>")
        for task in rest:
            task.cancel()


async def test_the_claim_of_a_process_that_died_is_taken_over_by_one_and_the_others_wait_for_that(
    redis: RedisServer,
) -> None:
    async with claims(redis) as two, claims(redis) as three:
        async with claims(redis) as one:
            await claim(one, seconds=60.0)
            others = {await waiting(two, redis), await waiting(three, redis)}
        # Its heartbeat has ended; the claim is still there.
        done, rest = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=SOON)
        (first,), (last,) = done, rest
        mine = first.result()
        assert isinstance(mine, HookClaim)
        owner = two if two._process in mine.token else three
        owner.finish(mine, BODY, backend_reject(), 60.0)
        assert is_kept(await last, backend_reject())


async def test_a_process_that_was_killed_is_known_to_be_gone_before_its_heartbeat_ends(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two:
        await claim(one, seconds=60.0)
        waits = await waiting(two, redis, 60.0)
        await one._link._subscriber.aclose()  # as the kernel closes it
        assert isinstance(await asyncio.wait_for(waits, SOON), HookClaim)
        assert sum(key.startswith("wcs:alive:") for key in redis.keys()) >= 2  # noqa: SIM118


async def test_a_heartbeat_ends_by_itself(redis: RedisServer) -> None:
    def heartbeats() -> list[str]:
        return [key for key in redis.keys() if key.startswith("wcs:alive:")]  # noqa: SIM118

    async with claims(redis):
        await until(lambda: len(heartbeats()) == 1)
        (heartbeat,) = heartbeats()
        assert 0 < redis.command("PTTL", heartbeat) <= HEARTBEAT_TTL
    assert not redis.keys() - {"wcs:probe"}


async def test_an_owner_that_was_away_publishes_all_the_same_and_nobody_waits_for_one_that_could_not(
    redis: RedisServer,
) -> None:
    async with claims(redis) as one, claims(redis) as two:
        first, second = await claim(one), await claim(one, b"{}")
        epoch = one._epoch
        redis.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not one._link.up)
        one.finish(first, BODY, backend_reject(), 60.0)
        await until(lambda: one._epoch > epoch + 1 and two._link.up)
        assert isinstance(await take(two), HookClaim)  # the owner's old heartbeat has ended, or is about to
        one.finish(second, b"{}", backend_reject(), 60.0)
        key = f"wcs:claim:{hook_digest(METHOD, b'{}').hex()}"
        await until(lambda: redis.command("HEXISTS", key, "v"))
        found = await take(two, b"{}")
        assert isinstance(found, SharedVerdict)
        assert found.ruling == backend_reject()


async def test_a_late_owner_changes_nothing_of_who_has_the_hook_now(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two, claims(redis) as three:
        late = await claim(one)
        redis.command("DEL", f"wcs:claim:{DIGEST.hex()}")  # its time was over
        mine = await claim(two)
        waits = await waiting(three, redis)
        one.finish(late, BODY, backend_allow(BODY), 60.0)
        one.drop(late)
        two.finish(mine, BODY, backend_reject(), 60.0)
        assert is_kept(await waits, backend_reject())


async def test_a_hook_waits_no_longer_than_its_budget(redis: RedisServer) -> None:
    async with claims(redis) as one, claims(redis) as two:
        await claim(one)
        with pytest.raises(TimeoutError):
            await take(two, seconds=0.05)
        assert repr(two).endswith("0 followed>")


async def test_a_server_that_hangs_or_is_gone_makes_every_hook_a_new_one() -> None:
    with redis_server() as server:
        async with claims(server) as one, claims(server, 0.002) as two:
            await claim(one)
            server.pause()
            assert isinstance(await take(two), HookClaim)
            server.resume()
            await until(lambda: redis_answers(server))
            server.kill()
            await until(lambda: not two._link.up)
            mine = await claim(two)
            two.finish(mine, BODY, backend_reject(), 60.0)
            two.drop(mine)


def redis_answers(server: RedisServer) -> bool:
    return bool(server.command("PING") == b"PONG")


async def test_a_hook_that_is_cut_off_while_it_claims_leaves_no_claim() -> None:
    with redis_server() as server:
        async with claims(server) as one, claims(server) as two:
            server.pause()
            taking = asyncio.create_task(take(one))
            await asyncio.sleep(0.05)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
            server.resume()
            assert await one._link.call("PING") == b"PONG"  # all before it is done
            mine = await claim(two)
            waits = await waiting(one, server)
            waits.cancel()
            await asyncio.wait((waits,))
            two.finish(mine, BODY, backend_reject(), 60.0)
            await until(lambda: server.command("HEXISTS", f"wcs:claim:{DIGEST.hex()}", "v"))


async def test_one_who_waits_asks_itself_when_the_server_goes() -> None:
    with redis_server() as server:
        async with claims(server) as one, claims(server) as two:
            await claim(one)
            waits = await waiting(two, server, 60.0)
            server.kill()
            assert isinstance(await asyncio.wait_for(waits, SOON), HookClaim)


async def test_a_user_with_the_rights_that_the_documents_name_can_claim_and_wait() -> None:
    with redis_server(*acl_options()) as server:
        url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0"
        login = (USER, PASSWORD)
        async with claims(server, url=url, login=login) as one, claims(server, url=url, login=login) as two:
            mine = await claim(one)
            waits = asyncio.create_task(take(two))
            await asyncio.sleep(2 * LOOK_EVERY)  # it looks again, and at who hears
            assert not waits.done()
            one.finish(mine, BODY, backend_reject(), 60.0)
            assert is_kept(await waits, backend_reject())


async def test_a_full_server_and_one_that_forgot_the_script_claim_nothing_wrong() -> None:
    with redis_server() as server:
        async with claims(server) as one, claims(server) as two:
            server.command("SCRIPT", "FLUSH")
            mine = await claim(one)
            waits = await waiting(two, server)
            one.finish(mine, BODY, backend_reject(), 60.0)
            assert is_kept(await waits, backend_reject())
            server.command("CONFIG", "SET", "maxmemory", "1")
            assert isinstance(await take(one, b"{}"), HookClaim)


@pytest.mark.parametrize("stored", [b"\x02of another version", b"", b"\x01damaged"])
async def test_a_verdict_of_a_newer_version_or_a_damaged_one_makes_the_hook_a_new_one(
    redis: RedisServer, stored: bytes
) -> None:
    key = f"wcs:claim:{DIGEST.hex()}"
    redis.command("HSET", key, "o", "x.1:1", "v", stored, "k", "", "new", "field")
    async with claims(redis) as one:
        mine = await claim(one)
        one.finish(mine, BODY, backend_reject(), 60.0)
        one.drop(mine)
        redis.command("DEL", key)
        redis.command("HSET", key, "o", "an owner as a newer version writes it")
        assert isinstance(await take(one), HookClaim)
        redis.command("SET", key, "no claim at all")
        assert isinstance(await take(one), HookClaim)


CLAIM = HookClaim(DIGEST, "p.1:1")
VERDICT = encode_verdict(DIGEST, BODY, backend_reject())
anything = st.recursive(st.none() | st.integers() | st.binary(), lambda each: st.lists(each, max_size=4), max_leaves=6)


@given(anything)
def test_an_answer_that_says_nothing_known_makes_the_hook_a_new_one(reply: object) -> None:
    found = read_reply(reply, CLAIM, BODY)
    if isinstance(reply, list) and reply[:1] == [TAKEN]:
        assert found is None
    else:
        assert found is CLAIM


def test_what_the_answers_mean() -> None:
    assert read_reply([MINE], CLAIM, BODY) is CLAIM
    assert read_reply([TAKEN], CLAIM, BODY) is None
    assert read_reply([DECIDED, VERDICT, 1500], CLAIM, BODY) == SharedVerdict(backend_reject(), 1.5)
    assert read_reply([DECIDED, VERDICT, -1], CLAIM, BODY) == SharedVerdict(backend_reject(), 0.0)
    assert read_reply([TAKEN, b"and more"], CLAIM, BODY) is None


@given(st.binary(max_size=64))
def test_a_message_of_chance_brings_no_verdict(message: bytes) -> None:
    with contextlib.suppress(ClaimOwnerLost):
        assert read_message(message, BODY) is None
        assert message[:1] != b"L"
