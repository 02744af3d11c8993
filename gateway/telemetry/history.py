"""Sends decisions to the store, to be kept: gathered and encoded in small batches, dropped where the store is behind.

A hook costs two microseconds, and nothing where no history is configured; it never waits. While the store's process
starts, or is replaced, some megabytes wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.model.change import Change, Swap
from gateway.model.decision import Decision
from gateway.policy.history import HistorySettings
from gateway.policy.shadow import ShadowResult
from gateway.store.client import DecisionSink
from gateway.store.decisions import encode_sent, encode_shadow

logger = logging.getLogger(__name__)

SEND_AFTER: Final = 0.25
"""Seconds for which decisions are gathered before they are sent."""
_BATCH: Final = 32
"""Decisions that are encoded at once: half the CPU time of encoding each amid hooks, and no hook waits long for it."""
_MESSAGE: Final = 512
"""Decisions after which they are sent at once."""
_MESSAGE_BYTES: Final = 256 * 1024
MAX_UNSENT: Final = 4 * 2**20
"""Bytes that may wait for the store, about: of small hooks without bodies, more than 10,000."""

Listener = Callable[[Decision], None]


class HistoryRecorder:
    """The listener of decisions that sends them to the store. For one event loop."""

    def __init__(
        self, sink: DecisionSink, count_dropped: Callable[[int], None], switch: Callable[[Listener | None], None]
    ) -> None:
        """*switch* is called with the listener of decisions from now on, or None while no history is configured."""
        self._sink = sink
        self._count_dropped = count_dropped
        self._switch = switch
        self._worker = os.getpid()
        self._settings: HistorySettings | None = None
        self._revision = ""
        self._decisions: list[Decision] = []  # not yet encoded
        self._encoded: list[bytes] = []
        self._bytes = 0
        self._unsent: deque[tuple[list[bytes], int]] = deque()
        """Messages that the store did not take, the oldest first, with their bytes."""
        self._unsent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        waiting = len(self._decisions) + len(self._encoded) + sum(len(message) for message, _ in self._unsent)
        state = "off" if self._settings is None else f"{waiting} to be sent"
        return f"<HistoryRecorder {state}>"

    def configure(self, settings: HistorySettings | None, revision: str = "") -> None:
        """Go on by these settings; None: keep nothing. *revision*: of the configuration that is in force from now."""
        self.flush()  # by the settings under which they were decided
        self._settings, self._revision = settings, revision
        self._switch(None if settings is None else self.record)

    def prepare(self, settings: HistorySettings | None, revision: str = "") -> Change:
        """Prepare what ``configure`` does, to be committed later."""
        before = self._settings, self._revision
        return Swap(lambda: self.configure(settings, revision), lambda: self.configure(*before))

    def record(self, decision: Decision) -> None:
        """Have a decision kept."""
        decisions = self._decisions
        decisions.append(decision)
        if len(decisions) >= _BATCH:
            self._encode()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SEND_AFTER, self._send_late)

    def record_shadow(self, request_id: str, result: ShadowResult, decision: Decision) -> None:
        """Have the result of a hook's shadow copy kept; *decision*: the hook's."""
        if self._settings is not None:
            self._sink.send_shadow(request_id, decision.time, encode_shadow(result, decision))

    def flush(self) -> None:
        """Send all that is gathered; what the store does not take is tried again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._encode()
        self._send()

    def close(self) -> None:
        """Send all that is gathered; what the store does not take is counted as dropped."""
        self.flush()
        while self._unsent:
            self._drop()
        if self._timer is not None:
            self._timer.cancel()

    def _send_late(self) -> None:
        self._timer = None
        self.flush()

    def _encode(self) -> None:
        decisions, self._decisions = self._decisions, []
        settings = self._settings
        if settings is None:
            return
        bodies, worker, revision, encoded = settings.bodies, self._worker, self._revision, self._encoded
        for decision in decisions:
            try:
                data = encode_sent(decision, bodies, worker, revision)
            except Exception:
                logger.exception("a decision could not be sent to the history; its hook was answered all the same")
                self._count_dropped(1)
            else:
                encoded.append(data)
                self._bytes += len(data)
                if self._bytes >= _MESSAGE_BYTES:
                    self._send()
                    encoded = self._encoded
        if len(encoded) >= _MESSAGE:
            self._send()

    def _send(self) -> None:
        """Send what is encoded, after what could not be sent before."""
        if self._encoded:
            self._unsent.append((self._encoded, self._bytes))
            self._unsent_bytes += self._bytes
            self._encoded, self._bytes = [], 0
        unsent = self._unsent
        while unsent and self._sink.send_decisions(unsent[0][0]):
            self._unsent_bytes -= unsent.popleft()[1]
        while self._unsent_bytes > MAX_UNSENT:
            self._drop()
        if unsent and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SEND_AFTER, self._send_late)

    def _drop(self) -> None:
        """Drop the newest message: what led to the trouble is worth more."""
        message, size = self._unsent.pop()
        self._unsent_bytes -= size
        self._count_dropped(len(message))
