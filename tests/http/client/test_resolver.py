"""The resolver: hooks never wait for a refresh, and a name server's failure never loses what was known."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.http.client import Resolver, resolver
from tests.http.client.loopback import until

NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
HOST = "backend.example"


class NameServer:
    """Stands in for the system's resolver: answers what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.answer: list[str] | Exception = ["192.0.2.1"]
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def look_up(self, host: str) -> tuple[str, ...]:
        self.asked += 1
        await self.go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return tuple(self.answer)


@pytest.fixture
async def names() -> NameServer:
    return NameServer()


@pytest.fixture
async def resolving(names: NameServer) -> AsyncIterator[Resolver]:
    it = Resolver(names.look_up)
    yield it
    await it.aclose()


@pytest.fixture
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "REFRESH_AFTER", -1.0)


@pytest.fixture
def never_believes_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "RETRY_AFTER", -1.0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:db8::1"])
async def test_an_address_needs_no_look_up(names: NameServer, resolving: Resolver, address: str) -> None:
    resolving.prefetch(address)
    assert await resolving.resolve(address) == (address,)
    assert names.asked == 0


async def test_a_prefetched_name_is_known_when_the_first_hook_asks(names: NameServer, resolving: Resolver) -> None:
    resolving.prefetch(HOST)
    await until(lambda: names.asked == 1)
    assert await resolving.resolve(HOST) == ("192.0.2.1",)
    assert names.asked == 1


async def test_addresses_keep_their_order_and_come_once_each(names: NameServer, resolving: Resolver) -> None:
    names.answer = ["192.0.2.2", "192.0.2.1", "192.0.2.2"]
    assert await resolving.resolve(HOST) == ("192.0.2.2", "192.0.2.1")


async def test_hooks_that_come_together_share_one_look_up(names: NameServer, resolving: Resolver) -> None:
    found = await asyncio.gather(*(resolving.resolve(HOST) for _ in range(10)))
    assert found == [("192.0.2.1",)] * 10
    assert names.asked == 1


@pytest.mark.usefixtures("always_stale")
async def test_a_stale_answer_serves_while_the_refresh_hangs(names: NameServer, resolving: Resolver) -> None:
    await resolving.resolve(HOST)
    names.go.clear()
    names.answer = ["192.0.2.9"]
    for _ in range(3):
        assert await asyncio.wait_for(resolving.resolve(HOST), 5) == ("192.0.2.1",)
    await until(lambda: names.asked == 2)  # one look-up under way, however many hooks
    names.go.set()
    await asyncio.sleep(0.01)  # the look-up under way ends before the next one begins
    for _ in range(500):
        if await resolving.resolve(HOST) == ("192.0.2.9",):
            return
        await asyncio.sleep(0.01)
    pytest.fail("the refreshed answer never came into use")


