"""The connection on which a process hears what others publish. There is none until something is subscribed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.fleet.reasons import Away, StateUnavailable, refusal_reason
from gateway.fleet.wire import Refused, Wire
from gateway.model.keep_going import KeepGoing

logger = logging.getLogger(__name__)

Handler = Callable[[bytes], None]
PING_EVERY: Final = 1.0
SILENCE_LIMIT: Final = 2.5
"""Seconds without a word, also not in answer to a ping, after which the connection is given up."""
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Subscriber:
    """Keeps the subscriptions of one process; what is published while it is not connected is lost."""

    def __init__(self, dial: Callable[[], Awaitable[Wire]]) -> None:
        """*dial* opens a connection, or raises Away."""
        self._dial = dial
        self._handlers: dict[bytes, list[Handler]] = {}
        self._wire: Wire | None = None
        self._lost = asyncio.Event()
        self._heard_at = 0.0
        self._is_started = False
        self._keeping: asyncio.Task[None] | None = None
        self._keep_going = KeepGoing("what follows a message of another gateway")

    def __repr__(self) -> str:
        return f"<Subscriber {len(self._handlers)} channels, {'away' if self._wire is None else 'connected'}>"

    def start(self) -> None:
        """Connect as soon as there is a subscription."""
        self._is_started = True
        if self._handlers and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_connected())

    async def aclose(self) -> None:
        """Hear nothing more."""
        self._is_started = False
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._end()

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Have *handler* called in the loop for each message of the channel."""
        name = channel.encode()
        handlers = self._handlers.setdefault(name, [])
        handlers.append(handler)
        if self._wire is not None and len(handlers) == 1:
            self._wire.write(("SUBSCRIBE", name))
        if self._is_started:
            self.start()

    async def _keep_connected(self) -> None:
        keep_going = KeepGoing("the hearing of other gateways' messages")
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            began = loop.time()
            with keep_going:
                await self._listen_until_lost()
            failures = 0 if loop.time() - began > SILENCE_LIMIT * 2 else failures + 1
            wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret

    async def _listen_until_lost(self) -> None:
        try:
            await self._listen()
        except StateUnavailable as exc:
            logger.debug("no messages of other gateways: %s", exc)
        finally:
            self._end()

    async def _listen(self) -> None:
        """Return when the connection is lost. Raises Away."""
        loop = asyncio.get_running_loop()
        wire = await self._dial()
        wire.on_answer, wire.on_end = self._on_answer, self._on_end
        self._wire, self._heard_at = wire, loop.time()
        wire.write(("SUBSCRIBE", *self._handlers))
        while not self._lost.is_set():
            wire.write(("PING",))
            try:
                await asyncio.wait_for(self._lost.wait(), PING_EVERY)
            except TimeoutError:
                if loop.time() - self._heard_at > SILENCE_LIMIT:
                    raise Away("it does not answer") from None

    def _on_answer(self, answer: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if isinstance(answer, Refused):
            logger.warning("the state's server refuses a subscription: %s", refusal_reason(answer.code, str(answer)))
            self._on_end("refused")
        elif isinstance(answer, list) and len(answer) == 3 and answer[0] == b"message":
            for handler in self._handlers.get(answer[1], ()):
                with self._keep_going:
                    handler(answer[2])

    def _on_end(self, _reason: str) -> None:
        self._lost.set()

    def _end(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
