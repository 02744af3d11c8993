"""The store's process: keeps events and decisions for all processes of a gateway, directed by the main process.

It counts into memory that the main process has mapped too, gets its configuration over the store's own connections, and
ends when the channel to the main process does, once all that was sent to it is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from gateway import __version__
from gateway.model.decision import UNKNOWN_APP
from gateway.model.keep_going import KeepGoing
from gateway.server.channel import Channel, Ping, Pong, Ready, Stop
from gateway.server.executor import start_threads
from gateway.server.signals import PROCESS, STORE_MEANINGS, Receiver
from gateway.store.assembly import Store
from gateway.store.backlog_table import BacklogWriter
from gateway.store.records import UpstreamBacklog
from gateway.store.settings import StoreConfig
from gateway.telemetry.log import PIPE_ATOMIC, LogWriter, configure_logging
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.cells import MetricCells

logger = logging.getLogger("gateway.server.store_process")

_LAST_LINES: Final = 0.5
"""Seconds that the log has for its last lines where a signal ends the process."""
_FINISH_LIMIT: Final = 3.0
"""Seconds for what is still sent when the main process says that all others have ended."""
_AFTER_DRAIN: Final = 3.0
"""Seconds beyond the drain's own limit for which others may send, where the main process has ended first."""


class _Counts:
    """``StoreObserver`` by this process's metrics."""

    def __init__(self, metrics: Metrics, writer: LogWriter) -> None:
        self._metrics = metrics
        self._writer = writer
        self._commit = metrics.store_commit.with_labels()
        self._upstreams: frozenset[str] = frozenset()

    def configure(self, config: StoreConfig) -> None:
        """Log as this configuration says, and label by its upstreams."""
        configure_logging(self._writer, level=config.log_level, console=config.log_console)
        self._upstreams = config.upstreams

    def committed(self, seconds: float) -> None:
        """An event is committed, this long after it came."""
        self._commit.observe(seconds)

    def dead(self) -> None:
        """An event has become a dead letter."""
        self._metrics.spool_dead.inc()

    def dropped(self, reason: str, events: int) -> None:
        """Events were dropped undelivered."""
        self._metrics.spool_dropped.with_labels(reason).inc(events)

    def history_dropped(self, decisions: int) -> None:
        """Decisions are missing from the history."""
        self._metrics.history_dropped.inc(decisions)

    def backlogs(self, upstreams: Sequence[UpstreamBacklog]) -> None:
        """Show what waits; of upstreams that are not configured any more under one label."""
        now, shown = time.time(), dict.fromkeys(self._upstreams, (0, 0, 0.0))
        for backlog in upstreams:
            label = backlog.upstream if backlog.upstream in self._upstreams else UNKNOWN_APP
            events, size, age = shown.get(label, (0, 0, 0.0))
            older = 0.0 if backlog.oldest is None else max(now - backlog.oldest, 0.0)
            shown[label] = (events + backlog.events, size + backlog.bytes, max(age, older))
        metrics = self._metrics
        for family in (metrics.spool_events, metrics.spool_bytes, metrics.spool_oldest_age):
            family.keep(("upstream",), shown)
        for label, (events, size, age) in shown.items():
            metrics.spool_events.with_labels(label).set(events)
            metrics.spool_bytes.with_labels(label).set(size)
            metrics.spool_oldest_age.with_labels(label).set(age)


async def serve(arguments: argparse.Namespace, writer: LogWriter) -> None:
    """Run until the main process sends Stop, or is gone."""
    await start_threads()
    channel = await Channel.over(socket.socket(fileno=arguments.channel))
    metrics = Metrics(__version__, MetricCells(arguments.values, arguments.names))
    store = Store(BacklogWriter(arguments.table), arguments.owner, _Counts(metrics, writer))
    # Silent, as a worker's: Ctrl-C at a terminal comes to the whole group, and the main process says what it does.
    with PROCESS.forward_to(Receiver(drain=lambda: None), asyncio.get_running_loop()):
        await store.start(socket.socket(fileno=arguments.listen))
        channel.send(Ready())
        was_told = await _listen(channel)
        await store.finish(_FINISH_LIMIT if was_told else store.drain_timeout + _AFTER_DRAIN)
        channel.close()


async def _listen(channel: Channel) -> bool:
    """Answer the main process until it says Stop (True) or is gone (False)."""
    keep_going = KeepGoing("listening to the main process")
    while True:
        with keep_going:
            match await channel.receive():
                case None:
                    return False
                case Stop():
                    return True
                case Ping():
                    channel.send(Pong())


def main() -> None:
    """Entry point of the child process; its arguments are descriptors that the main process has left open."""
    PROCESS.install(STORE_MEANINGS)  # the parent has blocked them until here
    os.umask(0o077)  # the files say who called whom
    parser = argparse.ArgumentParser(prog="gateway store")
    for name in ("channel", "values", "names", "listen", "table"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--owner", required=True)
    arguments = parser.parse_args()
    writer = LogWriter(sys.stdout.fileno(), chunk=PIPE_ATOMIC)
    PROCESS.defer_signals(lambda: writer.close(_LAST_LINES))
    configure_logging(writer, level="info", console=False)
    with PROCESS.exit_at_end():
        try:
            with contextlib.suppress(asyncio.CancelledError):
                uvloop.run(serve(arguments, writer))
        finally:
            writer.close()


if __name__ == "__main__":
    main()
