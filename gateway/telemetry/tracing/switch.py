"""Turns tracing on and off, and changes collectors, as the configuration says."""

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
from gateway.config.sections.upstreams import target_names
from gateway.model.change import CannotPrepare, Change
from gateway.model.decision import Decision
from gateway.model.trace_context import Sampling
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.exporter import Encoder, Exporter
from gateway.telemetry.tracing.records import make_record

logger = logging.getLogger(__name__)

_ENCODER: Final = "gateway.telemetry.tracing.otlp:Encoder"
"""Imported by name, so that without tracing nothing of OpenTelemetry is loaded or needed."""
FLUSH: Final = 2.0
"""Seconds for the last spans when the process ends, or changes to another collector."""


class _Setting(NamedTuple):
    """What an exporter is made from."""

    tracing: TracingConfig
    scheme: str
    """Of the hooks: http or https."""
    urls: Mapping[tuple[str, str], str]
    """URLs of the targets, by upstream and target."""


class Tracing:
    """Makes spans of hooks while the configuration has ``tracing``.

    *switch* gets what the hook path needs, the sampling of hooks and the listener for decisions; None and None while
    nothing is traced.
    """

    def __init__(
        self, metrics: Metrics, switch: Callable[[Sampling | None, Callable[[Decision], None] | None], None]
    ) -> None:
        self._metrics = metrics
        self._switch = switch
        self._setting: _Setting | None = None
        self._exporter: Exporter | None = None

    async def begin(self, config: Config) -> None:
        """Trace as the first configuration says; where that fails, the reason is logged, and nothing is traced."""
        try:
            change = await self.prepare(config)
        except Exception as exc:  # a package is missing, or no thread available
            logger.error("tracing cannot start, hooks are served without it: %s", exc)
        else:
            change.commit()

    async def prepare(self, config: Config) -> Change:
        """Prepare tracing as this configuration says.

        Raises CannotPrepare where a package is missing or the system denies a thread, and others.
        """
        setting = _make_setting(config)
        if setting == self._setting:
            return Change()
        # Importing and starting a thread take a moment; hooks do not wait for it.
        try:
            exporter = None if setting is None else await asyncio.to_thread(_start_exporter, setting, self._metrics)
        except (ImportError, RuntimeError) as exc:
            raise CannotPrepare(f"tracing: {exc}") from exc
        return _TracingChange(self, setting, exporter)

    def put(self, setting: _Setting | None, exporter: Exporter | None) -> None:
        """Trace with this exporter, made from the setting; None and None: trace nothing."""
        self._setting, self._exporter = setting, exporter
        if setting is None:
            self._switch(None, None)
        else:
            self._switch(Sampling(setting.tracing.sample), self._record)

    @property
    def in_force(self) -> tuple[_Setting | None, Exporter | None]:
        """The last arguments of ``put``."""
        return self._setting, self._exporter

    async def aclose(self) -> None:
        """Deliver what is left, for at most FLUSH seconds."""
        self._switch(None, None)
        await _close(self._exporter)

    def _record(self, decision: Decision) -> None:
        """Queue the spans of a traced hook."""
        if decision.trace is not None and self._exporter is not None:
            self._exporter.put(make_record(decision, decision.trace))


class _TracingChange(Change):
    """A change to an exporter that is started and gets no spans yet, or to none."""

    def __init__(self, tracing: Tracing, setting: _Setting | None, exporter: Exporter | None) -> None:
        self._tracing = tracing
        self._after = (setting, exporter)
        self._before = tracing.in_force

    def commit(self) -> None:
        """Spans go to the new one."""
        self._tracing.put(*self._after)

    def revert(self) -> None:
        """Spans go to the old one again."""
        self._tracing.put(*self._before)

    async def settle(self) -> None:
        """Deliver what the old one still has, and end it."""
        await _close(self._before[1])

    async def discard(self) -> None:
        """End the new one."""
        await _close(self._after[1])


async def _close(exporter: Exporter | None) -> None:
    if exporter is not None:
        await asyncio.to_thread(exporter.close, FLUSH)


def _make_setting(config: Config) -> _Setting | None:
    if config.tracing is None:
        return None
    urls = {
        (name, label): url
        for name, upstream in config.upstreams.items()
        for url, label in target_names([target.url for target in upstream.targets]).items()
    }
    return _Setting(config.tracing, "http" if config.server.tls is None else "https", urls)


def _start_exporter(setting: _Setting, metrics: Metrics) -> Exporter:
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
