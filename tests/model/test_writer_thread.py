"""The bounded queue with a writer thread: nobody waits for it, nothing is lost unseen, and it always ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.model.writer_thread import WriterThread
from tests.support.gateways import ROOT, wait_until

LIMIT: Final = 10.0


class Written:
    """What was written, batch by batch; holds up the thread while ``open`` is not set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.finished = 0

    def __call__(self, batch: list[Any]) -> None:
        self.begun.set()
        assert self.open.wait(LIMIT)
        self.batches.append(batch)

    def finish(self) -> None:
        self.finished += 1

    @property
    def items(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]


@pytest.fixture
def written() -> Iterator[Written]:
    written = Written()
    yield written
    written.open.set()


def started(written: Written, **options: Any) -> WriterThread[Any]:
    thread: WriterThread[Any] = WriterThread(
        "test", written, **{"batch": 4, "every": 0.01, "finish": written.finish, **options}
    )
    thread.start()
    return thread


def held(written: Written, **options: Any) -> WriterThread[Any]:
    """One whose thread has taken a first item, and hangs."""
    written.open.clear()
    thread = started(written, wake_at=1, **options)
    assert thread.put("first", 1)
    assert written.begun.wait(LIMIT)
    return thread


def test_items_are_written_in_order_in_batches_and_those_queued_at_the_end_too(written: Written) -> None:
    thread = held(written)
    for number in range(10):
        assert thread.put(number)
    thread.end()
    written.open.set()
    thread.join(LIMIT)
    assert written.batches == [["first"], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (thread.is_alive, written.finished) == (False, 1)


def test_a_batch_is_written_at_once_and_fewer_after_a_while(written: Written) -> None:
    thread = started(written, every=None, batch=3)
    for number in range(2):
        thread.put(number)
    assert not written.begun.wait(0.1)
    thread.put(2)
    assert wait_until(lambda: written.items == [0, 1, 2])
    thread.close(LIMIT)
    thread = started(written, every=0.05, batch=3)
    thread.put(3)
    assert wait_until(lambda: written.items == [0, 1, 2, 3])
    thread.close(LIMIT)


def test_what_has_no_room_is_refused_by_count(written: Written) -> None:
    thread = held(written, max_items=5)
    assert [thread.put(number) for number in range(7)] == [True] * 5 + [False] * 2
    written.open.set()
    thread.close(LIMIT)
    assert written.items == ["first", 0, 1, 2, 3, 4]


def test_what_has_no_room_is_refused_by_size_that_of_the_batch_in_hand_included(written: Written) -> None:
    thread = held(written, max_size=10)
    assert [thread.put("x", 4), thread.put("y", 4), thread.put("z", 4), thread.put("w", 1)] == [True, True, False, True]
    written.open.set()
    assert wait_until(lambda: len(written.items) == 4)
    assert wait_until(lambda: thread.put("v", 10))  # all of the room is there again
    thread.close(LIMIT)


def test_a_batch_is_bounded_in_size(written: Written) -> None:
    thread = held(written, batch=100, batch_size=10)
    for _ in range(5):
        thread.put("x", 6)
    written.open.set()
    thread.close(LIMIT)
    assert [len(batch) for batch in written.batches] == [1, 2, 2, 1]


def test_room_can_be_given_back_before_the_batch_is_written() -> None:
    hung, goes_on = threading.Event(), threading.Event()

    def write(batch: list[str]) -> None:
        thread.release()
        hung.set()
        assert goes_on.wait(LIMIT)

    thread = WriterThread("test", write, batch=1, max_size=10)
    thread.start()
    thread.put("x", 10)
    assert hung.wait(LIMIT)
    assert thread.put("y", 10)
    goes_on.set()
    thread.close(LIMIT)


def test_what_write_raises_costs_its_batch_alone() -> None:
    written: list[int] = []

    def write(batch: list[int]) -> None:
        if 0 in batch:
            raise MemoryError
        written.extend(batch)

    thread = WriterThread("test", write, batch=1)
    thread.start()
    for number in range(3):
        thread.put(number, 1)
    thread.close(LIMIT)
    assert written == [1, 2]


def test_after_the_end_nothing_is_taken(written: Written) -> None:
    thread = started(written)
    thread.close(LIMIT)
    assert not thread.put("late")
    assert written.items == []


def test_the_end_is_waited_for_no_longer_than_asked_and_what_is_left_can_be_given_up(written: Written) -> None:
    thread = held(written)
    for number in range(3):
        thread.put(number)
    thread.close(0.05)
    assert thread.is_alive
    assert thread.give_up() == 3
    written.open.set()
    thread.join(LIMIT)
    assert written.items == ["first"]
    assert not thread.is_alive


ENDED_BY_A_SIGNAL: Final = """
import signal, sys, time
from gateway.model.writer_thread import WriterThread
written = 0
def write(batch):
    global written
    written += len(batch)
thread = WriterThread("test", write, batch=1)
thread.start()
def on_alarm(number, frame):
    thread.close(10.0)
    sys.exit(0 if written == put - (not taken) or written == put else 3)
signal.signal(signal.SIGALRM, on_alarm)
put, taken = 0, True
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
while True:
    put, taken = put + 1, False
    taken = thread.put(0)
"""


@pytest.mark.parametrize("after", [0.011, 0.023, 0.037])
def test_a_signal_that_ends_it_amid_anything_it_does_waits_for_no_lock(after: float) -> None:
    done = subprocess.run([sys.executable, "-c", ENDED_BY_A_SIGNAL, str(after)], cwd=ROOT, timeout=30, check=False)
    assert done.returncode == 0
