"""A backend and callers whose pace a test sets, for what shows only when several hooks meet.

The backend can be told at any time how to treat the hooks to come, all of them or one app's alone: answer, refuse,
hold on to them, break off. Killed, it refuses connections on the very port where it comes back later. The callers are
the media server's: keep-alive connections, one hook at a time on each.
"""

from __future__ import annotations

from tests.support.pacing.backend import Mode, PacedBackend, Request, backends
from tests.support.pacing.callers import Answered, Callers, Volley, hook_body, leaving, volley
from tests.support.pacing.reloads import (
    EMPTY,
    LISTENERS,
    configuration,
    open_files,
    reloadable_gateway,
    serve,
    take,
    targets,
)

__all__ = [
    "EMPTY",
    "LISTENERS",
    "Answered",
    "Callers",
    "Mode",
    "PacedBackend",
    "Request",
    "Volley",
    "backends",
    "configuration",
    "hook_body",
    "leaving",
    "open_files",
    "reloadable_gateway",
    "serve",
    "take",
    "targets",
    "volley",
]
