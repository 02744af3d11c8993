"""Who says that it goes is forgotten; who only falls silent is lost, and named until it is back."""

from __future__ import annotations

import logging

import pytest

from gateway.fleet.departures import REMEMBER, Departures
from gateway.fleet.local import Description
from gateway.fleet.membership import Member
from tests.support.redis import RedisServer

from .links import until
from .replicas import Gateway, running


def member(number: str, name: str) -> Member:
    description = Description(name=name, version="1.0.0", revision="r", admin="", since=1.0)
    return Member(id=number, beat=1, description=description)


@pytest.fixture
async def departures() -> tuple[Departures, list[float]]:
    gateway = Gateway("a", "redis://127.0.0.1:1/0")
    now = [100.0]
    return Departures(gateway.link, gateway.membership, lambda: now[0]), now


def names(departures: Departures) -> list[str]:
    return [lost.member.description.name for lost in departures.lost]


async def test_one_that_ends_in_an_orderly_way_is_not_lost_and_one_that_is_killed_is(server: RedisServer) -> None:
    async with running("a", server.url) as a:
        async with running("b", server.url) as b, running("c", server.url, orderly=False):
            await until(lambda: len(a.membership.members) == len(b.membership.members) == 3)
        await until(lambda: len(a.membership.members) == 1)
        assert names(a.departures) == ["c"]
        async with running("c", server.url):
            await until(lambda: len(a.membership.members) == 2)
            assert names(a.departures) == []


async def test_it_is_reported_once_and_once_that_it_is_back(
    departures: tuple[Departures, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch, now = departures
    both = {"1": member("1", "a"), "2": member("2", "b")}
    watch.look(both)
    for _ in range(5):
        watch.look({"1": both["1"]})
        now[0] += 1.0
    assert names(watch) == ["b"]
    watch.look(both)
    watch.look(both)
    assert [record.getMessage() for record in caplog.records] == [
        "gateway b is lost: it has shown no sign of life",
        "gateway b is not lost any more",
    ]


async def test_where_the_server_was_emptied_and_all_are_back_with_the_next_beat_nothing_is_reported(
    departures: tuple[Departures, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    watch, now = departures
    both = {"1": member("1", "a"), "2": member("2", "b")}
    watch.look(both)
    watch.look({"1": both["1"]})
    now[0] += 1.0
    watch.look(both)
    assert names(watch) == []
    assert caplog.records == []


async def test_the_last_one_lost_is_named_first_and_after_an_hour_none(
    departures: tuple[Departures, list[float]],
) -> None:
    watch, now = departures
    everybody = {"1": member("1", "a"), "2": member("2", "b"), "3": member("3", "c")}
    watch.look(everybody)
    watch.look({key: everybody[key] for key in ("1", "3")})
    now[0] += 10.0
    watch.look({"1": everybody["1"]})
    assert names(watch) == ["c", "b"]
    now[0] += REMEMBER
    watch.look({"1": everybody["1"]})
    assert names(watch) == ["c"]


async def test_a_gateway_that_takes_the_name_of_a_lost_one_has_replaced_it(
    departures: tuple[Departures, list[float]],
) -> None:
    watch, _ = departures
    watch.look({"1": member("1", "a"), "2": member("2", "b")})
    watch.look({"1": member("1", "a"), "3": member("3", "b")})
    assert names(watch) == []
