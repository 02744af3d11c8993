"""The connection of one process to the server, kept open: commands go out together, and answers resolve futures.

While the server is away, ``call`` raises at once and ``send`` drops. The server counts as away when it cannot be
reached, rejects the password, cannot be written, or leaves a command unanswered for a second. A server that answers too
late for hurried callers is left alone by those, and serves the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any, Final, NamedTuple, Protocol

from gateway.config.sections.state import StateConfig
from gateway.config.sections.types import format_duration
from gateway.fleet.lateness import Lateness
from gateway.fleet.reasons import Away, StateUnavailable, makes_useless, refusal_reason
from gateway.fleet.scripts import Script
from gateway.fleet.subscriber import Subscriber
from gateway.fleet.wire import Argument, Refused, Wire
from gateway.model.keep_going import KeepGoing

logger = logging.getLogger(__name__)

_DIALER: Final = "gateway.fleet.dial:Dialer"
"""Loaded by name, so that without ``state`` nothing of redis-py is loaded or needed."""
ANSWER_LIMIT: Final = 1.0
"""Seconds after which a server that has not answered is taken to be gone; the limit of a ``call`` without its own."""
MAX_PENDING: Final = 10_000
"""Commands that may be unanswered; past it, more are dropped or fail."""
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds, at most, before the first, second, … attempt to connect again; half of it is left to chance."""
_PROVEN_AFTER: Final = 5.0
"""Seconds after which a connection has proved that it works."""
_WATCH_EVERY: Final = 0.25
_CLOSE_LIMIT: Final = 0.3
"""Seconds at the end for what is unanswered."""
_AWAY: Final = "the state's server is away"
_LATE: Final = "no answer in time"


class Dialer(Protocol):
    """Opens connections: see ``dial``."""

    async def dial(self) -> Wire:
        """A connection that is logged in. Raises Away."""

    async def aclose(self) -> None:
        """End what is under way."""


class _Pending(NamedTuple):
    """A command without an answer yet."""

    answer: asyncio.Future[Any] | None
    """None where nobody waits for it."""
    sent_at: float
    """By the loop's clock."""


