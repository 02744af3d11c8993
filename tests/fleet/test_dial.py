"""Connecting: passwords, users, TLS, replicas, full and loading servers, Sentinel; each failure in words."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from gateway.config.sections.state import StateTls
from tests.support.faulty import Certificates
from tests.support.programs import free_port
from tests.support.redis import (
    PASSWORD,
    USER,
    RedisServer,
    acl_options,
    redis_sentinels,
    redis_server,
    tls_options,
)

from .links import linked, state, until


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a user of an ACL."""
    with redis_server(*acl_options()) as server:
        yield server


async def reason(url: str, *, tls: StateTls | None = None) -> str | None:
    """Why there is no connection."""
    async with linked(state(url, tls=tls), up=False) as link:
        await until(lambda: link.error != "not connected yet")
        return link.error


async def test_a_user_with_the_rights_that_the_reference_names(guarded: RedisServer) -> None:
    async with linked(state(f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded.port}/0")) as link:
        assert await link.call("SET", "wcs:a", 1) == b"OK"
        heard: list[bytes] = []
        link.subscribe("wcs:news", heard.append)
        while not heard:
            await link.call("PUBLISH", "wcs:news", "x")
            await asyncio.sleep(0.01)
    assert heard[0] == b"x"


async def test_a_wrong_password_is_said_and_not_shown(guarded: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://{USER}:not-{PASSWORD}@127.0.0.1:{guarded.port}/0"
    async with linked(state(url), announce=True, up=False) as link:
        await until(lambda: link.error == "it rejects user or password")
    assert [record.getMessage() for record in caplog.records] == [
        f"state redis://127.0.0.1:{guarded.port}/0 is away (it rejects user or password): hooks are decided without it"
    ]


async def test_no_password_where_one_is_wanted(guarded: RedisServer) -> None:
    assert await reason(f"redis://127.0.0.1:{guarded.port}") == "it wants a password"


async def test_a_password_where_none_is_wanted(server: RedisServer) -> None:
    found = await reason(f"redis://:{PASSWORD}@127.0.0.1:{server.port}")
    assert found is not None
    assert PASSWORD not in found


async def test_a_user_that_may_not_write(guarded: RedisServer) -> None:
    guarded.command("ACL", "SETUSER", "reader", "on", ">x", "~wcs:*", "+@read", login=(USER, PASSWORD))
    with redis_server("user default on nopass ~* &* +@all", "user reader on >x ~wcs:* +@read +@connection") as server:
        found = await reason(f"redis://reader:x@127.0.0.1:{server.port}")
    assert found == "the user may not do what the gateway needs"


async def test_a_database_that_is_not_there(server: RedisServer) -> None:
    found = await reason(f"redis://127.0.0.1:{server.port}/99")
    assert found == "it answers DB index is out of range"


async def test_a_replica_cannot_be_used_until_it_is_the_master(server: RedisServer) -> None:
    with redis_server(f"replicaof 127.0.0.1 {server.port}") as replica:
        async with linked(state(replica.url), up=False) as link:
            await until(lambda: link.error == "it is a replica, which cannot be written")
            replica.command("REPLICAOF", "NO", "ONE")
            await until(lambda: link.up)
            replica.command("REPLICAOF", "127.0.0.1", server.port)
            link.send("SET", "wcs:a", "x")
            await until(lambda: not link.up)


async def test_a_full_server_cannot_be_used_until_there_is_room() -> None:
    with redis_server("maxmemory 1", "maxmemory-policy noeviction") as server:
        async with linked(state(server.url), up=False) as link:
            await until(lambda: link.error == "its memory is full (maxmemory) and it takes nothing more")
            server.command("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: link.up)
            server.command("CONFIG", "SET", "maxmemory", "1")
            link.send("SET", "wcs:a", "x")
            await until(lambda: not link.up)


async def test_a_server_that_is_loading_is_used_when_it_has_loaded() -> None:
    with redis_server(
        "key-load-delay 1000", "enable-debug-command yes", "loading-process-events-interval-bytes 1024"
    ) as server:
        server.command("DEBUG", "POPULATE", 20000)
        async with linked(state(server.url)) as link:
            server.command("SAVE")
            server.kill()
            await until(lambda: not link.up)
            server.start()
            await until(lambda: link.error == "it is loading its data")
            server.command("CONFIG", "SET", "key-load-delay", 0)
            await until(lambda: link.up)


async def test_one_that_never_answers_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await reason(f"redis://:p@127.0.0.1:{silent.getsockname()[1]}/1") == "it does not answer"


async def test_a_name_that_is_unknown_is_away() -> None:
    found = await reason("redis://no-such-host.invalid/0")
    assert found is not None
    assert found.startswith(("its name cannot be resolved: ", "the name server does not answer"))


async def test_a_name_server_that_hangs_holds_up_nothing_else(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, system = threading.Event(), socket.getaddrinfo

    def slow(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "redis.example":
            hangs.wait(20)
            host = "127.0.0.1"
        return system(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with linked(state(f"redis://redis.example:{server.port}"), up=False) as link:
        await until(lambda: link.error == "the name server does not answer")
        for _ in range(100):  # of asyncio's own threads none is taken
            assert await asyncio.to_thread(lambda: 7) == 7
        hangs.set()
        await until(lambda: link.up)


# --- TLS ---


@pytest.fixture(scope="module")
def secured(ours: Certificates) -> Iterator[tuple[RedisServer, int]]:
    """A server with TLS on a second port."""
    port = free_port()
    with redis_server(*tls_options(*ours.valid, ours.ca, port)) as server:
        yield server, port


async def test_tls(secured: tuple[RedisServer, int], ours: Certificates) -> None:
    _, port = secured
    async with linked(state(f"rediss://127.0.0.1:{port}", tls=StateTls(ca=str(ours.ca)))) as link:
        assert await link.call("PING") == b"PONG"
        assert await link.call("SET", "wcs:big", b"x" * 300_000) == b"OK"
        assert await link.call("GET", "wcs:big") == b"x" * 300_000


async def test_a_certificate_of_a_stranger_is_not_accepted(
    secured: tuple[RedisServer, int], theirs: Certificates
) -> None:
    _, port = secured
    found = await reason(f"rediss://127.0.0.1:{port}", tls=StateTls(ca=str(theirs.ca)))
    assert found is not None
    assert found.startswith("its certificate is not accepted: ")


async def test_the_certificate_must_be_of_the_name(server: RedisServer, ours: Certificates) -> None:
    port = free_port()
    with redis_server(*tls_options(*ours.wrong_host, ours.ca, port)):
        found = await reason(f"rediss://127.0.0.1:{port}", tls=StateTls(ca=str(ours.ca)))
    assert found is not None
    assert found.startswith("its certificate is not accepted: ")


def test_tls_works_on_the_loop_that_gateways_run_on(secured: tuple[RedisServer, int], ours: Certificates) -> None:
    _, port = secured

    async def talk() -> None:
        async with linked(state(f"rediss://localhost:{port}", tls=StateTls(ca=str(ours.ca)))) as link:
            assert await link.call("SET", "wcs:big", b"x" * 300_000) == b"OK"
            assert await link.call("GET", "wcs:big") == b"x" * 300_000

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())


async def test_tls_to_a_port_without_it(server: RedisServer, ours: Certificates) -> None:
    found = await reason(f"rediss://127.0.0.1:{server.port}", tls=StateTls(ca=str(ours.ca)))
    assert found is not None
    assert found == "it does not answer", "Redis waits for the end of a line"


async def test_no_tls_to_a_port_with_it(secured: tuple[RedisServer, int]) -> None:
    _, port = secured
    found = await reason(f"redis://127.0.0.1:{port}")
    assert found is not None


# --- Sentinel ---


@pytest.mark.slow
async def test_a_failover_is_followed() -> None:
    with redis_sentinels() as sentinels:
        async with linked(state(sentinels.url)) as link:
            assert await link.call("SET", "wcs:a", "before") == b"OK"
            master = await asyncio.to_thread(sentinels.fail_over)
            await until(lambda: link.up, 30)
            assert await link.call("SET", "wcs:a", "after") == b"OK"
            assert master.command("GET", "wcs:a") == b"after"
            sentinels.sentinels[0].kill()
            sentinels.sentinels[1].kill()
            master.command("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: not link.up)
            await until(lambda: link.up)


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [False, True], ids=["of the servers only", "of the Sentinels too"])
async def test_the_password_goes_to_those_sentinels_that_ask_for_it(guarded: bool) -> None:
    with redis_sentinels(PASSWORD, guarded=guarded) as sentinels:
        async with linked(state(sentinels.url)) as link:
            assert await link.call("PING") == b"PONG"
        if guarded:
            wrong = sentinels.url.replace(PASSWORD, "wrong")
            found = await reason(wrong)
            assert found is not None
            assert found.endswith(": it rejects user or password")


async def test_sentinels_that_are_gone_or_do_not_know_the_name() -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()}/wcs"
    found = await reason(url)
    assert found is not None
    assert found.startswith("Sentinel 127.0.0.1:")
    assert found.endswith("it refuses connections")
