"""Names that move, addresses that are dead, connections that grow old: which connection the next hook gets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.http.client import ConnectFailed, ConnectTimedOut, Resolver, Transport, TransportSettings, dial, resolver
from gateway.http.client.connection import Connection
from gateway.http.client.dial import ATTEMPT_DELAY, FailedAddresses, dial_first
from gateway.http.client.resolver import interleave
from tests.http.client.loopback import (
    PATIENCE,
    Backend,
    Peer,
    backend,
    exchange,
    full_backlog,
    silence,
    transport_of,
    until,
)

A, B, C = "127.0.0.2", "127.0.0.3", "127.0.0.4"


class Name:
    """A name server's answer, which a test may change."""

    def __init__(self, *addresses: str) -> None:
        self.answer: Sequence[str] | Exception = addresses
        self.asked = 0

    async def look_up(self, host: str) -> tuple[str, ...]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return tuple(self.answer)


@pytest.fixture(autouse=True)
def looks_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "REFRESH_AFTER", 0.05)


@contextlib.asynccontextmanager
async def machine(address: str, port: int = 0) -> AsyncIterator[Backend]:
    """A backend at an address of its own that answers with this address; connections are kept."""

    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(address.encode())

    played = Backend(play)
    server = await asyncio.start_server(played.connected, address, port, backlog=256)
    played.port = server.sockets[0].getsockname()[1]
    played.url = f"http://backend.example:{played.port}/hook"
    try:
        yield played
    finally:
        server.close()
        await played.stop()
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """An address that answers no SYN."""
    with full_backlog(address, port):
        yield


async def whom(transport: Transport, url: str, count: int = 1) -> set[str]:
    """The addresses that answer *count* hooks, one after the other."""
    return {(await exchange(transport, url)).decode() for _ in range(count)}


async def keep_busy(transport: Transport, url: str, answers: list[str], lanes: int = 4) -> None:
    """Hooks one after the other on each of some connections, so that none is ever idle for long."""

    async def lane() -> None:
        while True:
            answers.append((await exchange(transport, url)).decode())

    await asyncio.gather(*(lane() for _ in range(lanes)))


# --- the name leads elsewhere ---


async def test_busy_connections_follow_a_name_to_its_new_address_and_lose_no_hook() -> None:
    name = Name(A)
    async with machine(A) as old, machine(B, old.port) as new, transport_of(Resolver(name.look_up)) as transport:
        answers: list[str] = []
        busy = asyncio.create_task(keep_busy(transport, old.url, answers))
        await until(lambda: len(answers) > 20)
        name.answer = [B]
        await until(lambda: old.open == 0 and new.open >= 4)
        count = len(answers)
        await until(lambda: len(answers) > count + 20)
        assert set(answers[count:]) == {B}
        assert not busy.done()  # no hook failed
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


async def test_an_idle_connection_to_an_address_that_the_name_has_lost_is_closed_without_a_hook() -> None:
    name = Name(A)
    async with machine(A) as old, transport_of(Resolver(name.look_up)) as transport:
        assert await whom(transport, old.url) == {A}
        name.answer = [B]
        await until(lambda: old.open == 0)
        assert transport.open_connections == 0


async def test_a_hook_on_an_address_that_the_name_has_lost_is_answered_before_its_connection_ends() -> None:
    name, go = Name(A), asyncio.Event()

    async def slowly(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.answer(b"late")
        await peer.gone()

    async with backend(slowly) as there, transport_of(Resolver(name.look_up)) as transport:
        name.answer = ["127.0.0.1"]
        hook = asyncio.create_task(exchange(transport, f"http://backend.example:{there.port}/hook"))
        await until(lambda: there.open == 1)
        name.answer = [B]
        asked = name.asked
        await until(lambda: name.asked > asked + 1)
        go.set()
        assert await hook == b"late"
        await until(lambda: there.open == 0)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "try again"), id="no name server"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, "no such name"), id="no such name"),
        pytest.param([], id="no address"),
        pytest.param([B, A], id="another order"),
        pytest.param([A, C], id="one more"),
    ],
)
async def test_connections_stay_where_the_name_has_not_lost_their_address(answer: Sequence[str] | Exception) -> None:
    name = Name(A, B)
    async with machine(A) as there, transport_of(Resolver(name.look_up)) as transport:
        await whom(transport, there.url)
        name.answer = answer
        asked = name.asked
        await until(lambda: name.asked > asked + 3)
        assert await whom(transport, there.url) == {A}
        assert (there.accepted, there.open) == (1, 1)


