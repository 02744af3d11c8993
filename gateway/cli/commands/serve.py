"""``gateway run``, and the frame that every serving command runs in."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import uvloop

from gateway.cli.common import DEFAULT_CONFIG, ConfigOption, fail, load_or_fail
from gateway.config import Loaded
from gateway.server import fd_limits
from gateway.server.signals import PROCESS
from gateway.server.single import Gateway
from gateway.server.sockets import StartError
from gateway.server.supervisor import Supervisor
from gateway.telemetry.log import PIPE_ATOMIC, LogWriter, configure_logging

_STDOUT = 1
_LAST_LINES = 0.5
"""Seconds to write the last log lines when a signal ends the process."""


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve hooks until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
    serve(load_or_fail(config), _run)


async def _run(loaded: Loaded, writer: LogWriter) -> None:
    process = Gateway if loaded.config.server.workers == 1 else Supervisor
    try:
        await process(loaded, writer).serve()
    except OSError as exc:  # for example, no worker could be started
        raise StartError(f"cannot serve: {(exc.strerror or str(exc)).lower()}") from exc


def serve(loaded: Loaded, main: Any) -> None:
    """Serve a configuration until *main* returns; *main* gets the configuration and the log's writer."""
    fd_limits.raise_limit()
    log = loaded.config.log
    writer = LogWriter(_STDOUT, chunk=PIPE_ATOMIC)
    PROCESS.defer_signals(lambda: writer.close(_LAST_LINES))
    configure_logging(writer, level=log.level, console=log.format == "console")
    work: Coroutine[Any, Any, None] = main(loaded, writer)
    try:
        uvloop.run(work)
    except StartError as exc:
        fail(str(exc))
    finally:
        writer.close()
