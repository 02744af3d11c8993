"""Sends spans to the collector from a thread of its own: in batches, with a few retries, from a bounded queue."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import httpx

from gateway import __version__
from gateway.config import Tracing as TracingConfig
from gateway.model.writer_thread import WriterThread
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.records import HookRecord

logger = logging.getLogger(__name__)

QUEUE: Final = 2048
"""Traced hooks that wait for the thread, at most; further ones are dropped. About 2 kB each."""
_BATCH: Final = 256
"""Hooks in one request."""
_EVERY: Final = 1.0
"""Seconds after which a batch is sent that is not full."""
_RETRY_DELAYS: Final = (1.0, 2.0, 4.0)
"""Seconds before each retry of a batch that the collector did not accept; then the batch is dropped."""
_LONGEST_WAIT: Final = 10.0
"""Seconds that a Retry-After of the collector is followed, at most."""
_TIMEOUT: Final = httpx.Timeout(10.0, connect=3.0)
CONNECTION_AGE = 300.0
"""Seconds after which a new connection is made: the collector's name may have another address by then."""
_LIMITS: Final = httpx.Limits(max_connections=1, keepalive_expiry=60.0)
"""A connection is kept over quiet seconds: where the first of two addresses is dead, each new one waits for it."""
_RETRYABLE: Final = frozenset((429, 502, 503, 504))
"""OTLP 1.x, "Retryable Response Codes"; every other failure is final."""


class Encoder(Protocol):
    """Encodes hooks as OTLP."""

    def encode(self, records: Sequence[HookRecord]) -> bytes:
        """The body of a request."""

    def rejected(self, answer: bytes) -> tuple[int, str]:
        """How many spans the collector rejected of a request that it accepted, and why."""


class _Failed(NamedTuple):
    """A request that the collector did not accept."""

    reason: str
    is_final: bool
    wait: float | None = None
    """Seconds that the collector asks us to wait."""


class Exporter:
    """Delivers the spans of hooks; ``put`` is for the event loop, and costs it next to nothing."""

    def __init__(self, config: TracingConfig, encoder: Encoder, metrics: Metrics) -> None:
        """Raises OSError where the system's certificate authorities cannot be read."""
        self._url = f"{config.endpoint}/v1/traces"
        self._headers = {
            **{name: value.get_secret_value() for name, value in config.headers.items()},
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"wcs-gateway/{__version__}",
        }
        self._verify = ssl.create_default_context() if self._url.startswith("https:") else False
        self._client, self._renew_at = self._new_client(), time.monotonic() + CONNECTION_AGE
        self._encoder = encoder
        self._exported = metrics.spans_exported
        # Each is added to by one thread alone: additions by several would be lost.
        self._dropped_full = metrics.spans_dropped.with_labels("queue_full")
        self._dropped_failed = metrics.spans_dropped.with_labels("not_delivered")
        self._stopping = threading.Event()
        self._is_failing = False
        self._thread = WriterThread(
            "span-exporter", self._deliver, batch=_BATCH, max_items=QUEUE, every=_EVERY, finish=self._close_client
        )

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the system has none to give."""
        self._thread.start()

    def put(self, record: HookRecord) -> None:
        """Queue a hook's spans, or count them as dropped. Never waits."""
        if not self._thread.put(record):
            self._dropped_full.inc(record.spans)

    def close(self, timeout: float) -> None:
        """Deliver what is queued, each batch tried once, for at most *timeout* seconds. Blocks."""
        self._stopping.set()
        self._thread.close(timeout)

    def _current_client(self) -> httpx.Client:
        """The client, or a new one where its connection has grown too old."""
        if time.monotonic() >= self._renew_at:
            self._client.close()
            self._client, self._renew_at = self._new_client(), time.monotonic() + CONNECTION_AGE
        return self._client

    def _close_client(self) -> None:
        self._client.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            headers=self._headers, timeout=_TIMEOUT, verify=self._verify, trust_env=False, limits=_LIMITS
        )

    def _deliver(self, batch: list[HookRecord]) -> None:
        spans = sum(record.spans for record in batch)
        try:
            client, body = self._current_client(), self._encoder.encode(batch)
            failed = self._post(client, body, spans)
            for wait in _RETRY_DELAYS:
                if failed is None or failed.is_final:
                    break
                self._log_change(failed)
                if self._stopping.wait(min(failed.wait or wait, _LONGEST_WAIT)):
                    break
                failed = self._post(client, body, spans)
        except Exception:
            logger.exception("tracing: a defect of the gateway cost it %d spans", spans)
            self._dropped_failed.inc(spans)
            return
        if failed is not None:
            self._dropped_failed.inc(spans)
        self._log_change(failed)

    def _post(self, client: httpx.Client, body: bytes, spans: int) -> _Failed | None:
        try:
            answer = client.post(self._url, content=body)
        except httpx.TransportError as exc:
            return _Failed(str(exc) or type(exc).__name__, is_final=False)
        if not answer.is_success:
            wait = answer.headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdecimal() else None
            return _Failed(f"it answers {answer.status_code}", answer.status_code not in _RETRYABLE, seconds)
        rejected, reason = self._encoder.rejected(answer.content)
        if rejected:
            logger.warning("tracing: the collector rejected some spans: %s", reason or "no reason given")
            self._dropped_failed.inc(rejected)
        self._exported.inc(spans - rejected)
        return None

    def _log_change(self, failed: _Failed | None) -> None:
        """Log when the collector begins to fail and when it is back, not each batch."""
        if failed is not None and not self._is_failing:
            logger.warning("tracing: the collector does not accept spans: %s", failed.reason)
        elif failed is None and self._is_failing:
            logger.info("tracing: the collector accepts spans again")
        self._is_failing = failed is not None