async def test_a_name_without_connections_is_not_looked_up_again_and_again() -> None:
    name = Name(A)
    async with machine(A) as there, transport_of(Resolver(name.look_up), keepalive=None) as transport:
        await whom(transport, there.url)
        await asyncio.sleep(0.1)
        asked = name.asked
        await asyncio.sleep(0.3)
        assert name.asked <= asked + 1


async def test_where_no_address_takes_a_connection_the_name_is_looked_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver, "REFRESH_AFTER", 3600.0)
    monkeypatch.setattr(resolver, "RETRY_AFTER", -1.0)
    name = Name(A)
    async with machine(B) as there, transport_of(Resolver(name.look_up)) as transport:
        name.answer = [A]
        with pytest.raises(ConnectFailed):
            await whom(transport, there.url)
        name.answer = [B]
        with contextlib.suppress(ConnectFailed):
            await whom(transport, there.url)
        await asyncio.sleep(0.05)
        assert await whom(transport, there.url) == {B}


# --- connections grow old ---


@contextlib.asynccontextmanager
async def aging(max_age: float | None) -> AsyncIterator[Transport]:
    transport = Transport(TransportSettings(max_age=max_age, connect_timeout=PATIENCE))
    try:
        yield transport
    finally:
        await transport.aclose()
        await asyncio.sleep(0.01)


async def test_a_busy_connection_ends_after_an_exchange_once_it_is_old() -> None:
    async with machine("127.0.0.1") as there, aging(0.2) as transport:
        answers: list[str] = []
        url = f"http://127.0.0.1:{there.port}/hook"
        busy = asyncio.create_task(keep_busy(transport, url, answers, lanes=2))
        await until(lambda: there.accepted >= 8)
        assert not busy.done()
        assert there.most_open <= 4  # the old ones are closed
        assert len(answers) > there.accepted
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


async def test_an_idle_connection_ends_once_it_is_old() -> None:
    async with machine("127.0.0.1") as there, aging(0.1) as transport:
        await whom(transport, f"http://127.0.0.1:{there.port}/hook")
        await until(lambda: there.open == 0)
        assert transport.open_connections == 0


@pytest.mark.parametrize("max_age", [None, 3600.0])
async def test_a_connection_that_is_not_old_is_used_again(max_age: float | None) -> None:
    async with machine("127.0.0.1") as there, aging(max_age) as transport:
        await whom(transport, f"http://127.0.0.1:{there.port}/hook", 20)
        assert there.accepted == 1


async def test_connections_made_together_do_not_all_end_together() -> None:
    ended: list[float] = []

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.gone()
        ended.append(asyncio.get_running_loop().time())

    async with backend(play) as there, aging(1.0) as transport:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(whom(transport, there.url) for _ in range(16)))
        await until(lambda: len(ended) == 16)
    assert min(ended) - began >= 0.75
    assert max(ended) - min(ended) > 0.05  # of the 0.2 over which they are spread


async def test_a_shorter_age_holds_for_connections_that_are_open_already() -> None:
    async with machine("127.0.0.1") as there, aging(None) as transport:
        url = f"http://127.0.0.1:{there.port}/hook"
        await whom(transport, url)
        await asyncio.sleep(0.05)
        transport.configure(TransportSettings(max_age=0.01, connect_timeout=PATIENCE))
        await whom(transport, url)
        await until(lambda: there.open == 0)


# --- one of two addresses is dead ---


async def test_a_silent_first_address_costs_the_first_hook_alone_even_without_kept_connections() -> None:
    name = Name(A, B)
    async with (
        machine(B) as there,
        transport_of(Resolver(name.look_up), connect_timeout=PATIENCE, keepalive=None) as transport,
    ):
        with silent(A, there.port):
            began = time.monotonic()
            assert await whom(transport, there.url, 40) == {B}
            assert time.monotonic() - began < 20 * ATTEMPT_DELAY


