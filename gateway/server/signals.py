"""What every signal means to a process that serves, from its first line to its last.

One handler stays installed for the whole life of the process: before the imports, while the event loop runs, and after
it. So a signal never has the system's meaning, which for most of them is to end the process without answering the hooks
in flight, and for process 1 of a container is to be ignored.

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
    """Answer the hooks in flight, then end; a second one ends at once."""
    END = "end"
    """End at once: hooks in flight get their fallback."""
    RELOAD = "reload"
    IGNORE = "ignore"
    """Log it, and go on."""


_BY_SIGNAL: Final = 128
"""Added to a signal's number: a shell's exit status of a command that the signal ended."""
FAULTS: Final = {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
}  # fmt: skip
"""A defect, or systemd's watchdog (SIGABRT): they end the process at once, with a core file if one is wanted."""
IGNORED_BY_DEFAULT: Final = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,  # the system ignores these
    signal.SIGPIPE, signal.SIGXFSZ,  # Python ignores these: the call that caused one gets an error
}  # fmt: skip
_MOST_KEPT: Final = 2
"""Times that the same signal is kept: a second one ends at once, and a third does if nothing has handled these two."""
_NOT_OURS: Final = {signal.SIGKILL, signal.SIGSTOP, *FAULTS, *IGNORED_BY_DEFAULT}

MEANINGS: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys(sorted(signal.valid_signals() - _NOT_OURS), Meaning.IGNORE),
    signal.SIGTERM: Meaning.DRAIN,
    signal.SIGINT: Meaning.DRAIN,
    signal.SIGPWR: Meaning.DRAIN,  # LXC asks process 1 of a container to end with this one
    signal.SIGXCPU: Meaning.DRAIN,  # the soft limit of CPU time; the hard one kills
    signal.SIGQUIT: Meaning.END,
    signal.SIGHUP: Meaning.RELOAD,
}
"""Of the gateway's main process: alone, or the parent of workers."""

WORKER_MEANINGS: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys(MEANINGS, Meaning.IGNORE),  # a signal to the whole group is meant for the parent
    signal.SIGTERM: Meaning.DRAIN,
    signal.SIGXCPU: Meaning.DRAIN,
}
"""Of a worker: its parent directs it over their channel."""

STORE_MEANINGS: Final[Mapping[int, Meaning]] = dict.fromkeys(MEANINGS, Meaning.IGNORE)
"""Of the store's process, which ends last: a signal to the whole group must not end it while workers still drain."""


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
        """Do what the signal means. Called by the event loop."""
        if meaning is Meaning.IGNORE:
            self._ignore(signal_name(number))
        else:
            self._callbacks[meaning]()


class Process:
    """The signals of this process. There is one instance, ``PROCESS``, as the system has one set of handlers."""

    def __init__(self) -> None:
        self._meanings: Mapping[int, Meaning] = {}
        self._pass_on: Callable[[int, Meaning], object] | None = None
        """To the event loop, while it runs."""
        self._kept: list[tuple[int, Meaning]] = []
        """What came before the event loop ran."""
        self._is_deferring = False
        self._is_leaving = False
        self._leave: Callable[[], object] = lambda: None
        self._status = 0

    def install(self, meanings: Mapping[int, Meaning]) -> None:
        """Install the handlers of these signals. Main thread only."""
        self._meanings = meanings
        for number in meanings:
            with contextlib.suppress(OSError):  # one that a tool such as valgrind reserves
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if inherited as ignored, it would hide how workers ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    def defer_signals(self, leave: Callable[[], object]) -> None:
        """From now on, keep a signal that comes before the event loop runs, so that the end is an orderly one.

        *leave* is called where a signal ends the process all the same; it takes half a second at most.
        """
        self._leave = leave
        self._is_deferring = True

    @contextlib.contextmanager
    def forward_to(self, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Inside the block, have the event loop handle the signals, first those that were kept."""

        def take(number: int, meaning: Meaning) -> None:
            if (
                self._pass_on is forward
            ):  # else the block ended before the loop got here, and nothing may follow its end
                receiver.take(number, meaning)

        def forward(number: int, meaning: Meaning) -> None:
            loop.call_soon_threadsafe(take, number, meaning)

        self._pass_on = forward
        try:
            while self._kept:
                forward(*self._kept.pop(0))
            yield
        except BaseException:
            self._status = 1
            raise
        finally:
            self._is_deferring = False  # the orderly end is over
            self._pass_on = None

    @contextlib.contextmanager
    def exit_at_end(self) -> Iterator[None]:
        """End the process when the block ends. Python itself would reset the signal handlers before it ends."""
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
            return  # else a stream of signals would begin the end again and again, each inside the last
        if ends and (not self._is_deferring or count == _MOST_KEPT):
            self._is_leaving = True
            try:
                self._leave()
            finally:
                os._exit(self._status)
        if count < _MOST_KEPT:
            self._kept.append((number, meaning))


PROCESS: Final = Process()


def signal_name(number: int) -> str:
    """The name as in kill(1) and the manuals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt inside the block, and end the process silently before and after it.

    In process 1, SIGTERM, which the system would drop, ends it too.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job
        yield
        return
    signal.signal(signal.SIGINT, _end)
    sys.unraisablehook = _end_where_interrupted
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            yield
        finally:
            signal.signal(signal.SIGINT, _end)
    except KeyboardInterrupt:
        _end(signal.SIGINT, None)


def _end_where_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    """End where Ctrl-C came inside a callback, such as the import system's: Python reports it there, and goes on."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end(signal.SIGINT, None)
    sys.__unraisablehook__(unraisable)


def _end(number: int, frame: object) -> NoReturn:
    os._exit(_BY_SIGNAL + number)
