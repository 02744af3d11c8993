"""A hook that comes to several workers is one worker's, and nobody gets another hook's verdict."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    backend_allow,
    backend_reject,
    fallback_ruling,
)
from gateway.policy.shared import Claim, Claims
from gateway.policy.shared.claims import HANDOVER_TIME, MAX_ANSWER, KnownVerdict
from gateway.policy.shared.memory import ARENA, ROWS, SILENCE_LIMIT, create_memory
from tests.policy.shared.workers import Workers, workers

BODY = b'{"appKey":"a"}'
KEY = 7
LATE = fallback_ruling(Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "late", 504), Fallback(), BODY)
ECHOED = fallback_ruling(
    Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "late"), Fallback(frozenset({Cause.TIMEOUT})), BODY
)
CHANGED = backend_allow(b'{"appKey":"a","callee":"1000"}').annotate(changed_fields="callee")
RULINGS = (backend_allow(BODY), backend_reject(), backend_allow(b'{"n":1}'), LATE, ECHOED, CHANGED)


def mine(claims: Claims, now: float, key: int = KEY) -> Claim:
    found = claims.take(key, BODY, now, now + 5.0)
    assert isinstance(found, Claim)
    assert found.mine
    return found


def theirs(claims: Claims, now: float, key: int = KEY) -> Claim:
    found = claims.take(key, BODY, now, now + 5.0)
    assert isinstance(found, Claim)
    assert not found.mine
    return found


def verdict(found: KnownVerdict | Claim | None) -> Ruling:
    assert isinstance(found, KnownVerdict)
    return found.ruling


@pytest.mark.parametrize("ruling", RULINGS)
def test_a_verdict_is_known_to_all_with_every_word_of_it_for_its_time(ruling: Ruling) -> None:
    with workers(2) as running:
        one, other = map(Claims, running.memories)
        claim = mine(one, running.now)
        waiting = theirs(other, running.now)
        assert other.look(waiting, BODY) is waiting
        one.finish(claim, BODY, ruling, running.now, 10.0)
        assert verdict(other.look(waiting, BODY)) == ruling
        running.advance(4.0)
        found = other.take(KEY, BODY, running.now, running.now + 5.0)
        assert verdict(found) == ruling
        assert isinstance(found, KnownVerdict)
        assert found.keep == pytest.approx(6.0, abs=0.001)
        running.advance(6.0)
        mine(other, running.now)


def test_a_verdict_that_is_not_kept_is_for_those_who_waited_for_it() -> None:
    with workers(3) as running:
        one, other, third = map(Claims, running.memories)
        claim = mine(one, running.now)
        waiting = theirs(other, running.now)
        one.finish(claim, BODY, LATE, running.now, None)
        running.advance(HANDOVER_TIME / 2)
        assert verdict(other.look(waiting, BODY)) == LATE
        again = mine(third, running.now)
        assert other.look(waiting, BODY) is None
        third.finish(again, BODY, backend_reject(), running.now, 1.0)


def test_a_hook_without_a_verdict_is_free_for_the_next() -> None:
    with workers(2) as running:
        one, other = map(Claims, running.memories)
        claim = mine(one, running.now)
        waiting = theirs(other, running.now)
        one.drop(claim)
        assert other.look(waiting, BODY) is None
        mine(other, running.now)


def test_the_claim_of_a_worker_that_is_dead_stopped_or_past_its_time_is_free_for_the_next() -> None:
    with workers(3) as running:
        one, other, third = map(Claims, running.memories)
        mine(one, running.now)
        waiting = theirs(other, running.now)
        running.replace(0)
        assert other.look(waiting, BODY) is None
        claim = mine(other, running.now)
        running.stopped.add(1)
        running.advance(SILENCE_LIMIT * 0.9)
        waiting = theirs(third, running.now)
        running.advance(SILENCE_LIMIT * 0.2)
        assert third.look(waiting, BODY) is None
        mine(third, running.now)
        other.finish(claim, BODY, LATE, running.now, 10.0)  # it goes on after all: too late
        theirs(Claims(running.memories[0]), running.now)
        running.advance(10.0)
        mine(Claims(running.memories[0]), running.now)


def test_what_is_too_large_or_overwritten_is_not_known() -> None:
    with workers(2) as running:
        one, other = map(Claims, running.memories)
        claim = mine(one, running.now)
        waiting = theirs(other, running.now)
        one.finish(claim, BODY, backend_allow(bytes(MAX_ANSWER)), running.now, 10.0)
        assert other.look(waiting, BODY) is None
        large = backend_allow(bytes(MAX_ANSWER - 200))
        for key in range(1, ARENA // MAX_ANSWER + 3):
            one.finish(mine(one, running.now, key), BODY, large, running.now, 10.0)
        known = [
            key
            for key in range(1, ARENA // MAX_ANSWER + 3)
            if isinstance(other.take(key, BODY, running.now, running.now), KnownVerdict)
        ]
        assert known == list(range(3, ARENA // MAX_ANSWER + 3))


async def test_whoever_follows_a_claim_is_told_what_comes_of_it() -> None:
    with workers(2) as running:
        one, other = map(Claims, running.memories)
        claim = mine(one, running.now)
        lost = mine(one, running.now, KEY + 1)
        followed = [other.follow(theirs(other, running.now), BODY) for _ in range(3)]
        followed.append(other.follow(theirs(other, running.now, KEY + 1), BODY))
        followed[1].cancel()
        await asyncio.sleep(0.02)
        assert not any(future.done() for future in (followed[0], *followed[2:]))
        one.finish(claim, BODY, LATE, running.now, 1.0)
        one.drop(lost)
        assert await followed[0] == await followed[2] == KnownVerdict(LATE, 0.0)
        assert await followed[3] is None
        async with asyncio.timeout(10.0):
            while other._timer is not None:
                await asyncio.sleep(0.01)
        other.close()


class Machine(RuleBasedStateMachine):
    """Three workers and more hooks of one row than it has places, in any order of steps, with deaths and stops."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Workers(3)
        self.flights: dict[tuple[int, int], Claim] = {}
        self.following: list[tuple[int, int, Claim]] = []
        self.said: dict[int, set[bytes]] = {}
        """Verdicts of each hook, ever."""
        self.kept: dict[int, tuple[bytes, float]] = {}
        """The newest verdict of each hook that is kept, and until when."""
        self.number = 0

    @initialize()
    def begin(self) -> None:
        self.running.__enter__()
        self.claims = [Claims(one) for one in self.running.memories]

    def teardown(self) -> None:
        self.running.__exit__()

    slots = st.integers(0, 2)
    hooks = st.integers(1, 12)

    @rule(slot=slots, hook=hooks)
    def come(self, slot: int, hook: int) -> None:
        if slot in self.running.stopped or (slot, hook) in self.flights:
            return  # as ``Duplicates`` has it: a repeat joins there
        now = self.running.now
        found = self.claims[slot].take(hook * ROWS, BODY, now, now + 3.0)
        if isinstance(found, KnownVerdict):
            answer, until = self.kept[hook]
            assert found.ruling.body == answer
            assert now < until + 0.001
        elif isinstance(found, Claim) and found.mine:
            for other in range(3):
                if other not in self.running.stopped and (flight := self.flights.get((other, hook))) is not None:
                    # Another asks already: then it has lost its place to hooks of the same row, or is overdue.
                    assert self.claims[slot].look(flight, BODY) is None
            self.flights[slot, hook] = found
        else:
            assert isinstance(found, Claim)
            self.following.append((slot, hook, found))

    @rule(slot=slots, hook=hooks, keep=st.sampled_from([None, 1.0, 20.0]))
    def come_to_a_verdict(self, slot: int, hook: int, keep: float | None) -> None:
        claim = self.flights.get((slot, hook))
        if slot in self.running.stopped or claim is None:
            return
        del self.flights[slot, hook]
        self.number += 1
        ruling = backend_allow(b'{"n":%d}' % self.number)
        self.said.setdefault(hook, set()).add(ruling.body)
        in_force = self.claims[slot].look(claim, BODY) is not None
        self.claims[slot].finish(claim, BODY, ruling, self.running.now, keep)
        if in_force and keep is not None:
            self.kept[hook] = (ruling.body, self.running.now + keep)

    @rule(slot=slots, hook=hooks)
    def come_to_none(self, slot: int, hook: int) -> None:
        if slot not in self.running.stopped and (claim := self.flights.pop((slot, hook), None)) is not None:
            self.claims[slot].drop(claim)

    @precondition(lambda self: self.following)
    @rule()
    def look(self) -> None:
        slot, hook, claim = self.following.pop(0)
        if slot in self.running.stopped:
            return
        found = self.claims[slot].look(claim, BODY)
        if isinstance(found, KnownVerdict):
            assert found.ruling.body in self.said[hook], "another hook's verdict"
        elif found is claim:
            self.following.append((slot, hook, claim))

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.running.advance(seconds)

    @rule(slot=slots)
    def die(self, slot: int) -> None:
        self.claims[slot] = Claims(self.running.replace(slot))
        self.flights = {key: claim for key, claim in self.flights.items() if key[0] != slot}
        self.following = [one for one in self.following if one[0] != slot]

    @rule(slot=slots)
    def stop_or_go_on(self, slot: int) -> None:
        self.running.stopped ^= {slot}
        self.running.beat()


Machine.TestCase.settings = settings(stateful_step_count=60)
TestMachine = Machine.TestCase

_CLAIMER = """
import sys
from gateway.policy.shared import Claim, Claims, Memory
fd, slot, hooks = map(int, sys.argv[1:])
memory = Memory(fd, 3, slot)
claims = Claims(memory)
sys.stdin.readline()
for hook in range(1, hooks + 1):
    memory.beat()
    found = claims.take(hook * 2654435761 % 2**64, b"", 1.0, 1000.0)
    if isinstance(found, Claim) and found.mine:
        print(hook)
"""


def test_of_three_processes_that_claim_the_same_hooks_side_by_side_each_hook_is_one_s() -> None:
    hooks = 3000
    fd = create_memory(3)
    with_pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "pass_fds": (fd,)}
    children = [
        subprocess.Popen([sys.executable, "-c", _CLAIMER, str(fd), str(slot), str(hooks)], **with_pipes)
        for slot in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    claimed = [int(line) for child in children for line in child.communicate(timeout=60)[0].split()]
    assert [child.returncode for child in children] == [0] * 3
    assert sorted(claimed) == list(range(1, hooks + 1))