async def test_upstreams_that_share_a_resolver_share_what_it_knows_of_dead_addresses() -> None:
    known = Resolver(Name(A, B).look_up)
    async with machine(B) as there:
        with silent(A, there.port):
            began = time.monotonic()
            for _ in range(20):
                async with transport_of(known, connect_timeout=PATIENCE) as transport:
                    assert await whom(transport, there.url) == {B}
            assert time.monotonic() - began < 10 * ATTEMPT_DELAY


async def test_silence_delays_the_next_address_by_its_share_where_that_is_short() -> None:
    async with machine(C) as there, transport_of(Resolver(Name(A, B, C).look_up), connect_timeout=0.5) as transport:
        with silent(A, there.port), silent(B, there.port):
            assert await whom(transport, there.url) == {C}


async def test_all_addresses_silent_is_no_connection_in_time_and_leaves_none() -> None:
    async with machine(C) as there, transport_of(Resolver(Name(A, B).look_up), connect_timeout=0.3) as transport:
        with silent(A, there.port), silent(B, there.port):
            for _ in range(3):
                with pytest.raises(ConnectTimedOut):
                    await whom(transport, there.url)
        assert transport.open_connections == 0


async def test_all_addresses_refused_is_a_refusal() -> None:
    with socket.socket() as bound:
        bound.bind((A, 0))
        async with transport_of(Resolver(Name(A, B).look_up)) as transport:
            with pytest.raises(ConnectFailed, match="refused"):
                await whom(transport, f"http://backend.example:{bound.getsockname()[1]}/hook")


async def test_a_dead_address_that_is_back_gets_hooks_again_and_no_hook_waited_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "AGAIN_AFTER", 0.05)
    async with (
        machine(B) as there,
        transport_of(Resolver(Name(A, B).look_up), connect_timeout=PATIENCE, keepalive=None) as transport,
    ):
        with silent(A, there.port):
            await whom(transport, there.url)
            began = time.monotonic()
            for _ in range(20):  # each of them comes with another trial of the dead one
                assert await whom(transport, there.url) == {B}
                await asyncio.sleep(0.06)
            assert time.monotonic() - began < 20 * (0.06 + ATTEMPT_DELAY / 2)
        async with machine(A, there.port) as back:
            answers: list[str] = []
            busy = asyncio.create_task(keep_busy(transport, there.url, answers, lanes=1))
            await until(lambda: answers[-1:] == [A])
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            await until(lambda: back.open == 0)  # the trial's too


async def test_the_first_address_dies_and_the_other_one_stands_in_until_it_is_tried_again() -> None:
    async with (
        machine(B) as second,
        transport_of(Resolver(Name(A, B).look_up), connect_timeout=PATIENCE, keepalive=None) as transport,
    ):
        async with machine(A, second.port):
            assert await whom(transport, second.url, 3) == {A}
            assert second.accepted == 0  # no connection is made for nothing
        assert await whom(transport, second.url, 3) == {B}
        async with machine(A, second.port):
            assert await whom(transport, second.url, 3) == {B}  # not tried again so soon


async def test_a_hook_that_gives_up_says_nothing_of_the_addresses_and_leaves_no_connection() -> None:
    known = Resolver(Name(A, B).look_up)
    async with machine(B) as there, transport_of(known, connect_timeout=PATIENCE) as transport:
        with silent(A, there.port):
            hook = asyncio.create_task(exchange(transport, there.url))
            await asyncio.sleep(0.05)
            hook.cancel()
            await asyncio.gather(hook, return_exceptions=True)
            assert transport.open_connections == 0
            assert known.failed.order((A, B), there.port) == [A, B]


