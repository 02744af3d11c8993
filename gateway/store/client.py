"""The store as the processes see it that decide hooks or answer operators. Imports nothing of the databases.

``StoreClient`` keeps one connection to the store's process and opens it again when it ends. While there is none, nobody
waits: ``keep`` says so at once. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from gateway.model.keep_going import KeepGoing
from gateway.store.backlog_table import BacklogTable
from gateway.store.connection import Connection
from gateway.store.messages import (
    Ask,
    Backlogs,
    Configure,
    Duty,
    Hello,
    KeepDecisions,
    KeepEvent,
    KeepShadow,
    Kept,
    Message,
    Reply,
    Settle,
    Settled,
    Take,
    Work,
    decode_for_client,
    encode,
)
from gateway.store.records import Delivery, SpooledEvent
from gateway.store.requests import StoreRequest, StoreUnavailable, decode_answer, encode_request

logger = logging.getLogger(__name__)

NOT_CONNECTED: Final = "the store's process cannot be reached"
LOST: Final = "the connection to the store ended before the commit was confirmed"
LATE: Final = "the commit was not confirmed in time"
BEHIND: Final = "the store's process does not keep up"

EVENT_BUFFER: Final = 128 * 2**20
"""Bytes that may wait for the store's process; past it events are refused."""
HISTORY_BUFFER: Final = 4 * 2**20
"""The same for decisions, which are worth less: past it they are dropped."""
ASK_LIMIT: Final = 10.0
"""Seconds for an answer to an operator."""
_BACKOFF: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds, at most, before the first, second, … attempt to connect again; half of it is left to chance."""
START_LIMIT: Final = 10.0
"""Seconds that a gateway which has just been started waits for its store before it takes hooks."""
_LOOK_EVERY: Final = 0.02
_CLOSE_LIMIT: Final = 2.0
"""Seconds for what is left to be sent at the end."""


class EventKeeper(Protocol):
    """What the hooks' way needs of the store."""

    def has_backlog(self, key: bytes) -> bool:
        """Whether an event with this key must queue behind earlier ones: then no attempt is made to deliver it."""

    async def keep(self, event: SpooledEvent, deadline: float) -> str | None:
        """Commit an event by *deadline* (the event loop's time); None once it is committed, else the reason.

        An event that is not confirmed in time may still be committed later, and is then delivered.
        """


class DecisionSink(Protocol):
    """What the history's listener needs of the store."""

    def send_decisions(self, decisions: Sequence[bytes]) -> bool:
        """Send encoded decisions; False where they are dropped: no connection, or the store is behind."""

    def send_shadow(self, request_id: str, time: float, result: bytes) -> bool:
        """Send the result of a shadow copy; False where it is dropped."""


class DeliverySource(Protocol):
    """What redelivery needs of the store. The callbacks are to be set before ``start``."""

    on_duty: Callable[[bool], None]
    """Whether this process is the one that redelivers; False too while there is no connection."""
    on_backlogs: Callable[[Backlogs], None]
    on_settled: Callable[[tuple[int, ...]], None]
    """The outcomes of these deliveries are committed."""

    async def take(self, upstream: str, most: int) -> tuple[Delivery, ...]:
        """At most *most* events that are due for this upstream; empty too where there is no connection."""

    def settle(self, settle: Settle) -> None:
        """Report what became of a delivery; it is repeated until the store has committed it."""


