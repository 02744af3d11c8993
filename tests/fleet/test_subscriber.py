"""Hearing what others publish: over a lost connection, and one on which nothing comes any more."""

from __future__ import annotations

import logging

import pytest

from tests.support.redis import RedisServer
from tests.support.slow_relay import SlowRelay

from .links import linked, state, until


async def test_nothing_is_connected_until_something_is_subscribed(server: RedisServer) -> None:
    async with linked(state(server.url)) as link:
        clients = str(await link.call("CLIENT", "LIST")).count("name=test")
        link.subscribe("wcs:a", lambda _data: None)
        await until(lambda: server.command("PUBSUB", "CHANNELS") == [b"wcs:a"])
        assert str(await link.call("CLIENT", "LIST")).count("name=test") == clients + 1 == 2


async def test_each_handler_of_a_channel_gets_each_message(server: RedisServer) -> None:
    heard: list[tuple[str, bytes]] = []

    def fail(_data: bytes) -> None:
        raise RuntimeError("a defect")

    async with linked(state(server.url)) as link:
        link.subscribe("wcs:a", fail)
        link.subscribe("wcs:a", lambda data: heard.append(("first", data)))
        link.subscribe("wcs:b", lambda data: heard.append(("second", data)))
        await until(lambda: len(server.command("PUBSUB", "CHANNELS")) == 2)
        server.command("PUBLISH", "wcs:b", b"\x00\xff")
        server.command("PUBLISH", "wcs:c", b"nobody")
        server.command("PUBLISH", "wcs:a", b"")
        await until(lambda: len(heard) == 2)
    assert heard == [("second", b"\x00\xff"), ("first", b"")]


async def test_a_connection_on_which_nothing_comes_is_replaced(server: RedisServer) -> None:
    heard: list[bytes] = []
    with SlowRelay(server.port) as relay:
        async with linked(state(f"redis://127.0.0.1:{relay.port}")) as link:
            link.subscribe("wcs:a", heard.append)
            await until(lambda: server.command("PUBLISH", "wcs:a", "one") == 1)
            await until(lambda: heard == [b"one"])
            before = server.command("CLIENT", "LIST", "TYPE", "pubsub")
            relay.hold()
            await until(lambda: link._subscriber._wire is None)
            relay.restore()
            await until(lambda: link._subscriber._wire is not None)
            await until(lambda: server.command("CLIENT", "LIST", "TYPE", "pubsub") not in (before, b""))
            await until(lambda: server.command("PUBLISH", "wcs:a", "two") and b"two" in heard)


async def test_a_channel_that_the_user_may_not_hear_is_reported(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    server.command("ACL", "SETUSER", "deaf", "on", ">x", "~*", "resetchannels", "&wcs:a", "+@all")
    async with linked(state(f"redis://deaf:x@127.0.0.1:{server.port}")) as link:
        link.subscribe("wcs:b", lambda _data: None)
        await until(lambda: caplog.records)
    assert "refuses a subscription: the user may not do what the gateway needs" in caplog.text
