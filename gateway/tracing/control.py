"""Turns tracing on, off and over as the configuration says."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Final, NamedTuple

from gateway import __version__
from gateway.config import Config
from gateway.config import Tracing as TracingConfig
from gateway.metrics import Metrics
from gateway.tracecontext import Sampling
from gateway.upstreams.registry import target_names
from gateway.verdicts import Decision

from .exporter import Encoder, Exporter
from .records import record_of

logger = logging.getLogger(__name__)

_ENCODER: Final = "gateway.tracing.otlp:Encoder"
"""Looked up by name, so that without tracing nothing of OpenTelemetry is loaded, and nothing of it is needed."""
FLUSH: Final = 2.0
"""Seconds for the last spans when the process ends, or goes over to another collector."""


class _Setting(NamedTuple):
    """What an exporter is made of."""

    tracing: TracingConfig
    scheme: str
    """How hooks come: http or https."""
    urls: Mapping[tuple[str, str], str]
    """The targets', by upstream and target."""


class Tracing:
    """Makes spans of hooks while the configuration has ``tracing``.

    *switch* is told what the hook path needs: how hooks are sampled, and who is told of a decision; None and None
    where nothing is traced.
    """

    def __init__(
        self, metrics: Metrics, switch: Callable[[Sampling | None, Callable[[Decision], None] | None], None]
    ) -> None:
        self._metrics = metrics
        self._switch = switch
        self._setting: _Setting | None = None
        self._exporter: Exporter | None = None

    async def take(self, config: Config) -> None:
        """Go on as this configuration says."""
        setting = _setting_of(config)
        if setting == self._setting:
            return
        before, after = self._exporter, None
        if setting is not None:
            try:
                # Importing and starting a thread take a moment, for which hooks do not wait.
                after = await asyncio.to_thread(_started, setting, self._metrics)
            except (ImportError, RuntimeError) as exc:  # a package that is gone, no thread to be had
                logger.error("tracing cannot begin, hooks are served without: %s", exc)
        self._exporter = after
        if setting is not None and after is not None:
            self._setting = setting
            self._switch(Sampling(setting.tracing.sample), self._record)
        else:
            self._setting = None
            self._switch(None, None)
        if before is not None:
            await asyncio.to_thread(before.close, FLUSH)

    async def aclose(self) -> None:
        """Deliver what is left, for a bounded time."""
        self._switch(None, None)
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close, FLUSH)

    def _record(self, decision: Decision) -> None:
        """Keep what the spans of a traced hook need."""
        if decision.trace is not None and self._exporter is not None:
            self._exporter.put(record_of(decision, decision.trace))


def _setting_of(config: Config) -> _Setting | None:
    if config.tracing is None:
        return None
    urls = {
        (name, label): url
        for name, upstream in config.upstreams.items()
        for url, label in target_names([target.url for target in upstream.targets]).items()
    }
    return _Setting(config.tracing, "http" if config.server.tls is None else "https", urls)


def _started(setting: _Setting, metrics: Metrics) -> Exporter:
    """Raises ImportError, and RuntimeError where the system denies a thread."""
    host = socket.gethostname()
    resource = {
        "service.name": setting.tracing.service_name,
        "service.version": __version__,
        "service.instance.id": f"{host}:{os.getpid()}",
        "host.name": host,
        "process.pid": os.getpid(),
    }
    encoder: Encoder = resolve_name(_ENCODER)(resource, setting.scheme, setting.urls)
    exporter = Exporter(setting.tracing, encoder, metrics)
    exporter.start()
    return exporter
