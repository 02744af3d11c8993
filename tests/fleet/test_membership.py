"""Who lives, against a real server: gateways that come, change, leave in order, and die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import pytest

from gateway.config.sections.state import StateConfig
from gateway.fleet.membership import LIFETIME, Member, Membership, describe_member, reachable_address
from gateway.fleet.shares import Entry
from tests.support.redis import PASSWORD, USER, RedisServer, acl_options, redis_server

from .links import linked, state, until
from .locals import PlainLocal


@contextlib.asynccontextmanager
async def joined(config: StateConfig, local: PlainLocal, *, up: bool = True) -> AsyncIterator[Membership]:
    """A member, which leaves in order."""
    async with linked(config, up=up) as link:
        membership = Membership(link, local)
        membership.start()
        try:
            yield membership
        finally:
            await membership.aclose()


def names(membership: Membership) -> list[str]:
    return sorted(member.description.name for member in membership.members.values())


async def die(membership: Membership) -> None:
    """As after ``kill -9``: it writes nothing more, and does not leave."""
    assert membership._beating is not None
    membership._beating.cancel()
    await asyncio.gather(membership._beating, return_exceptions=True)


async def test_two_see_each_other_and_what_they_say(server: RedisServer) -> None:
    one, other = PlainLocal("one"), PlainLocal("other")
    changes: list[list[str]] = []
    async with joined(state(server.url), one) as first:
        first.on_change.append(lambda members: changes.append(sorted(it.description.name for it in members.values())))
        await until(lambda: names(first) == ["one"])
        async with joined(state(server.url), other) as second:
            await until(lambda: names(first) == names(second) == ["one", "other"])
            assert first.members[second.id].description == other.description
            assert not first.stale
        await until(lambda: names(first) == ["one"])
        assert first.members[first.id].beat > 0
    assert changes == [["one"], ["one", "other"], ["one"]]
    assert server.keys() <= {"wcs:probe"}


async def test_they_see_what_others_say_of_limits(server: RedisServer) -> None:
    entries = {"rate:a": Entry(100.0, 12.5, 50.0)}

    async def say() -> dict[str, Entry]:
        return entries

    async with joined(state(server.url), PlainLocal("one")) as first:
        first.entries = say
        async with joined(state(server.url), PlainLocal("other")) as second:
            await until(lambda: first.id in second.members and second.members[first.id].limits == entries)
            assert second.members[second.id].limits == {}


async def test_who_leaves_in_order_is_gone_at_once(server: RedisServer) -> None:
    async with joined(state(server.url), PlainLocal("one")) as first:
        await until(lambda: first.beats)
        assert server.command("ZCARD", "wcs:replicas") == 1
    assert server.command("ZCARD", "wcs:replicas") == 0
    assert server.command("GET", f"wcs:replica:{first.id}") is None


async def test_who_dies_is_gone_when_its_record_has_run_out(server: RedisServer) -> None:
    async with joined(state(server.url), PlainLocal("one")) as first, linked(state(server.url)) as link:
        dying = Membership(link, PlainLocal("dying"))
        dying.start()
        await until(lambda: names(first) == ["dying", "one"])
        assert 0 < server.command("PTTL", f"wcs:replica:{dying.id}") <= LIFETIME * 1000
        await die(dying)
        await until(lambda: names(first) == ["one"])
        assert server.command("ZCARD", "wcs:replicas") == 1


async def test_a_user_with_the_rights_that_the_reference_names() -> None:
    with redis_server(*acl_options()) as guarded:
        url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded.port}/0"
        async with joined(state(url), PlainLocal("one")) as first:
            await until(lambda: first.beats)
            assert names(first) == ["one"]
            assert not first.stale


async def test_two_fleets_on_one_server_do_not_know_each_other(server: RedisServer) -> None:
    async with (
        joined(state(server.url), PlainLocal("one")) as first,
        joined(state(server.url, prefix="other:"), PlainLocal("other")) as second,
    ):
        await until(lambda: first.beats > 1 and second.beats > 1)
        assert (names(first), names(second)) == (["one"], ["other"])


async def test_while_the_server_is_away_the_last_known_stay() -> None:
    with redis_server() as server:
        async with (
            joined(state(server.url), PlainLocal("one")) as first,
            joined(state(server.url), PlainLocal("other")) as second,
        ):
            await until(lambda: names(first) == names(second) == ["one", "other"])
            stale: list[bool] = []
            first.on_change.append(lambda _members: stale.append(first.stale))
            server.kill()
            await until(lambda: first.stale)
            assert names(first) == ["one", "other"]
            server.start()  # empty
            await until(lambda: not first.stale and names(first) == ["one", "other"])
            assert stale[0] is True
            assert stale[-1] is False


async def test_a_server_that_has_lost_everything_is_filled_again(server: RedisServer) -> None:
    async with joined(state(server.url), PlainLocal("one")) as first:
        await until(lambda: first.beats)
        server.command("FLUSHALL")
        server.command("SCRIPT", "FLUSH")
        beats = first.beats
        await until(lambda: first.beats > beats)
        assert server.command("ZCARD", "wcs:replicas") == 1
        assert not first.stale


async def test_keys_can_be_watched(server: RedisServer) -> None:
    seen: list[bytes | None] = []
    async with linked(state(server.url)) as link:
        membership = Membership(link, PlainLocal("one"))
        membership.watch("wcs:nothing", seen.append)
        membership.watch("wcs:version", seen.append)
        server.command("SET", "wcs:version", "7")
        membership.start()
        await until(lambda: membership.beats)
        assert seen[:2] == [None, b"7"]
        server.command("SET", "wcs:version", "8")
        membership.beat_soon()
        await until(lambda: b"8" in seen)
        await membership.aclose()


def packed(member_id: str, **fields: Any) -> bytes:
    description = {"name": member_id, "version": "9", "revision": "r", "admin": "h:1", "since": 1.0}
    return msgspec.msgpack.encode({"id": member_id, "beat": 3, "description": {**description, **fields}})


@pytest.mark.parametrize(
    ("record", "is_read"),
    [
        (packed("other"), True),
        (packed("other", new_field={"of": ["a", "later version"]}), True),
        (packed("other", drained="yes"), False),
        (msgspec.msgpack.encode({"id": "other"}), False),
        (b"", False),
        (b"\xc1", False),
        (b"not msgpack at all", False),
        (msgspec.msgpack.encode([1, 2]), False),
    ],
)
async def test_records_of_other_versions(server: RedisServer, record: bytes, is_read: bool) -> None:
    server.command("SET", "wcs:replica:other", record)
    server.command("ZADD", "wcs:replicas", 9999999999999, "other")
    async with joined(state(server.url), PlainLocal("one")) as first:
        await until(lambda: first.beats)
        assert names(first) == (["one", "other"] if is_read else ["one"])


async def test_a_listener_that_fails_stops_neither_the_others_nor_the_beat(server: RedisServer) -> None:
    heard: list[Iterable[str]] = []

    def fail(_members: object) -> None:
        raise RuntimeError("a defect")

    async with joined(state(server.url), PlainLocal("one")) as first:
        first.on_beat[:] = [fail, heard.append]
        await until(lambda: len(heard) >= 2)


@pytest.mark.parametrize(
    ("bound", "local_host", "address"),
    [
        ("127.0.0.1:9180", "10.0.0.7", "127.0.0.1:9180"),
        ("10.0.0.8:9180", "10.0.0.7", "10.0.0.8:9180"),
        ("0.0.0.0:9180", "10.0.0.7", "10.0.0.7:9180"),
        (":9180", "10.0.0.7", "10.0.0.7:9180"),
        ("[::]:9180", "fd00::7", "[fd00::7]:9180"),
        ("[::]:9180", "10.0.0.7", "10.0.0.7:9180"),
        ("0.0.0.0:9180", "", "0.0.0.0:9180"),
    ],
)
def test_the_address_is_one_that_others_can_reach(bound: str, local_host: str, address: str) -> None:
    assert reachable_address(bound, local_host) == address


def test_a_member_as_json() -> None:
    member = Member(id="x", beat=1, description=PlainLocal("one").description)
    assert describe_member(member) == {
        "id": "x", "name": "one", "version": "1.0", "revision": "abc", "admin": "127.0.0.1:9180", "since": 1.5,
        "drained": False, "phase": "ready", "store": None, "reloaded": 0.0,
    }  # fmt: skip
