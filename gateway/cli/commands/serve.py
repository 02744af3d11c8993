"""``gateway run``, and how whatever serves is run."""

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
"""Seconds that the log has for its last lines where a signal ends what has ended already but for that."""


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads."""
    serve(load_or_fail(config), _run)


async def _run(loaded: Loaded, writer: LogWriter) -> None:
    process = Gateway if loaded.config.server.workers == 1 else Supervisor
    try:
        await process(loaded, writer).serve()
    except OSError as exc:  # no worker could be started, say: standard output, which others fail by, is the writer's
        raise StartError(f"cannot serve: {(exc.strerror or str(exc)).lower()}") from exc


def serve(loaded: Loaded, main: Any) -> None:
    """Serve a configuration until *main*, which is given it and the log's writer, comes to its end."""
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
