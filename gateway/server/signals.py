"""What every signal means to a process that serves, from its first line to its last.

One handler stays installed for the whole life of the process: before the imports, while the event loop stands, and
after it. So there is no moment at which a signal has the system's meaning, which for most of them is to end the process
without answering what is in flight, and for process 1 of a container is to be lost.

This module is imported before all others: it imports nothing that takes more than a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Final, NoReturn


class Meaning(Enum):
    """What a process does when a signal comes; the values are for the documentation."""

    DRAIN = "drain"
    """Answer what is in flight, then end; a second one ends at once."""
    END = "end"
    """End at once: hooks in flight get their fallback."""
    RELOAD = "reload"
    IGNORE = "ignore"
    """Log it, and go on."""


_BY_SIGNAL: Final = 128
"""Added to a signal's number: the exit status of a command that it has ended, as shells have it."""
FAULTS: Final = {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
}  # fmt: skip
"""A defect, or systemd's watchdog (SIGABRT): they end the process where it is, with a core file if one is wanted."""
IGNORED_BY_DEFAULT: Final = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,  # the system ignores these
    signal.SIGPIPE, signal.SIGXFSZ,  # Python ignores these: the call that caused one gets an error
}  # fmt: skip
_MOST_KEPT: Final = 2
"""Times that the same signal is kept: a second one ends at once, and a third does where nobody takes these two."""
_NOT_OURS: Final = {signal.SIGKILL, signal.SIGSTOP, *FAULTS, *IGNORED_BY_DEFAULT}

MEANINGS: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys(sorted(signal.valid_signals() - _NOT_OURS), Meaning.IGNORE),
    signal.SIGTERM: Meaning.DRAIN,
    signal.SIGINT: Meaning.DRAIN,
    signal.SIGPWR: Meaning.DRAIN,  # LXC asks a container's process 1 to end by this one
    signal.SIGXCPU: Meaning.DRAIN,  # the soft limit of CPU time; the hard one kills
    signal.SIGQUIT: Meaning.END,
    signal.SIGHUP: Meaning.RELOAD,
}
"""Of the gateway's own process: alone, or the parent of workers."""

WORKER_MEANINGS: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys(MEANINGS, Meaning.IGNORE),  # what is sent to the whole group is meant for the parent
    signal.SIGTERM: Meaning.DRAIN,
    signal.SIGXCPU: Meaning.DRAIN,
}
"""Of a worker: its parent tells it over their channel what to do."""


class Receiver:
    """What the event loop does for each meaning."""

    def __init__(
        self,
        *,
        drain: Callable[[], None],
        end: Callable[[], None] = lambda: None,
        reload: Callable[[], None] = lambda: None,
        ignore: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._callbacks = {Meaning.DRAIN: drain, Meaning.END: end, Meaning.RELOAD: reload}
        self._ignore = ignore

    def take(self, number: int, meaning: Meaning) -> None:
        """Do what the signal means; to be called by the event loop."""
        if meaning is Meaning.IGNORE:
            self._ignore(signal_name(number))
        else:
            self._callbacks[meaning]()


class Process:
    """The signals of this process; there is one of these, ``PROCESS``."""

    def __init__(self) -> None:
        self._meanings: Mapping[int, Meaning] = {}
        self._pass_on: Callable[[int, Meaning], object] | None = None
        """The event loop's, while it stands."""
        self._kept: list[tuple[int, Meaning]] = []
        """What came before the event loop stood."""
        self._is_to_end_in_order = False
        self._is_leaving = False
        self._leave: Callable[[], object] = lambda: None
        self._status = 0

    def install(self, meanings: Mapping[int, Meaning]) -> None:
        """Give every signal its meaning, here and now; for the main thread."""
        self._meanings = meanings
        for number in meanings:
            with contextlib.suppress(OSError):  # one that a tool such as valgrind keeps for itself
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one inherited as ignored would hide how workers ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    def defer_signals(self, leave: Callable[[], object]) -> None:
        """From now on the end is to be an orderly one: a signal that comes too early for the event loop is kept for it.

        *leave* is called where a signal ends the process after that; it takes half a second at most.
        """
        self._leave = leave
        self._is_to_end_in_order = True

    @contextlib.contextmanager
    def forward_to(self, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Have the event loop take the signals inside the block, those first that came before it."""
        self._pass_on = lambda number, meaning: loop.call_soon_threadsafe(receiver.take, number, meaning)
        try:
            while self._kept:
                self._pass_on(*self._kept.pop(0))
            yield
        except BaseException:
            self._status = 1
            raise
        finally:
            self._is_to_end_in_order = False  # it has
            self._pass_on = None

    @contextlib.contextmanager
    def exit_at_end(self) -> Iterator[None]:
        """End the process as the block ends: by itself, Python would reset the signals first, and then end."""
        status: object = 0
        try:
            yield
        except SystemExit as exc:
            status = exc.code
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status if isinstance(status, int) else 0)

    def _on_signal(self, number: int, frame: object) -> None:
        meaning = self._meanings[number]
        if self._pass_on is not None:
            self._pass_on(number, meaning)
            return
        ends = meaning in (Meaning.DRAIN, Meaning.END)
        count = self._kept.count((number, meaning))
        if self._is_leaving:
            return  # signals that come again and again would else begin the end again and again, each inside the last
        if ends and (not self._is_to_end_in_order or count == _MOST_KEPT):
            self._is_leaving = True
            try:
                self._leave()
            finally:
                os._exit(self._status)
        if count < _MOST_KEPT:
            self._kept.append((number, meaning))


PROCESS: Final = Process()


def signal_name(number: int) -> str:
    """As kill(1) and the manuals have it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt inside the block, and end the process without a word before and after it.

    As process 1, SIGTERM, which the system would drop, ends it too.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            yield
        finally:
            signal.signal(signal.SIGINT, _end)
    except KeyboardInterrupt:
        _end(signal.SIGINT, None)


def _end(number: int, frame: object) -> NoReturn:
    os._exit(_BY_SIGNAL + number)
