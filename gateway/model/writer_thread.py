"""A bounded queue and the thread that empties it: slow or hanging output happens there, and no hook waits for it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

_AFTER_A_FAILURE: Final = 0.01
"""Seconds from a batch that could not be taken or written to the next one: memory may be short."""

T = TypeVar("T")


def _do_nothing() -> None:
    """The default *finish*."""


class WriterThread(Generic[T]):
    """Queues items and writes them in batches, in order, in its own thread.

    *write* is called in the thread with each batch; an exception ends the batch, not the thread. *finish* is called in
    the thread when it ends. A batch has at most *batch* items, and ends with the item that brings the sum of their
    sizes to *batch_size*.

    Only one thread at a time may call ``put``, usually the event loop's. Signal handlers may call ``end``, even where
    they interrupt ``put`` or ``end`` itself.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[T]], None],
        *,
        batch: int,
        batch_size: int = sys.maxsize,
        max_items: int = sys.maxsize,
        max_size: int = sys.maxsize,
        wake_at: int | None = None,
        every: float | None = None,
        finish: Callable[[], None] = _do_nothing,
    ) -> None:
        """The thread wakes up when *wake_at* items wait (by default a full batch), and at least *every* seconds."""
        self._write = write
        self._finish = finish
        self._batch = batch
        self._batch_size = batch_size
        self._max_items = max_items
        self._max_size = max_size
        self._wake_at = batch if wake_at is None else wake_at
        self._every = every
        self._queue: deque[tuple[T, int]] = deque()
        self._put = 0
        """Sum of the sizes of all items that were ever queued; changed only by the thread that calls ``put``."""
        self._done = 0
        """Sum of the sizes of all items whose room is free again; changed only by the writing thread."""
        self._in_hand = 0
        """Sum of the sizes in the current batch, until ``release``."""
        self._ending = False
        self._woken = threading.Condition()  # its lock is reentrant: see ``end``
        self._is_woken = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        return f"<WriterThread {self._thread.name} {len(self._queue)} waiting>"

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the system denies one."""
        self._thread.start()

    def put(self, item: T, size: int = 0) -> bool:
        """Queue an item; False where there is no room for it or the end has begun. Never waits."""
        queue = self._queue
        if len(queue) >= self._max_items or self._put - self._done + size > self._max_size or self._ending:
            return False
        self._put += size
        queue.append((item, size))
        if len(queue) == self._wake_at:
            self._wake()
        return True

    def release(self) -> None:
        """Free the room of the current batch. Called when *write* has returned; *write* may call it earlier."""
        self._done += self._in_hand
        self._in_hand = 0

    def end(self) -> None:
        """Accept no more items; the thread writes those that are queued, and ends. Does not wait."""
        self._ending = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end, at most *timeout* seconds. Blocks."""
        self._thread.join(timeout)

    def close(self, timeout: float) -> None:
        """End, and wait at most *timeout* seconds until what is queued is written. Blocks."""
        self.end()
        self.join(timeout)

    def give_up(self) -> int:
        """Drop what is still queued, without the current batch; returns the number of items."""
        dropped = 0
        with contextlib.suppress(IndexError):  # the thread takes them too
            while True:
                self._queue.popleft()
                dropped += 1
        return dropped

    def _wake(self) -> None:
        with self._woken:
            self._is_woken = True
            self._woken.notify()

    def _wait(self) -> None:
        with self._woken:
            if not self._is_woken:
                self._woken.wait(self._every)
            self._is_woken = False

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                is_last = self._ending  # before the queue is looked at: nothing is put after this was set
                while self._queue:
                    self._write_batch()
                if not is_last:
                    self._wait()
        finally:
            self._finish()

    def _write_batch(self) -> None:
        try:
            self._write(self._take())
        except Exception:
            time.sleep(_AFTER_A_FAILURE)
        finally:
            self.release()

    def _take(self) -> list[T]:
        batch: list[T] = []
        with contextlib.suppress(IndexError):  # they have been given up
            while len(batch) < self._batch and self._in_hand < self._batch_size:
                item, size = self._queue.popleft()
                self._in_hand += size
                batch.append(item)
        return batch
