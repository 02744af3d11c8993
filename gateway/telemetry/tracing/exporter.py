"""Brings spans to the collector: a bounded queue, a thread that empties it, and patience within bounds."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import httpx

from gateway import __version__
from gateway.config import Tracing as TracingConfig
from gateway.model.keep_going import KeepGoing
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.records import HookRecord

logger = logging.getLogger(__name__)

QUEUE: Final = 2048
"""Traced hooks that wait for the thread, at most; a further one is given up. About 2 kB each."""
_BATCH: Final = 256
"""Hooks in one request."""
_EVERY: Final = 1.0
"""Seconds until a batch that is not full is sent all the same."""
_PATIENCE: Final = (1.0, 2.0, 4.0)
"""Seconds before a batch is sent again that the collector did not take; its failing the last time ends it."""
_LONGEST_WAIT: Final = 10.0
"""Seconds, whatever the collector's Retry-After says."""
_TIMEOUT: Final = httpx.Timeout(10.0, connect=3.0)
CONNECTION_AGE = 300.0
"""Seconds after which a new connection is made: the collector's name may lead elsewhere by then."""
_LIMITS: Final = httpx.Limits(max_connections=1, keepalive_expiry=60.0)
"""A connection is kept over quiet seconds: where the first of two addresses is dead, each new one waits for it."""
_RETRYABLE: Final = frozenset((429, 502, 503, 504))
"""OTLP 1.x, "Retryable Response Codes"; every other failure is final."""


class Encoder(Protocol):
    """Makes OTLP of what was kept of hooks."""

    def encode(self, records: Sequence[HookRecord]) -> bytes:
        """The body of a request."""

    def rejected(self, answer: bytes) -> tuple[int, str]:
        """The spans that the collector rejected of a request that it took, and why."""


class _Failed(NamedTuple):
    """A request that the collector did not take."""

    why: str
    is_final: bool
    wait: float | None = None
    """Seconds that the collector asks to be left alone."""


class Exporter:
    """Takes what was kept of hooks and delivers it; ``put`` is for the event loop, and costs it next to nothing."""

    def __init__(self, config: TracingConfig, encoder: Encoder, metrics: Metrics) -> None:
        """Raises OSError where the system's certificate authorities cannot be read."""
        self._url = f"{config.endpoint}/v1/traces"
        self._headers = {
            **{name: value.reveal() for name, value in config.headers.items()},
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"wcs-gateway/{__version__}",
        }
        self._verify = ssl.create_default_context() if self._url.startswith("https:") else False
        self._client = self._new_client()
        self._encoder = encoder
        self._exported = metrics.spans_exported
        # Each is added to by one thread alone: additions by several would be lost.
        self._dropped_full = metrics.spans_dropped.labelled("queue_full")
        self._dropped_failed = metrics.spans_dropped.labelled("not_delivered")
        self._queue: deque[HookRecord] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="span-exporter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, record: HookRecord) -> None:
        """Queue a hook's spans, or count them as dropped. Never waits."""
        if len(self._queue) >= QUEUE:
            self._dropped_full.inc(record.spans)
            return
        self._queue.append(record)
        if len(self._queue) == _BATCH:
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Deliver what is queued, each batch tried once, for at most *timeout* seconds. Blocks."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        keep_going = KeepGoing("the delivery of spans")
        client, is_last = self._client, False
        while not is_last:
            until = time.monotonic() + CONNECTION_AGE
            with client:
                while not is_last and time.monotonic() < until:
                    is_last = self._stopping.is_set()
                    with keep_going:
                        self._empty(client)
                    if not is_last:
                        self._wake.wait(_EVERY)
                        self._wake.clear()
            client = self._new_client()
        client.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            headers=self._headers, timeout=_TIMEOUT, verify=self._verify, trust_env=False, limits=_LIMITS
        )

    def _empty(self, client: httpx.Client) -> None:
        while self._queue:
            count = min(len(self._queue), _BATCH)
            self._deliver(client, [self._queue.popleft() for _ in range(count)])

    def _deliver(self, client: httpx.Client, batch: list[HookRecord]) -> None:
        spans = sum(record.spans for record in batch)
        try:
            body = self._encoder.encode(batch)
            failed = self._post(client, body, spans)
            for wait in _PATIENCE:
                if failed is None or failed.is_final:
                    break
                self._note(failed)
                if self._stopping.wait(min(failed.wait or wait, _LONGEST_WAIT)):
                    break
                failed = self._post(client, body, spans)
        except Exception:
            logger.exception("tracing: a defect of the gateway cost it %d spans", spans)
            self._dropped_failed.inc(spans)
            return
        if failed is not None:
            self._dropped_failed.inc(spans)
        self._note(failed)

    def _post(self, client: httpx.Client, body: bytes, spans: int) -> _Failed | None:
        try:
            answer = client.post(self._url, content=body)
        except httpx.TransportError as exc:
            return _Failed(str(exc) or type(exc).__name__, is_final=False)
        if not answer.is_success:
            wait = answer.headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdecimal() else None
            return _Failed(f"it answers {answer.status_code}", answer.status_code not in _RETRYABLE, seconds)
        rejected, why = self._encoder.rejected(answer.content)
        if rejected:
            logger.warning("tracing: the collector rejected some spans: %s", why or "it does not say why")
            self._dropped_failed.inc(rejected)
        self._exported.inc(spans - rejected)
        return None

    def _note(self, failed: _Failed | None) -> None:
        """Tell the log when the collector begins to fail, and when it is back; not of every batch."""
        if failed is not None and not self._is_failing:
            logger.warning("tracing: the collector does not take spans: %s", failed.why)
        elif failed is None and self._is_failing:
            logger.info("tracing: the collector takes spans again")
        self._is_failing = failed is not None
