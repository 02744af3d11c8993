"""What the callers and the backends write down, and what else the oracle gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CALLER_NET: Final = "127.0.1."
"""The media servers' addresses; everybody else is a stranger."""
CALLER: Final = CALLER_NET + "1"
STRANGER_NET: Final = "127.0.9."
PATIENCE: Final = 15.0
"""Seconds after which a caller gives a hook up: the media server's rest_request_timeout."""
SDP_MARK: Final = "v=0 chaos-sdp-mark"
"""Stands in every hook's body, and may stand nowhere else."""
SECRET: Final = "chaos-secret-5f1d0c"
NUMBER: Final = "+493055501"
"""Every caller's number begins so."""

TIMEOUT: Final = "timeout"
UNREACHABLE: Final = "unreachable"
OVERLOAD: Final = "overload"
BAD_ANSWER: Final = "bad_answer"
ERROR_STATUS: Final = "error_status"
CAUSES: Final = (TIMEOUT, UNREACHABLE, OVERLOAD, BAD_ANSWER, ERROR_STATUS)

ALLOW: Final = "allow"
DENY: Final = "deny"
DELIVERED: Final = "delivered"
"""An event that any 2xx has answered: 200 with the hook's own body."""


@dataclass(frozen=True)
class Attempt:
    """One sending of a hook, on one connection; times in seconds on the monotonic clock, which all processes share."""

    port: int
    """The caller's."""
    begun: float
    ended: float
    how: str
    """``answered``; ``closed`` before a byte of an answer; ``refused``: no connection; ``broken``: amid the answer, or
    the answer was no HTTP; ``silent``: given up."""
    why: str = ""
    """What the caller's system said, where it said something."""

    def __str__(self) -> str:
        said = f" ({self.why})" if self.why else ""
        return f"{self.how}{said} on port {self.port} after {self.ended - self.begun:.3f} s"


@dataclass(frozen=True)
class Called:
    """A hook as its caller saw it."""

    id: str
    app: str
    method: str
    body: str
    """SHA-1 of the body."""
    attempts: tuple[Attempt, ...]
    status: int = 0
    """0 where there was no answer."""
    proxy_status: str = ""
    problem: bool = False
    """Whether the answer is problem details."""
    answer: str = ""
    """SHA-1 of the answer's body."""
    empty: bool = True
    names: str | None = None
    """Whose id the answer's body holds."""
    lag: float = 0.0
    """Seconds for which the caller itself was held up meanwhile, at most."""

    @property
    def begun(self) -> float:
        return self.attempts[0].begun

    @property
    def ended(self) -> float:
        return self.attempts[-1].ended

    @classmethod
    def parsed(cls, line: Mapping[str, Any]) -> Called:
        return cls(**{**line, "attempts": tuple(Attempt(*attempt) for attempt in line["attempts"])})


@dataclass(frozen=True)
class Asked:
    """A hook as a backend saw it, and what the backend did with it."""

    id: str
    at: float
    backend: str
    mode: str
    body: str
    """SHA-1 of the body that came."""
    answer: str
    """SHA-1 of the body that was to be sent."""
    revision: str
    """Of the configuration that the gateway asked by."""


@dataclass(frozen=True)
class Held:
    """A worker that was killed or stopped, and the callers' ports that it had connections with."""

    kind: str
    """``killed`` or ``stopped``."""
    pid: int
    ports: frozenset[int]
    begun: float
    ended: float
    """Until when it could answer nothing; for one that was killed, the moment itself."""

    def until(self, ended: float) -> Held:
        """The same with another end."""
        return dataclasses.replace(self, ended=ended)

    def has(self, attempt: Attempt, slack: float = 0.0) -> bool:
        """Whether the attempt was in its hands."""
        return attempt.port in self.ports and attempt.begun <= self.ended + slack and attempt.ended >= self.begun


@dataclass
class Windows:
    """When something was so, for the oracle: spans of time by name."""

    spans: dict[str, list[list[float]]] = field(default_factory=dict)

    def open(self, name: str, now: float) -> list[float]:
        """Begin one; it ends when its second number is set."""
        span = [now, float("inf")]
        self.spans.setdefault(name, []).append(span)
        return span

    def met(self, name: str, begun: float, ended: float) -> bool:
        """Whether one of this name overlaps."""
        return any(since <= ended and until >= begun for since, until in self.spans.get(name, ()))
