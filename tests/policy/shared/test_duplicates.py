"""A flight at one worker and the same hook at another: joined, lost, late, cancelled."""

from __future__ import annotations

import asyncio

import pytest

from gateway.model.verdicts import Ruling, backend_allow
from gateway.policy.shared import Claims
from gateway.policy.shared.memory import Memory
from gateway.proxy.dedupe import Duplicates, OwnerLost
from tests.policy.shared.workers import Workers, workers

BODY = b'{"appKey":"a","callId":"1"}'
ALLOWED = backend_allow(b'{"n":1}')
KEY = 12345


@pytest.fixture
def always_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock is the real one here, and nobody says that he lives."""
    monkeypatch.setattr(Memory, "is_alive", lambda self, owner: owner == self._owner(self.owner_slot(owner)))


def attach(running: Workers) -> list[Duplicates]:
    return [Duplicates(claims=Claims(memory)) for memory in running.memories]


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_repeat_elsewhere_and_those_that_join_it_there_get_the_verdict(always_alive: None) -> None:
    with workers(2) as running:
        one, other = attach(running)
        first, second = one.begin(KEY, BODY), other.begin(KEY, BODY)
        assert await first.await_other_worker(soon()) is None
        waiting = asyncio.create_task(second.await_other_worker(soon()))
        joined = other.find(KEY, BODY, 0.0)
        assert isinstance(joined, asyncio.Future)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        first.finish(ALLOWED, soon(0.0), 10.0)
        assert await waiting == await joined == ALLOWED
        later = other.begin(KEY, BODY)
        assert await later.await_other_worker(soon()) == ALLOWED
        assert other.find(KEY, BODY, soon(0.0)) == ALLOWED, "from now on it is known here, too"


@pytest.mark.parametrize("how", ["leaves", "dies"])
async def test_of_those_who_wait_for_one_that_is_lost_one_asks(how: str, always_alive: None) -> None:
    with workers(3) as running:
        one, *others = attach(running)
        first, *rest = (each.begin(KEY, BODY) for each in (one, *others))
        assert await first.await_other_worker(soon()) is None
        waiting = [asyncio.create_task(flight.await_other_worker(soon())) for flight in rest]
        await asyncio.sleep(0.01)
        if how == "leaves":
            first.leave()
        else:
            running.replace(0)
        done, still = await asyncio.wait(waiting, timeout=10.0, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(still) == 1
        assert done.pop().result() is None
        asking = rest[0 if waiting[0].done() else 1]
        asking.finish(ALLOWED, soon(0.0), 10.0)
        results: list[Ruling | None] = [await task for task in still]
        assert results == [ALLOWED]


async def test_one_that_asks_again_has_its_claim_still(always_alive: None) -> None:
    with workers(2) as running:
        one, other = attach(running)
        first, second = one.begin(KEY, BODY), other.begin(KEY, BODY)
        assert await first.await_other_worker(soon()) is None
        claim = first._claim
        assert await first.await_other_worker(soon()) is None
        assert first._claim is claim
        waiting = asyncio.create_task(second.await_other_worker(soon()))
        await asyncio.sleep(0.01)
        first.finish(ALLOWED, soon(0.0), 10.0)
        assert await waiting == ALLOWED


async def test_who_waits_too_long_or_is_cancelled_leaves_the_other_worker_s_flight_alone(always_alive: None) -> None:
    with workers(2) as running:
        one, other = attach(running)
        first, late = one.begin(KEY, BODY), other.begin(KEY, BODY)
        assert await first.await_other_worker(soon()) is None
        with pytest.raises(TimeoutError):
            await late.await_other_worker(soon(0.01))
        joined = late.join()
        late.leave()
        with pytest.raises(OwnerLost):
            await joined
        cut = other.begin(KEY, BODY)
        task = asyncio.create_task(cut.await_other_worker(soon()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cut.leave()
        again = other.begin(KEY, BODY)
        waiting = asyncio.create_task(again.await_other_worker(soon()))
        await asyncio.sleep(0.01)
        first.finish(ALLOWED, soon(0.0), 10.0)
        assert await waiting == ALLOWED


async def test_while_the_table_is_locked_for_good_each_worker_asks(
    always_alive: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "lock", lambda self, at: False)
    with workers(2) as running:
        flights = [each.begin(KEY, BODY) for each in attach(running)]
        assert [await flight.await_other_worker(soon()) for flight in flights] == [None, None]
        for flight in flights:
            flight.finish(ALLOWED, soon(0.0), 10.0)
