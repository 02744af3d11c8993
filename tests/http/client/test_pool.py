"""The pool: its limit, its queue, and that no way of leaving keeps a place taken or a connection in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.http.client import AnswerTimedOut, ConnectionLost, QueueTimedOut, Transport, TransportSettings
from gateway.http.client.pool import Pool
from gateway.model.verdicts import Cause
from tests.http.client.loopback import (
    Peer,
    answer,
    backend,
    echo,
    established_to,
    exchange,
    hook,
    silence,
    transport_of,
    until,
)


def pool_of(transport: Transport) -> Pool:
    (pool,) = transport._pools.values()
    return pool


def at_rest(transport: Transport) -> bool:
    """Nothing waits, nothing is being opened, no place is taken, every open connection is idle."""
    return all(
        not pool._opening and not pool._busy and not pool._queue.waiting and len(pool._connections) == len(pool._idle)
        for pool in transport._pools.values()
    )


async def cancelled(task: asyncio.Task[bytes]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def exchange_then(transport: Transport, url: str, act: Callable[[], object]) -> None:
    """An exchange, and *act* right behind it, before any other task has noticed its end."""
    assert await exchange(transport, url, b"1") == b"1"
    act()


class Gate:
    """A backend that answers with the request's body once it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.arrived: list[bytes] = []

    async def play(self, peer: Peer) -> None:
        while True:
            body = (await peer.request()).partition(b"\r\n\r\n")[2]
            self.arrived.append(body)
            await self.open.wait()
            await peer.answer(body)


# --- the limit and the queue ---


async def test_no_more_connections_than_the_limit_are_open_and_the_rest_queue() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=3) as transport:
        bodies = [b"%d" % n for n in range(10)]
        tasks = [asyncio.create_task(exchange(transport, there.url, body)) for body in bodies]
        await until(lambda: len(gate.arrived) == 3)
        assert (transport.open_connections, transport.queued) == (3, 7)
        assert "3 open (0 idle), 0 opening, 3 busy, 7 queued, limit 3" in repr(transport)
        gate.open.set()
        assert await asyncio.gather(*tasks) == bodies
        assert there.most_open == 3
        assert at_rest(transport)


async def test_what_is_free_counts_down_to_the_limit_and_is_nothing_while_one_waits() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=3) as transport:
        free = [transport.free]
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(exchange(transport, there.url, b"%d" % number)))
            await asyncio.sleep(0)
            free.append(transport.free)
        assert free == [3, 2, 1, 0, 0, 0]
        gate.open.set()
        await asyncio.gather(*tasks)
        assert transport.free == 3


async def test_queued_requests_go_first_come_first_served() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        tasks = []
        for n in range(8):
            tasks.append(asyncio.create_task(exchange(transport, there.url, b"%d" % n)))
            await asyncio.sleep(0.005)
        await until(lambda: transport.queued == 7)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.arrived == [b"%d" % n for n in range(8)]


async def test_waiting_in_vain_for_a_connection_is_overload_and_asks_nobody() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange(transport, there.url, b"1"))
        await until(lambda: len(gate.arrived) == 1)
        with pytest.raises(QueueTimedOut) as caught:
            await exchange(transport, there.url, b"2", within=0.05)
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.OVERLOAD, True)
        assert transport.queued == 0
        gate.open.set()
        assert await first == b"1"
        assert gate.arrived == [b"1"]


async def test_a_raised_limit_lets_those_in_who_wait_already() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        tasks = [asyncio.create_task(exchange(transport, there.url, b"%d" % n)) for n in range(4)]
        await until(lambda: len(gate.arrived) == 1)
        transport.configure(TransportSettings(max_connections=4))
        try:
            await until(lambda: len(gate.arrived) == 4, seconds=2.0)
        finally:
            gate.open.set()
            await asyncio.gather(*tasks)


async def test_a_lowered_limit_holds_once_the_connections_above_it_are_free() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=4) as transport:
        tasks = [asyncio.create_task(exchange(transport, there.url, b"%d" % n)) for n in range(4)]
        await until(lambda: len(gate.arrived) == 4)
        transport.configure(TransportSettings(max_connections=2))
        late = asyncio.create_task(exchange(transport, there.url, b"late"))
        await until(lambda: transport.queued == 1)
        gate.open.set()
        assert await asyncio.gather(*tasks, late) == [b"0", b"1", b"2", b"3", b"late"]
        assert there.accepted == 4