async def test_the_loser_of_two_that_answer_is_closed() -> None:
    """A TLS handshake that hangs is no answer: the next address is dialled, and wins."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    pem = Path(__file__).parents[2] / "config" / "pem"
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pem / "certificate.pem", pem / "key.pem")

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"B")
        await peer.gone()

    hanging, played = Backend(silence), Backend(play)
    first = await asyncio.start_server(hanging.connected, A, 0)
    port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(played.connected, B, port, ssl=served)
    settings = TransportSettings(connect_timeout=PATIENCE, tls=context)
    transport = Transport(settings, resolver=Resolver(Name(A, B).look_up))
    try:
        assert await exchange(transport, f"https://backend.example:{port}/hook") == b"B"
        await until(lambda: hanging.accepted == 1 and hanging.open == 0)
        assert transport.open_connections == 1
    finally:
        await transport.aclose()
        for server in (first, second):
            server.close()
        await hanging.stop()
        await played.stop()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EADDRNOTAVAIL])
async def test_what_this_machine_lacks_says_nothing_of_the_addresses(error: int) -> None:
    failed = FailedAddresses()

    async def dial(address: str) -> Connection:
        raise OSError(error, "own limit")

    with pytest.raises(OSError, match="own limit"):
        await dial_first([A, B], 80, asyncio.get_running_loop().time() + 1, dial, failed)
    assert failed.order((A, B), 80) == [A, B]


# --- the memory itself ---

ADDRESSES = st.sampled_from((A, B, C, "192.0.2.1", "2001:db8::1"))
PORTS = st.sampled_from((80, 443))


class Memory(RuleBasedStateMachine):
    """FailedAddresses against its plainest description: a list of what failed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = FailedAddresses()
        self.now = 0.0
        self.model: dict[tuple[str, int], float] = {}

    @rule(address=ADDRESSES, port=PORTS)
    def fails(self, address: str, port: int) -> None:
        self.failed.add(address, port, self.now)
        self.model.pop((address, port), None)
        self.model[address, port] = self.now

    @rule(address=ADDRESSES, port=PORTS)
    def answers(self, address: str, port: int) -> None:
        self.failed.discard(address, port)
        self.model.pop((address, port), None)

    @rule(seconds=st.floats(0, 60))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(addresses=st.lists(ADDRESSES, unique=True, min_size=1), port=PORTS)
    def is_ordered(self, addresses: list[str], port: int) -> None:
        found = self.failed.order(addresses, port)
        good = [address for address in addresses if (address, port) not in self.model]
        assert found[: len(good)] == good
        assert sorted(found) == sorted(addresses)
        places = [list(self.model).index((address, port)) for address in found[len(good) :]]
        assert places == sorted(places, reverse=True)

    @rule(addresses=st.lists(ADDRESSES, unique=True, min_size=1), port=PORTS)
    def is_tried_again(self, addresses: list[str], port: int) -> None:
        due = self.failed.due(addresses, port, self.now)
        failed = [address for address in addresses if (address, port) in self.model]
        if len(failed) == len(addresses):
            assert due == []  # they are dialled in any case
            return
        assert due == [each for each in failed if self.now - self.model[each, port] >= dial.AGAIN_AFTER]
        self.model.update({(address, port): self.now for address in due})
        assert self.failed.due(addresses, port, self.now) == []


TestMemory = Memory.TestCase


def test_the_memory_of_dead_addresses_is_bounded() -> None:
    failed = FailedAddresses()
    for number in range(5000):
        failed.add(f"2001:db8::{number:x}", 80, float(number))
    assert repr(failed).count("2001:db8") <= 512
    assert failed.order(("2001:db8::1387", "192.0.2.1"), 80) == ["192.0.2.1", "2001:db8::1387"]


@given(st.lists(st.sampled_from(("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8::3"))))
def test_families_take_turns_and_each_keeps_its_order(addresses: list[str]) -> None:
    found = interleave(addresses)
    distinct = list(dict.fromkeys(addresses))
    assert sorted(found) == sorted(distinct)
    for is_six in (True, False):
        assert [each for each in found if (":" in each) is is_six] == [
            each for each in distinct if (":" in each) is is_six
        ]
    assert found[:1] == tuple(distinct[:1])
    families = [":" in each for each in found]
    shorter = min(families.count(True), families.count(False))
    assert all(one is not other for one, other in itertools.pairwise(families[: 2 * shorter]))
