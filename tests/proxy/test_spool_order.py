"""Nothing that was answered 200 is lost, no order within a call is broken, nothing comes twice.

Endpoints and redelivery of two workers, with a store in memory and a real backend, through random days.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, loads
from gateway.policy import redelivery as policy
from gateway.proxy import redelivery
from gateway.proxy.endpoint import HookEndpoint
from gateway.proxy.redelivery import Redelivery
from gateway.proxy.runtime import Runtime
from gateway.telemetry.metrics import Metrics
from tests.support.event_sink import HANG, OK, Sink
from tests.support.kept_events import KeptEvents, Shelf

PATIENCE = 30.0
WORKERS = 2
CALLS = 3


def configuration(port: int, upstream: str) -> Config:
    target = {"url": f"http://127.0.0.1:{port}/", "connect_timeout": "100ms", "breaker": {"open_for": "100ms"}}
    return loads(
        json.dumps(
            {
                "store": {"url": "sqlite:///tmp/nowhere/store.db"},
                "upstreams": {upstream: target},
                "apps": {"a": {"upstream": upstream, "timeout": "250ms", "spool": {"attempts": 1000}}},
            }
        )
    ).config


class Worker:
    """One of the processes that decide hooks."""

    def __init__(self, config: Config, shelf: Shelf) -> None:
        self.runtime = Runtime(config, Metrics("test"))
        self.store = KeptEvents(shelf)
        self.endpoint = HookEndpoint(self.runtime, (), keeper=self.store)
        self.redelivery = Redelivery(self.runtime, self.store)

    async def send(self, body: bytes) -> int:
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        scope = {
            "type": "http", "method": "POST", "raw_path": b"/rest/CallStatusEvent", "query_string": b"",
            "headers": [], "client": ("192.0.2.1", 5), "scheme": "http",
        }  # fmt: skip
        await self.endpoint(scope, receive, send)
        return statuses[0]


class Day:
    """What happens, and what must be true at its end."""

    def __init__(self) -> None:
        self.sink = Sink()
        self.shelf = Shelf()
        self.workers: list[Worker] = []
        self.duty = 0
        self.up = True
        self.numbers = iter(range(1_000_000))
        self.answered: list[tuple[int, int]] = []
        """Call and number of each event that was answered 200, in that order."""
        self.upstream = "php"

    async def begin(self) -> None:
        await self.sink.begin()
        config = configuration(self.sink.port, self.upstream)
        self.workers = [Worker(config, self.shelf) for _ in range(WORKERS)]
        self.workers[0].store.begin()

    async def send(self, call: int, worker: int) -> None:
        number = next(self.numbers)
        body = b'{"appKey":"a","callId":"call %d","number":%d}' % (call, number)
        if await self.workers[worker].send(body) == 200:
            self.answered.append((call, number))
        self.workers[self.duty].store.tell()

    async def answer_with(self, status: int) -> None:
        self.sink.status = lambda body: status

    async def poison(self, call: int) -> None:
        self.sink.status = lambda body: 500 if body["callId"] == f"call {call}" else OK

    async def switch(self) -> None:
        self.up = not self.up
        await (self.sink.begin() if self.up else self.sink.end())

    async def outage(self, call: int, worker: int) -> None:
        """An outage in which a call goes on, and from which it goes on at the other worker."""
        if self.up:
            await self.switch()
        await self.send(call, worker)
        await self.send(call, 1 - worker)
        await self.switch()
        await self.answer_with(OK)
        await self.send(call, worker)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def move_duty(self) -> None:
        self.workers[self.duty].store.end()
        while any(row.leased_to is self.workers[self.duty].store for row in self.shelf.rows.values()):
            await asyncio.sleep(0.005)  # the store waits for that as well
        self.duty = 1 - self.duty
        self.workers[self.duty].store.begin()

    async def drain(self) -> None:
        self.workers[self.duty].redelivery.pause(True)
        await asyncio.sleep(0.02)
        self.workers[self.duty].redelivery.pause(False)

    async def rename(self) -> None:
        self.upstream = "new" if self.upstream == "php" else "php"
        for worker in self.workers:
            change = await worker.runtime.prepare(configuration(self.sink.port, self.upstream))
            change.commit()
            await change.settle()

    async def end(self) -> None:
        """The backend is back: all that is owed comes, in order, once."""
        if not self.up:
            await self.switch()
        self.sink.status = lambda body: OK
        self.workers[self.duty].store.tell()
        async with asyncio.timeout(PATIENCE):
            while self.shelf.rows:
                await asyncio.sleep(0.005)
        # An answer that nobody read, as its connection ended, is none: the event is owed as before.
        came = list(enumerate(self.sink.recorded))
        last = {number: at for at, number in came}
        delivered = [number for at, number in came if at == last[number] or number not in self.sink.unread]
        assert Counter(delivered) == Counter(number for _, number in self.answered)
        for call in range(CALLS):
            owed = [number for its_call, number in self.answered if its_call == call]
            assert [number for number in delivered if number in set(owed)] == owed

    async def aclose(self) -> None:
        for worker in self.workers:
            await worker.redelivery.aclose()
            await worker.runtime.aclose()
        await self.sink.end()


calls = st.integers(0, CALLS - 1)
actions = st.one_of(
    st.tuples(st.just("send"), calls, st.integers(0, WORKERS - 1)),
    st.tuples(st.just("send"), calls, st.integers(0, WORKERS - 1)),
    st.tuples(st.just("send"), calls, st.integers(0, WORKERS - 1)),
    st.tuples(st.just("outage"), calls, st.integers(0, WORKERS - 1)),
    st.tuples(st.just("answer_with"), st.sampled_from([OK, 500, 503, HANG])),
    st.tuples(st.just("poison"), calls),
    st.tuples(st.just("switch")),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.1])),
    st.tuples(st.just("move_duty")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("rename")),
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Waits that are as long as the day needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redelivery, "retry_delay", lambda failures: 0.005)
        patch.setattr(redelivery, "TICK", 0.01)
        patch.setattr(policy, "FIRST_WAIT", 0.01)
        patch.setattr(policy, "MAX_WAIT", 0.02)
        yield


@given(st.lists(actions, min_size=5, max_size=30))
def test_nothing_is_lost_or_out_of_order_or_twice(day: list[tuple[Any, ...]]) -> None:
    async def live() -> None:
        today = Day()
        try:
            await today.begin()
            for name, *values in day:
                await getattr(today, name)(*values)
            await today.end()
        finally:
            await today.aclose()

    asyncio.run(live())
