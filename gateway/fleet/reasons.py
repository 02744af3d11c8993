"""Why the server cannot be used, in words for the log, the status and the command line."""

from __future__ import annotations

from typing import Final


class StateUnavailable(Exception):
    """No answer, or none that is of use: the server is away, late, or refuses. The text is for the log."""


class Away(StateUnavailable):
    """There is no connection of use to the server."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_REASONS: Final = {
    "READONLY": "it is a replica, which cannot be written",
    "OOM": "its memory is full (maxmemory) and it takes nothing more",
    "LOADING": "it is loading its data",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "it rejects user or password",
    "NOPERM": "the user may not do what the gateway needs",
    "DENIED": "it is in protected mode: it wants a password, or bind",
    "MISCONF": "it cannot write to its disk and takes nothing more",
    "NOREPLICAS": "too few replicas follow it and it takes nothing more",
    "MASTERDOWN": "it is a replica that has lost its master",
    "CLUSTERDOWN": "it is part of a cluster that is down",
    "MOVED": "it is part of a cluster, which the gateway does not support",
    "CROSSSLOT": "it is part of a cluster, which the gateway does not support",
}
"""What makes a server useless until that changes; other errors are of single commands."""


def makes_useless(code: str) -> bool:
    """Whether an error of this code means that no other command would fare better."""
    return code in _REASONS


def refusal_reason(code: str, text: str) -> str:
    """An error of the server in words; *text* is its own."""
    return _REASONS.get(code) or f"it answers {text or code}"[:200]