class StoreClient:
    """All of it."""

    def __init__(self, name: str, role: str, backlog: BacklogTable) -> None:
        """*name*: of the socket, in Linux's abstract namespace, without the leading NUL; *role*: worker or admin."""
        self._address = "\0" + name
        self._role = role
        self._backlog = backlog
        self.on_duty: Callable[[bool], None] = _ignore
        self.on_backlogs: Callable[[Backlogs], None] = _ignore
        self.on_settled: Callable[[tuple[int, ...]], None] = _ignore
        self.on_state: Callable[[bool], None] = _ignore
        """Called at each change of ``up``."""
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        """Set while the store's process listens to this connection."""
        self._is_up = self._redelivers = False
        self._config: bytes | None = None
        self._numbers = itertools.count(1)
        self._kept: dict[int, asyncio.Future[str | None]] = {}
        self._taken: dict[int, asyncio.Future[tuple[Delivery, ...]]] = {}
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._held: set[int] = set()
        """Deliveries whose outcome is not committed."""
        self._outcomes: dict[int, Settle] = {}
        """Outcomes that are not confirmed."""
        self._connecting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "up" if self.up else "connected" if self._connected.is_set() else "not connected"
        return f"<StoreClient {self._role} {state}, {len(self._held)} held, {len(self._outcomes)} unconfirmed>"

    @property
    def up(self) -> bool:
        """Whether events are taken, as far as it is known here: connected, and the database can be written."""
        return self._is_up

    async def __aenter__(self) -> StoreClient:
        """Start it; ended with the block."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Begin to connect, unless it has; returns at once."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._stay_connected())

    async def wait_for_start(self) -> None:
        """Wait until the store has been opened or cannot be, but no longer than START_LIMIT."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_LIMIT):
                while not self._backlog.is_known:  # noqa: ASYNC110 - memory that another process changes
                    await asyncio.sleep(_LOOK_EVERY)
            async with asyncio.timeout(_BACKOFF[-1]):
                await self._connected.wait()

    async def aclose(self) -> None:
        """Send what is left, for at most two seconds, and end."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_LIMIT):
                    await asyncio.shield(connection.ended)
            connection.abort()
            self._disconnect()

    # --- hooks ---

    def has_backlog(self, key: bytes) -> bool:
        """See ``EventKeeper``."""
        return self._backlog.has_backlog(key)

    async def keep(self, event: SpooledEvent, deadline: float) -> str | None:
        """See ``EventKeeper``. While the gateway starts, an event waits for the connection, else its order is lost."""
        if not self._connected.is_set() and not await self._becomes_connected(deadline):
            return NOT_CONNECTED
        connection = self._connection
        if connection is None:
            return NOT_CONNECTED
        if connection.buffered > EVENT_BUFFER:
            return BEHIND
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[str | None] = loop.create_future()
        self._kept[number] = kept
        timer = loop.call_at(deadline, _resolve, kept, LATE)
        try:
            connection.send(encode(KeepEvent(number, event)))
            return await kept
        finally:
            timer.cancel()
            del self._kept[number]

    async def _becomes_connected(self, deadline: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._backlog.is_starting and not self._connected.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._connected.wait(), _BACKOFF[-1])
        return self._connected.is_set()

    # --- history ---

    def send_decisions(self, decisions: Sequence[bytes]) -> bool:
        """See ``DecisionSink``."""
        return self._send_history(KeepDecisions(tuple(decisions)))

    def send_shadow(self, request_id: str, time: float, result: bytes) -> bool:
        """See ``DecisionSink``."""
        return self._send_history(KeepShadow(request_id, time, result))

    def _send_history(self, message: Message) -> bool:
        connection = self._connection
        if connection is None or not self._connected.is_set() or connection.buffered > HISTORY_BUFFER:
            return False
        connection.send(encode(message))
        return True

    # --- redelivery ---

    async def take(self, upstream: str, most: int) -> tuple[Delivery, ...]:
        """See ``DeliverySource``."""
        connection = self._connection
        if connection is None or not self._connected.is_set():
            return ()
        number = next(self._numbers)
        taken: asyncio.Future[tuple[Delivery, ...]] = asyncio.get_running_loop().create_future()
        self._taken[number] = taken
        try:
            connection.send(encode(Take(number, upstream, most)))
            return await taken
        finally:
            del self._taken[number]

    def settle(self, settle: Settle) -> None:
        """See ``DeliverySource``."""
        self._outcomes[settle.id] = settle
        self._held.add(settle.id)
        if self._connection is not None and self._connected.is_set():
            self._connection.send(encode(settle))

    # --- operators, and the main process ---

    async def ask(self, request: StoreRequest, timeout: float = ASK_LIMIT) -> Any:  # noqa: ASYNC109 - of one request
        """The answer to an operator's request. Raises StoreUnavailable, with the reason in plain words."""
        connection = self._connection
        if connection is None or not self._connected.is_set():
            raise StoreUnavailable(NOT_CONNECTED)
        number = next(self._numbers)
        asked: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        try:
            connection.send(encode(Ask(number, encode_request(request))))
            async with asyncio.timeout(timeout):
                reply = await asked
        except TimeoutError:
            raise StoreUnavailable(f"the store has not answered within {timeout:g} s") from None
        finally:
            del self._asked[number]
        if reply.error is not None:
            raise StoreUnavailable(reply.error)
        return decode_answer(request, reply.data)

    def configure(self, config: bytes) -> None:
        """Send this configuration (pickled) now, and first on each new connection."""
        self._config = config
        if self._connection is not None:
            self._connection.send(encode(Configure(config)))

    # --- the connection ---

    async def _stay_connected(self) -> None:
        keep_going = KeepGoing("the connection to the store")
        failures = 0
        while True:
            with keep_going:
                if await self._connect_once():
                    failures = 0
            wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
            failures += 1
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def _connect_once(self) -> bool:
        """Connect, and wait for the end of the connection; whether the store's process has listened to it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
        except OSError:  # nothing listens, or too many wait
            sock.close()
            return False
        connection = Connection(self._receive)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._connection = connection
        connection.send(encode(Hello(self._role, os.getpid(), tuple(self._held))))
        if self._config is not None:
            connection.send(encode(Configure(self._config)))
        for outcome in self._outcomes.values():
            connection.send(encode(outcome))
        await asyncio.shield(connection.ended)
        was_connected = self._connected.is_set()
        self._disconnect()
        return was_connected

    def _disconnect(self) -> None:
        self._connection = None
        self._connected.clear()
        for kept in self._kept.values():
            _resolve(kept, LOST)
        for taken in self._taken.values():
            _resolve(taken, ())
        for number, asked in self._asked.items():
            _resolve(asked, Reply(number, b"", NOT_CONNECTED))
        self._set_state(up=False)
        self._set_duty(redelivers=False)

    def _receive(self, data: bytes) -> None:
        message = decode_for_client(data)
        if not self._connected.is_set():  # the main process holds the socket: a connection alone proves nothing
            self._connected.set()
            if not isinstance(message, Backlogs):
                self._set_state(up=True)
        match message:
            case Kept():
                _resolve(self._kept.get(message.number), message.error)
            case Settled():
                self._held.difference_update(message.ids)
                for id_ in message.ids:
                    self._outcomes.pop(id_, None)
                self.on_settled(message.ids)
            case Work():
                self._accept(message)
            case Backlogs():
                self._set_state(up=message.up)
                self.on_backlogs(message)
            case Duty():
                self._set_duty(redelivers=message.redelivers)
            case Reply():
                _resolve(self._asked.get(message.number), message)

    def _accept(self, work: Work) -> None:
        self._held.update(delivery.id for delivery in work.deliveries)
        taken = self._taken.get(work.number)
        if taken is not None and not taken.done():
            taken.set_result(work.deliveries)
            return
        for delivery in work.deliveries:  # what asked for them has given up
            self.settle(Settle(delivery.id, "released"))

    def _set_state(self, *, up: bool) -> None:
        if up != self._is_up:
            self._is_up = up
            self.on_state(up)

    def _set_duty(self, *, redelivers: bool) -> None:
        if redelivers != self._redelivers:
            self._redelivers = redelivers
            self.on_duty(redelivers)


def _resolve(future: asyncio.Future[Any] | None, result: object) -> None:
    if future is not None and not future.done():
        future.set_result(result)


def _ignore(_: object) -> None:
    pass