@pytest.mark.usefixtures("always_stale")
async def test_after_a_quiet_minute_the_first_hook_gets_the_new_answer_and_does_not_wait_long_for_it(
    names: NameServer, resolving: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await resolving.resolve(HOST)
    monkeypatch.setattr(resolver, "OLD_AFTER", -1.0)
    names.answer = ["192.0.2.9"]
    assert await resolving.resolve(HOST) == ("192.0.2.9",)
    names.go.clear()
    names.answer = ["192.0.2.10"]
    for _ in range(5):  # one of them waits a moment
        assert await asyncio.wait_for(resolving.resolve(HOST), 5) == ("192.0.2.9",)
    assert names.asked == 3
    names.go.set()


async def test_a_first_look_up_that_hangs_counts_as_failed_until_it_ends(
    names: NameServer, resolving: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.go.clear()
    first = asyncio.create_task(resolving.resolve(HOST))
    await until(lambda: names.asked == 1)
    monkeypatch.setattr(resolver, "HANGING_AFTER", -1.0)
    for _ in range(5):
        with pytest.raises(socket.gaierror, match="does not answer"):
            await asyncio.wait_for(resolving.resolve(HOST), 5)
    names.go.set()
    assert await first == await resolving.resolve(HOST) == ("192.0.2.1",)
    assert names.asked == 1


@pytest.mark.usefixtures("never_believes_a_failure")
async def test_while_a_failed_name_is_looked_up_again_at_most_one_hook_waits_and_not_for_long(
    names: NameServer, resolving: Resolver
) -> None:
    names.answer = NO_NAME
    with pytest.raises(socket.gaierror):
        await resolving.resolve(HOST)
    names.go.clear()
    for _ in range(20):
        with pytest.raises(socket.gaierror):
            await asyncio.wait_for(resolving.resolve(HOST), 5)
    assert names.asked == 2
    names.go.set()


async def test_an_answer_without_an_address_is_a_failure(names: NameServer, resolving: Resolver) -> None:
    names.answer = []
    with pytest.raises(socket.gaierror, match="no address"):
        await resolving.resolve(HOST)


async def test_the_system_is_asked_in_threads_of_the_resolver_s_own_which_end_with_it() -> None:
    def running() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("name-look-up")]

    before = len(running())
    asked = Resolver()
    assert "127.0.0.1" in await asked.resolve("localhost")
    assert len(running()) > before
    await asked.aclose()
    await until(lambda: len(running()) == before)


async def test_a_fresh_answer_is_not_looked_up_again(names: NameServer, resolving: Resolver) -> None:
    for _ in range(5):
        await resolving.resolve(HOST)
        await asyncio.sleep(0)
    assert names.asked == 1


@pytest.mark.usefixtures("always_stale")
@pytest.mark.parametrize("error", [NO_NAME, OSError("no name server"), UnicodeError("label empty or too long")])
async def test_a_failed_refresh_keeps_the_last_good_answer_and_says_so_once(
    names: NameServer, resolving: Resolver, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    await resolving.resolve(HOST)
    names.answer = error
    with caplog.at_level(logging.WARNING):
        while names.asked < 5:
            assert await resolving.resolve(HOST) == ("192.0.2.1",)
            await asyncio.sleep(0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert HOST in caplog.text


@pytest.mark.parametrize("error", [NO_NAME, UnicodeError("label empty or too long")])
async def test_a_first_failure_raises_the_systems_own_error(
    names: NameServer, resolving: Resolver, error: Exception
) -> None:
    names.answer = error
    with pytest.raises(socket.gaierror):
        await resolving.resolve(HOST)


async def test_a_first_failure_is_believed_for_a_while(names: NameServer, resolving: Resolver) -> None:
    names.answer = NO_NAME
    for _ in range(5):
        with pytest.raises(socket.gaierror):
            await resolving.resolve(HOST)
    assert names.asked == 1


@pytest.mark.usefixtures("never_believes_a_failure")
async def test_a_first_failure_is_looked_up_again_after_that_while(names: NameServer, resolving: Resolver) -> None:
    names.answer = NO_NAME
    with pytest.raises(socket.gaierror):
        await resolving.resolve(HOST)
    names.answer = ["192.0.2.1"]
    assert await resolving.resolve(HOST) == ("192.0.2.1",)


async def test_a_hook_that_stops_waiting_does_not_stop_the_look_up(names: NameServer, resolving: Resolver) -> None:
    names.go.clear()
    leaving = asyncio.create_task(resolving.resolve(HOST))
    staying = asyncio.create_task(resolving.resolve(HOST))
    await until(lambda: names.asked == 1)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    names.go.set()
    assert await staying == ("192.0.2.1",)
    assert names.asked == 1


async def test_closing_ends_a_look_up_that_hangs(names: NameServer) -> None:
    hanging = Resolver(names.look_up)
    names.go.clear()
    hanging.prefetch(HOST)
    await until(lambda: names.asked == 1)
    await asyncio.wait_for(hanging.aclose(), 5)
