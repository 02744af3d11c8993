"""The link against a real server: answers in order, and what becomes of callers when the server is away."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.fleet.lateness import IN_A_ROW
from gateway.fleet.link import ANSWER_LIMIT, MAX_PENDING, Link
from gateway.fleet.reasons import StateUnavailable
from gateway.fleet.scripts import Script
from tests.support.redis import RedisServer, redis_server
from tests.support.slow_relay import SlowRelay

from .links import linked, state, until


async def test_answers_go_to_those_who_asked_in_one_write(server: RedisServer) -> None:
    async with linked(state(server.url)) as link:
        link.send("SET", "a", 1)
        answers = await asyncio.gather(*(link.call("INCRBY", "a", number) for number in range(100)))
    total = 1
    for number, answer in enumerate(answers):
        total += number
        assert answer == total


async def test_an_answer_may_be_anything_that_the_protocol_has(server: RedisServer) -> None:
    async with linked(state(server.url)) as link:
        assert await link.call("GET", "nothing") is None
        assert await link.call("SET", b"\x00\xff", b"\r\n") == b"OK"
        assert await link.call("GET", b"\x00\xff") == b"\r\n"
        assert await link.call("MGET", b"\x00\xff", "nothing") == [b"\r\n", None]
        with pytest.raises(StateUnavailable, match="it answers WRONGTYPE"):
            await link.call("LPUSH", b"\x00\xff", 1)
        assert link.up
        assert await link.call("PING") == b"PONG"


async def test_without_a_server_nothing_waits() -> None:
    async with linked(state("redis://127.0.0.1:1/0"), up=False) as link:
        link.send("SET", "a", 1)
        with pytest.raises(StateUnavailable):
            await link.call("GET", "a")
        assert link.dropped == 1
        await until(lambda: link.error == "it refuses connections")
        assert not link.up


async def test_a_server_that_comes_back_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ups = []
    with redis_server() as server:
        async with linked(state(server.url), announce=True) as link:
            link.on_up.append(lambda: ups.append(link.up))
            server.kill()
            await until(lambda: not link.up)
            with pytest.raises(StateUnavailable):
                await link.call("PING")
            await until(lambda: link.error == "it refuses connections")
            server.start()
            await until(lambda: link.up)
            assert await link.call("PING") == b"PONG"
            assert ups == [True]
            assert link.error is None
    words = [record.getMessage().split(" is ")[1].split(":")[0] for record in caplog.records]
    assert words == ["up", "away (it closed the connection)", "up"]


async def test_what_is_unanswered_when_the_server_dies_fails() -> None:
    with redis_server() as server:
        async with linked(state(server.url)) as link:
            server.pause()
            waiting = asyncio.create_task(link.call("PING", timeout=30))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(StateUnavailable, match="it closed the connection"):
                await waiting


async def test_a_server_that_hangs_is_given_up_and_found_again() -> None:
    with redis_server() as server:
        async with linked(state(server.url)) as link:
            server.pause()
            with pytest.raises(StateUnavailable, match=f"it has not answered for {ANSWER_LIMIT:g}s"):
                await link.call("PING", timeout=30)
            assert not link.up
            await until(lambda: link.error == "it does not answer")
            server.resume()
            await until(lambda: link.up)


async def test_those_in_a_hurry_leave_a_slow_server_alone(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    late = []
    with SlowRelay(server.port) as relay:
        link = Link(state(f"redis://127.0.0.1:{relay.port}"), "test", on_late=lambda: late.append(1), announce=True)
        await link.start()
        await until(lambda: link.up)
        relay.delay = 0.02
        for _ in range(IN_A_ROW):
            with pytest.raises(StateUnavailable, match="no answer in time"):
                await link.call("PING", timeout=0.002)
        assert len(late) == IN_A_ROW
        with pytest.raises(StateUnavailable, match="it answers later than 2ms"):
            await link.call("PING", timeout=0.002)
        assert len(late) == IN_A_ROW, "it was asked while it was to be left alone"
        assert await link.call("PING", timeout=5) == b"PONG", "those who can wait still may"
        assert link.up
        # After the rest one late answer is enough for another one, and the log does not say it again.
        await until(lambda: not link._lateness.is_resting(0.002, link._loop.time()))
        with pytest.raises(StateUnavailable, match="no answer in time"):
            await link.call("PING", timeout=0.002)
        with pytest.raises(StateUnavailable, match="it answers later"):
            await link.call("PING", timeout=0.002)
        assert [r.getMessage() for r in caplog.records if "slow" in r.getMessage()] == [
            f"state redis://127.0.0.1:{relay.port}/0 is slow (it answers later than 2ms): what cannot wait longer is "
            "decided without it"
        ]
        await link.aclose()


async def test_commands_that_are_late_together_count_once(server: RedisServer) -> None:
    with SlowRelay(server.port) as relay:
        late: list[int] = []
        link = Link(state(f"redis://127.0.0.1:{relay.port}"), "test", on_late=lambda: late.append(1))
        await link.start()
        await until(lambda: link.up)
        relay.delay = 0.3
        hurried = [link.call("PING", timeout=0.01) for _ in range(10 * IN_A_ROW)]
        results = await asyncio.gather(*hurried, return_exceptions=True)
        assert {str(result) for result in results} == {"no answer in time"}
        assert len(late) == len(results)
        with pytest.raises(StateUnavailable, match="no answer in time"):  # it is still asked
            await link.call("PING", timeout=0.01)
        await link.aclose()


async def test_a_quick_answer_between_late_ones_counts(server: RedisServer) -> None:
    with SlowRelay(server.port) as relay:
        async with linked(state(f"redis://127.0.0.1:{relay.port}")) as link:
            for _ in range(3):
                relay.delay = 0.3
                for _ in range(IN_A_ROW - 1):
                    with pytest.raises(StateUnavailable, match="no answer in time"):
                        await link.call("PING", timeout=0.1)
                relay.delay = 0.0
                await link.call("PING", timeout=5)  # behind the late ones
                assert await link.call("PING", timeout=5) == b"PONG"


@pytest.mark.slow
async def test_a_server_that_is_slow_by_two_seconds_is_away_and_comes_back(server: RedisServer) -> None:
    with SlowRelay(server.port) as relay:
        async with linked(state(f"redis://127.0.0.1:{relay.port}")) as link:
            relay.delay = 2.0
            with pytest.raises(StateUnavailable):
                await link.call("PING")
            await until(lambda: link.error == "it does not answer")
            assert not link.up
            relay.delay = 0.0
            await until(lambda: link.up)
            assert link.error is None


async def test_what_is_unanswered_is_bounded() -> None:
    with redis_server() as server:
        async with linked(state(server.url)) as link:
            server.pause()
            for _ in range(MAX_PENDING + 7):
                link.send("PING")
            assert link.dropped == 7
            with pytest.raises(StateUnavailable):
                await link.call("PING")


async def test_a_script_is_known_after_a_restart_too() -> None:
    script = Script("return {KEYS[1], ARGV[1]}")
    with redis_server() as server:
        async with linked(state(server.url)) as link:
            link.load(script)
            assert await link.run(script, ["k"], ["v"]) == [b"k", b"v"]
            server.command("SCRIPT", "FLUSH")
            assert await link.run(script, ["k"], ["v"]) == [b"k", b"v"]
            server.kill()
            await until(lambda: not link.up)
            server.start()
            await until(lambda: link.up)
            assert await link.call("SCRIPT", "EXISTS", script.digest) == [1]


async def test_messages_arrive_over_reconnects() -> None:
    heard: list[bytes] = []
    with redis_server() as server:
        async with linked(state(server.url)) as link:
            link.subscribe("wcs:news", heard.append)
            await until(lambda: server.command("PUBLISH", "wcs:news", "one") == 1)
            await until(lambda: heard == [b"one"])
            link.subscribe("wcs:more", heard.append)
            await until(lambda: server.command("PUBLISH", "wcs:more", "two") == 1)
            server.kill()
            await until(lambda: not link.up)
            server.start()
            await until(lambda: server.command("PUBLISH", "wcs:news", "three") == 1)
            await until(lambda: heard == [b"one", b"two", b"three"])


async def test_the_end_waits_for_what_was_sent(server: RedisServer) -> None:
    async with linked(state(server.url)) as link:
        for number in range(1000):
            link.send("SET", f"k{number}", "x" * 100)
    assert len(server.keys()) == 1001, "and the probe"
    with pytest.raises(StateUnavailable):
        await link.call("PING")