# --- leaving at every stage gives the place back ---


async def test_a_request_cancelled_in_the_queue_leaves_it() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange(transport, there.url, b"1"))
        await until(lambda: len(gate.arrived) == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2"))
        await until(lambda: transport.queued == 1)
        await cancelled(second)
        assert transport.queued == 0
        gate.open.set()
        assert await first == b"1"
        assert await exchange(transport, there.url, b"3") == b"3"
        assert gate.arrived == [b"1", b"3"]
        assert at_rest(transport)


async def test_a_request_cancelled_while_connecting_gives_its_place_to_the_next() -> None:
    """The handshake hangs: the backend takes the connection and says nothing in TLS."""
    async with backend(silence) as there, transport_of(max_connections=1) as transport:
        url = there.url.replace("http:", "https:")
        first = asyncio.create_task(exchange(transport, url))
        await until(lambda: there.open == 1)
        second = asyncio.create_task(exchange(transport, url))
        await until(lambda: transport.queued == 1)
        assert (transport.open_connections, pool_of(transport)._opening) == (1, 1)
        await cancelled(first)
        await until(lambda: there.accepted == 2)
        await cancelled(second)
        await until(lambda: there.open == 0)
        assert (transport.open_connections, transport.queued) == (0, 0)


async def test_a_request_cancelled_while_it_is_written_ends_its_connection() -> None:
    async def reads_nothing(peer: Peer) -> None:
        await peer.head()
        await leave.wait()
        await peer.gone()
        left.set()

    leave, left = asyncio.Event(), asyncio.Event()
    async with backend(reads_nothing) as there, transport_of(max_connections=1) as transport:
        task = asyncio.create_task(exchange(transport, there.url, b"x" * 16_000_000))
        await until(lambda: there.open == 1)
        await asyncio.sleep(0.02)
        await cancelled(task)
        assert transport.open_connections == 0
        leave.set()
        await asyncio.wait_for(left.wait(), 5)


async def test_a_request_cancelled_while_the_backend_works_ends_its_connection() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        task = asyncio.create_task(exchange(transport, there.url, b"left"))
        await until(lambda: gate.arrived == [b"left"])
        await cancelled(task)
        assert transport.open_connections == 0
        gate.open.set()
        assert await exchange(transport, there.url, b"next") == b"next"
        assert there.accepted == 2


async def test_a_deadline_while_the_backend_works_ends_the_connection() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        with pytest.raises(AnswerTimedOut) as caught:
            await exchange(transport, there.url, b"slow", within=0.3)
        assert caught.value.failure.cause is Cause.TIMEOUT
        assert transport.open_connections == 0
        gate.open.set()
        assert await exchange(transport, there.url, b"next") == b"next"


async def test_a_request_cancelled_in_the_moment_of_its_turn_hands_the_connection_on() -> None:
    def leave_the_queue() -> None:
        second.cancel()

    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange_then(transport, there.url, leave_the_queue))
        await until(lambda: len(gate.arrived) == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2"))
        third = asyncio.create_task(exchange(transport, there.url, b"3"))
        await until(lambda: transport.queued == 2)
        gate.open.set()
        await first
        assert await third == b"3"
        with pytest.raises(asyncio.CancelledError):
            await second
        assert gate.arrived == [b"1", b"3"]
        assert there.accepted == 1
        assert at_rest(transport)


async def test_a_connection_handed_to_a_request_just_cancelled_is_not_kept_where_the_pool_is_closed() -> None:
    async def exchange_then_close() -> None:
        await exchange(transport, there.url, b"1")
        second.cancel()
        await transport.aclose()

    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange_then_close())
        await until(lambda: len(gate.arrived) == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2"))
        await until(lambda: transport.queued == 1)
        gate.open.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert transport.open_connections == 0


async def test_a_free_place_handed_to_a_request_just_cancelled_is_free_again() -> None:
    async def closes(peer: Peer) -> None:
        body = (await peer.request()).partition(b"\r\n\r\n")[2]
        await leave.wait()
        await peer.answer(body, b"Connection: close")

    def leave_the_queue() -> None:
        second.cancel()

    leave = asyncio.Event()
    async with backend(closes) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange_then(transport, there.url, leave_the_queue))
        await until(lambda: there.open == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2"))
        await until(lambda: transport.queued == 1)
        leave.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (transport.open_connections, transport.queued) == (0, 0)
        assert await exchange(transport, there.url, b"3") == b"3"


async def test_a_connection_that_dies_on_its_way_to_a_request_just_cancelled_is_not_kept() -> None:
    def both_at_once() -> None:
        connection.data_received(answer(b'{"of":"another"}'))
        second.cancel()

    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange_then(transport, there.url, both_at_once))
        await until(lambda: len(gate.arrived) == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2"))
        await until(lambda: transport.queued == 1)
        pool = pool_of(transport)
        (connection,) = pool._connections
        gate.open.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        kept = list(pool._idle)
        pool._idle.clear()  # a dead one left there keeps aclose() busy for ever
        assert kept == []
        assert transport.open_connections == 0


async def test_a_connection_that_dies_on_its_way_to_a_request_frees_its_place_once() -> None:
    async def play(peer: Peer) -> None:
        while True:
            body = (await peer.request()).partition(b"\r\n\r\n")[2]
            at_once.append(transport.open_connections)
            await leave.wait()
            await peer.answer(body)

    leave, at_once = asyncio.Event(), list[int]()
    async with backend(play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(
            exchange_then(transport, there.url, lambda: connection.data_received(answer(b'{"of":"another"}')))
        )
        await until(lambda: len(at_once) == 1)
        later = [asyncio.create_task(exchange(transport, there.url, b"%d" % n, fresh=True)) for n in range(2, 6)]
        await until(lambda: transport.queued == 4)
        (connection,) = pool_of(transport)._connections
        leave.set()
        await first
        assert await asyncio.gather(*later) == [b"2", b"3", b"4", b"5"]
        assert at_once == [1, 1, 1, 1, 1]
        assert at_rest(transport)


async def test_after_a_storm_of_cancellations_every_exchange_succeeds() -> None:
    async def sometimes_slow(peer: Peer) -> None:
        while True:
            body = (await peer.request()).partition(b"\r\n\r\n")[2]
            await asyncio.sleep(dice.choice((0.0, 0.0, 0.002, 0.01)))
            closing = dice.random() < 0.1
            await peer.answer(body, *((b"Connection: close",) if closing else ()))
            if closing:
                return

    async def caller(number: int) -> None:
        count = 0
        while time.monotonic() < until_then:
            count += 1
            body = b"%d/%d" % (number, count)
            task = asyncio.create_task(exchange(transport, there.url, body, within=dice.choice((0.004, 0.05, 5.0))))
            if dice.random() < 0.5:
                await asyncio.sleep(dice.choice((0.0, 0.0, 0.001, 0.005)))
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, httpx.TimeoutException):
                assert await task == body
                answered.add(body)
            assert transport.open_connections <= 10

    dice = random.Random(5)
    answered: set[bytes] = set()
    until_then = time.monotonic() + 1.5
    async with backend(sometimes_slow) as there, transport_of(max_connections=10) as transport:
        await asyncio.gather(*(caller(number) for number in range(20)))
        assert answered
        assert (transport.queued, at_rest(transport)) == (0, True)
        bodies = [b"after %d" % n for n in range(100)]
        assert await asyncio.gather(*(exchange(transport, there.url, body) for body in bodies)) == bodies
        assert at_rest(transport)
        await until(lambda: there.open == transport.open_connections <= 10)


# --- keeping connections ---


async def test_a_connection_is_used_again() -> None:
    async with backend(echo) as there, transport_of() as transport:
        for body in (b"1", b"2", b"3"):
            assert await exchange(transport, there.url, body) == body
        assert there.accepted == 1


async def test_keepalive_off_makes_a_connection_per_request_and_says_so() -> None:
    async def play(peer: Peer) -> None:
        heads.append(await peer.request())
        await peer.answer()
        await peer.gone()

    heads: list[bytes] = []
    async with backend(play) as there, transport_of(keepalive=None) as transport:
        for _ in range(3):
            await exchange(transport, there.url)
            assert transport.open_connections == 0
        assert there.accepted == 3
        assert all(b"\r\nConnection: close\r\n" in head for head in heads)
        await until(lambda: there.open == 0)


async def test_an_idle_connection_is_closed_when_its_time_is_over() -> None:
    async with backend(echo) as there, transport_of(keepalive=0.05) as transport:
        await exchange(transport, there.url)
        await until(lambda: there.open == 0 and transport.open_connections == 0)


@pytest.mark.parametrize("value", [b"timeout=1", b"max=100, timeout=1", b"TIMEOUT=0"])
async def test_a_connection_is_given_up_before_the_backends_own_promise_ends(value: bytes) -> None:
    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(b"{}", b"Keep-Alive: " + value)

    async with backend(play) as there, transport_of(keepalive=3600.0) as transport:
        await exchange(transport, there.url)
        await until(lambda: transport.open_connections == 0 and there.open == 0)


async def test_an_idle_connection_that_the_backend_closed_is_not_used() -> None:
    async def one_only(peer: Peer) -> None:
        await peer.request()
        await peer.answer()

    async with backend(one_only) as there, transport_of() as transport:
        await exchange(transport, there.url)
        await until(lambda: transport.open_connections == 0)
        await exchange(transport, there.url)
        assert there.accepted == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_ends_without_a_byte_is_a_harmless_loss(how: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        if how == "reset":
            peer.reset()

    async with backend(play) as there, transport_of() as transport:
        await exchange(transport, there.url)
        with pytest.raises(ConnectionLost) as caught:
            await exchange(transport, there.url)
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.UNREACHABLE, True)
        assert transport.open_connections == 0


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_ends_after_a_while_may_have_worked_on_the_request(how: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await asyncio.sleep(0.4)
        if how == "reset":
            peer.reset()

    async with backend(play) as there, transport_of() as transport:
        await exchange(transport, there.url)
        with pytest.raises(ConnectionLost) as caught:
            await exchange(transport, there.url)
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.UNREACHABLE, False)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_new_connection_that_ends_without_a_byte_is_no_harmless_loss(how: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        if how == "reset":
            peer.reset()

    async with backend(play) as there, transport_of() as transport:
        with pytest.raises(ConnectionLost) as caught:
            await exchange(transport, there.url)
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.UNREACHABLE, False)


async def test_a_kept_connection_that_breaks_off_after_a_byte_is_no_harmless_loss() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.send(b"H")
        await asyncio.sleep(0.05)
        peer.reset()

    async with backend(play) as there, transport_of() as transport:
        await exchange(transport, there.url)
        with pytest.raises(ConnectionLost) as caught:
            await exchange(transport, there.url)
        assert not caught.value.retry_safe


# --- answers that nobody asked for ---


class Babbler:
    """Answers the first request of the first connection and then says something unasked; echoes on all others."""

    def __init__(self, unasked: bytes) -> None:
        self.unasked = unasked
        self.go = asyncio.Event()

    async def play(self, peer: Peer) -> None:
        if peer.number > 1:
            return await echo(peer)
        await peer.answer((await peer.request()).partition(b"\r\n\r\n")[2])
        await self.go.wait()
        await peer.send(self.unasked)
        await peer.gone()
        return None


UNASKED = [answer(b'{"of":"another"}'), answer(status=b"408 Idle"), b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b"\r\n"]


@pytest.mark.parametrize("unasked", UNASKED, ids=["answer", "408", "interim", "byte", "line"])
async def test_bytes_on_an_idle_connection_end_it(unasked: bytes) -> None:
    babbler = Babbler(unasked)
    async with backend(babbler.play) as there, transport_of() as transport:
        assert await exchange(transport, there.url, b"1") == b"1"
        babbler.go.set()
        await until(lambda: transport.open_connections == 0)
        assert await exchange(transport, there.url, b"2") == b"2"
        assert there.accepted == 2


class LateAnswer:
    """A backend in a thread: its first connection sends another's answer unasked, independently of our own loop."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        self._listener = listener
        self._go, self._sent = threading.Event(), threading.Event()

    def run(self) -> None:
        for number in range(2):
            with contextlib.suppress(OSError):  # a reset, or the end of the test
                sock, _ = self._listener.accept()
                with sock:
                    self._serve(sock, first=number == 0)

    def _serve(self, sock: socket.socket, *, first: bool) -> None:
        sock.settimeout(10)
        while request := sock.recv(65536):
            sock.sendall(answer(request.partition(b"\r\n\r\n")[2]))
            if first:
                self._go.wait(10)
                sock.sendall(answer(b'{"of":"another"}'))
                self._sent.set()
                first = False

    def speak(self) -> None:
        """Send the unasked answer; back when it has arrived. Our loop stands still meanwhile and cannot see it."""
        self._go.set()
        assert self._sent.wait(10)
        time.sleep(0.01)


@pytest.fixture
def late_answer() -> Iterator[LateAnswer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = LateAnswer(listener)
        thread = threading.Thread(target=there.run, daemon=True)
        thread.start()
        yield there
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


async def test_an_unasked_answer_that_the_loop_has_not_seen_yet_is_nobodys(late_answer: LateAnswer) -> None:
    async with transport_of() as transport:
        assert await exchange(transport, late_answer.url, b"1") == b"1"
        late_answer.speak()
        assert await exchange(transport, late_answer.url, b"2") == b"2"


async def test_an_unasked_answer_is_nobodys_when_the_connection_goes_to_one_who_waits(late_answer: LateAnswer) -> None:
    async with transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange_then(transport, late_answer.url, late_answer.speak))
        second = asyncio.create_task(exchange(transport, late_answer.url, b"2"))
        await first
        assert await second == b"2"


async def test_bytes_behind_an_answer_end_the_connection() -> None:
    async def play(peer: Peer) -> None:
        body = (await peer.request()).partition(b"\r\n\r\n")[2]
        await peer.send(answer(body) + answer(b'{"of":"another"}'))
        await peer.gone()

    async with backend(play) as there, transport_of() as transport:
        for n in range(3):
            assert await exchange(transport, there.url, b"%d" % n) == b"%d" % n
            assert transport.open_connections == 0
        assert there.accepted == 3


async def test_an_answer_before_the_request_was_read_closes_the_connection_at_once() -> None:
    async def play(peer: Peer) -> None:
        await peer.head()
        await peer.answer(status=b"413 Too Large")
        await stalled.wait()
        await peer.gone()
        left.set()

    stalled, left = asyncio.Event(), asyncio.Event()
    async with backend(play) as there, transport_of() as transport:
        response = await transport.handle_async_request(hook(there.url, b"x" * 32_000_000))
        assert response.status_code == 413
        assert transport.open_connections == 0
        try:
            await until(lambda: established_to(there.port) == 0, seconds=3.0)
        finally:
            stalled.set()
        await asyncio.wait_for(left.wait(), 5)


# --- fresh connections ---


async def test_a_fresh_connection_is_a_new_one_though_another_is_idle() -> None:
    async with backend(echo) as there, transport_of() as transport:
        await exchange(transport, there.url)
        await exchange(transport, there.url, fresh=True)
        assert (there.accepted, transport.open_connections) == (2, 2)


async def test_an_idle_connection_makes_room_for_a_fresh_one_at_the_limit() -> None:
    async with backend(echo) as there, transport_of(max_connections=1) as transport:
        await exchange(transport, there.url)
        await exchange(transport, there.url, fresh=True)
        assert (there.accepted, transport.open_connections) == (2, 1)


async def test_a_fresh_connection_is_waited_for_like_any_other() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of(max_connections=1) as transport:
        first = asyncio.create_task(exchange(transport, there.url, b"1"))
        await until(lambda: len(gate.arrived) == 1)
        second = asyncio.create_task(exchange(transport, there.url, b"2", fresh=True))
        await until(lambda: transport.queued == 1)
        gate.open.set()
        assert list(await asyncio.gather(first, second)) == [b"1", b"2"]
        assert there.accepted == 2
        assert at_rest(transport)


# --- the end ---


async def test_closing_ends_idle_connections_at_once_and_busy_ones_after_their_exchange() -> None:
    gate = Gate()
    async with backend(gate.play) as there, transport_of() as transport:
        gate.open.set()
        await asyncio.gather(exchange(transport, there.url, b"1"), exchange(transport, there.url, b"2"))
        gate.open.clear()
        busy = asyncio.create_task(exchange(transport, there.url, b"3"))
        await until(lambda: len(gate.arrived) == 3)
        await transport.aclose()
        assert transport.open_connections == 1
        gate.open.set()
        assert await busy == b"3"
        await until(lambda: there.open == 0)
        assert transport.open_connections == 0