class Link:
    """One connection to the ``state``. Build it in the running loop; ``start`` it once, and ``aclose`` it."""

    def __init__(
        self,
        config: StateConfig,
        name: str,
        *,
        on_late: Callable[[], None] = lambda: None,
        announce: bool = False,
    ) -> None:
        """*name*: what CLIENT LIST of the server shows. *on_late* is called for each answer that was late.

        *announce*: whether changes are logged: one of a gateway's processes does so.
        """
        self.error: str | None = "not connected yet"
        """Why the server cannot be used or is slow, in words without secrets; None where all is well."""
        self.dropped = 0
        """Commands of ``send`` that never went out."""
        self.on_up: list[Callable[[], None]] = []
        """Called in the loop after each connect, when commands can be sent."""
        self.on_down: list[Callable[[], None]] = []
        """Called in the loop when the connection is lost."""
        self._config = config
        self._name = name
        self._on_late = on_late
        self._announce = announce
        self._announced: bool | None = None
        """Whether the last thing logged is that the server is up; None before the first."""
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._pending: deque[_Pending] = deque()
        self._scripts: dict[str, Script] = {}
        self._dialer: Dialer | None = None
        self._subscriber = Subscriber(self._dial)
        self._lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._suspect: _Pending | None = None
        self._lateness = Lateness()
        self._keep_going = KeepGoing("what follows a change of the state's connection")

    def __repr__(self) -> str:
        return f"<Link {self._name} {'up' if self.up else 'away'}, {len(self._pending)} unanswered, {self.error}>"

    # --- what others use ---

    @property
    def up(self) -> bool:
        """Whether commands can be sent now."""
        return self._wire is not None

    @property
    def local_host(self) -> str | None:
        """The address by which the server's network knows this machine; None while there is no connection."""
        return None if self._wire is None else self._wire.local_host

    def key(self, *parts: str) -> str:
        """A key or channel of the fleet: the configured prefix and the parts."""
        return self._config.prefix + "".join(parts)

    async def start(self) -> None:
        """Begin to connect; returns at once, whether the server is there or not. Raises ImportError: see ``dial``."""
        self._dialer = resolve_name(_DIALER)(self._config, self._name)
        self._keeping = asyncio.create_task(self._keep_connected())
        self._subscriber.start()

    async def aclose(self) -> None:
        """Wait a moment for what is unanswered, and close the connections."""
        if self._wire is not None and self._pending:
            ends = self._submit(("PING",), self._loop.create_future())
            with contextlib.suppress(TimeoutError, StateUnavailable, Refused):
                await asyncio.wait_for(ends, _CLOSE_LIMIT)
        await self._subscriber.aclose()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._end("the gateway ends")
        if self._dialer is not None:
            await self._dialer.aclose()

    def send(self, *command: Argument) -> None:
        """Send a command whose answer nobody needs; dropped and counted while the server is away or far behind."""
        if self._is_blocked():
            self.dropped += 1
        else:
            self._submit(command, None)

    async def call(self, *command: Argument, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - not cancelled
        """The answer to a command, within *timeout* seconds; None means ANSWER_LIMIT. Strings are bytes.

        Raises StateUnavailable: the server is away, late, or refuses the command. It may have been carried out.
        """
        limit = ANSWER_LIMIT if timeout is None else timeout
        if self._is_blocked():
            raise StateUnavailable(_AWAY)
        if self._lateness.is_resting(limit, self._loop.time()):
            raise StateUnavailable(self.error or _LATE)
        answer = self._submit(command, self._loop.create_future())
        timer = self._loop.call_later(limit, self._give_up, answer, limit, self._loop.time())
        try:
            return await answer
        except Refused as exc:
            raise StateUnavailable(refusal_reason(exc.code, str(exc))) from exc
        finally:
            timer.cancel()

    def load(self, script: Script) -> None:
        """Have the server know a script, now and after each connect."""
        self._scripts[script.digest] = script
        if self._wire is not None:
            self.send("SCRIPT", "LOAD", script.text)

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as that of call
    ) -> Any:
        """What a loaded script returns. Raises as ``call`` does."""
        try:
            return await self.call(*script.command(keys, arguments), timeout=timeout)
        except StateUnavailable as exc:
            if not isinstance(exc.__cause__, Refused) or exc.__cause__.code != "NOSCRIPT":
                raise
        return await self.call(*script.whole_command(keys, arguments), timeout=timeout)

    def subscribe(self, channel: str, handler: Callable[[bytes], None]) -> None:
        """Have a function called in the loop for each message of a channel, over reconnects too.

        What is published while there is no connection is lost. *channel* is the whole name: see ``key``.
        """
        self._subscriber.subscribe(channel, handler)

    # --- commands and answers ---

    def _is_blocked(self) -> bool:
        return self._wire is None or len(self._pending) >= MAX_PENDING or self._wire.is_full

    def _submit(self, command: Sequence[Argument], answer: Any) -> Any:
        assert self._wire is not None
        self._wire.write(command)
        self._pending.append(_Pending(answer, self._loop.time()))
        if self._watching is None:
            self._watching = self._loop.call_later(_WATCH_EVERY, self._watch)
        return answer

    def _on_answer(self, answer: Any) -> None:
        if not self._pending:
            return self._lose("it sends answers that nothing asked for")
        waiting, sent_at = self._pending.popleft()
        now = self._loop.time()
        if self._lateness.note_answer(now - sent_at, now):
            self.error = None
            if self._announce:
                logger.info(
                    "state %s answers in time again", self._config.url, extra={"fields": {"event": "state_quick"}}
                )
        if isinstance(answer, Refused):
            if waiting is not None and not waiting.done():
                waiting.set_exception(answer)
            if makes_useless(answer.code):
                self._lose(refusal_reason(answer.code, str(answer)))
        elif waiting is not None and not waiting.done():
            waiting.set_result(answer)
        return None

    def _give_up(self, answer: asyncio.Future[Any], limit: float, sent_at: float) -> None:
        """Nobody waits for this answer any more."""
        if answer.done():
            return
        answer.set_exception(StateUnavailable(_LATE))
        self._on_late()
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
        has_become_slow = self._lateness.note_late(limit, sent_at, self._loop.time(), jitter)
        if self._lateness.limit:
            self.error = f"it answers later than {format_duration(self._lateness.limit)}"
        if has_become_slow and self._announce:
            logger.warning(
                "state %s is slow (%s): what cannot wait longer is decided without it", self._config.url, self.error,
                extra={"fields": {"event": "state_slow"}},
            )  # fmt: skip

    def _watch(self) -> None:
        """Look for a command that is unanswered for too long: twice, for it may have been this process that stood."""
        self._watching = None
        oldest = self._pending[0] if self._pending else None
        if oldest is None or self._loop.time() - oldest.sent_at <= ANSWER_LIMIT:
            self._suspect = None
        elif self._suspect is oldest:
            self._lose(f"it has not answered for {format_duration(ANSWER_LIMIT)}")
        else:
            self._suspect = oldest
        if self._pending:
            self._watching = self._loop.call_later(_WATCH_EVERY, self._watch)

    # --- up and down ---

    async def _dial(self) -> Wire:
        """A new connection. Raises Away."""
        assert self._dialer is not None
        return await self._dialer.dial()

    async def _keep_connected(self) -> None:
        keep_going = KeepGoing("the connection to the state's server")
        failures = 0
        while True:
            began = self._loop.time()
            with keep_going:
                await self._stay_connected()
            failures = 0 if self._loop.time() - began > _PROVEN_AFTER else failures + 1
            wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret

    async def _stay_connected(self) -> None:
        """Connect, and return when the connection is lost, or cannot be made. Raises what a defect raises."""
        self._lost.clear()
        try:
            await self._connect()
        except Away as exc:
            self._announce_away(exc.reason)
        except Exception as exc:
            self._announce_away(f"the connection failed ({type(exc).__name__})")
            raise
        else:
            await self._lost.wait()

    async def _connect(self) -> None:
        """Open a connection and prove that it can be written. Raises Away."""
        wire = await self._dial()
        answers: list[Any] = []
        done: asyncio.Future[str | None] = self._loop.create_future()
        commands = [
            ("SET", self.key("probe"), "1", "PX", 1000),
            *(("SCRIPT", "LOAD", script.text) for script in self._scripts.values()),
        ]

        def on_answer(answer: Any) -> None:
            answers.append(answer)
            if isinstance(answer, Refused) and not done.done():
                done.set_result(refusal_reason(answer.code, str(answer)))
            elif len(answers) == len(commands) and not done.done():
                done.set_result(None)

        def on_end(reason: str) -> None:
            if not done.done():
                done.set_result(reason)

        wire.on_answer, wire.on_end = on_answer, on_end
        try:
            for command in commands:
                wire.write(command)
            async with asyncio.timeout(ANSWER_LIMIT):
                reason = await done
        except TimeoutError as exc:
            wire.close()
            raise Away("it does not answer") from exc
        except BaseException:
            wire.close()
            raise
        if reason is None and wire.has_ended:
            reason = "it closed the connection"
        if reason is not None:
            wire.close()
            raise Away(reason)
        wire.on_answer, wire.on_end = self._on_answer, self._lose
        self._wire = wire
        self._announce_up()

    def _lose(self, reason: str) -> None:
        """The connection is of no use any more; another one is tried for."""
        if self._wire is None:
            return
        self._end(reason)
        self._announce_away(reason)
        self._lost.set()
        for callback in self.on_down:
            with self._keep_going:
                callback()

    def _end(self, reason: str) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._suspect = None
        pending, self._pending = self._pending, deque()
        for answer, _ in pending:
            if answer is not None and not answer.done():
                answer.set_exception(StateUnavailable(reason))

    def _announce_up(self) -> None:
        self.error, self._lateness = None, Lateness()
        if self._announce and self._announced is not True:
            logger.info("state %s is up", self._config.url, extra={"fields": {"event": "state_up"}})
        self._announced = True
        for callback in self.on_up:
            with self._keep_going:
                callback()

    def _announce_away(self, reason: str) -> None:
        self.error = reason
        if self._announce and self._announced is not False:
            logger.warning(
                "state %s is away (%s): hooks are decided without it", self._config.url, reason,
                extra={"fields": {"event": "state_away", "reason": reason}},
            )  # fmt: skip
        self._announced = False
