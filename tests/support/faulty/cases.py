"""What a case is, what the gateway is expected to make of it, and the table of all cases."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple

MAX_ANSWER: Final = 1024 * 1024
"""Bytes: the largest answer that the gateway under test accepts."""
BASE_PATH: Final = "/rest/my_api"
WRONG_ANSWER: Final = b'{"answer":"of another hook"}'
"""A 200 that belongs to nobody: no client may ever see it."""
CALLER_INPUT: Final = b'{"restPolicy":"OVERWRITE"}'
"""JSON that a caller smuggled into a backend's error text: no client may ever see it as an answer."""


class Expected(NamedTuple):
    """What the gateway makes of a case."""

    status: int
    reason: str
    verdict: str


OK: Final = Expected(200, "ok", "allow")
DENIED: Final = Expected(403, "denied", "reject")
TIMEOUT: Final = Expected(403, "timeout", "reject")
UNREACHABLE: Final = Expected(403, "unreachable", "reject")
BAD_ANSWER: Final = Expected(403, "bad_answer", "reject")
ERROR_STATUS: Final = Expected(403, "error_status", "reject")


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived."""

    line: bytes
    """The request line without its line end."""
    method: str
    path: str
    """The request target as it came, query included."""
    headers: list[tuple[bytes, bytes]]
    """Names in the case in which they came, values without the optional white space around them."""
    case: str
    connection: int
    """Number of the connection, from 1, in the order in which the backend accepted them."""
    turn: int
    """How many requests this connection has brought, this one included."""
    time: float
    """time.monotonic() at which the head was complete."""
    body: bytes = b""
    chunked: bool = False
    complete: bool = True
    """False where the case answers before it reads the body; *body* is empty then."""

    def values(self, name: str) -> list[bytes]:
        """All values of a header, its name in any case."""
        wanted = name.lower().encode("ascii")
        return [value for key, value in self.headers if key.lower() == wanted]


class Pause(NamedTuple):
    """Nothing is sent for this many seconds."""

    seconds: float


class End(Enum):
    """How a script leaves its connection."""

    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"
    """Nothing more is sent; the connection stays until the peer leaves."""


Step = bytes | Pause | End


class Turn(NamedTuple):
    """What a script may build on."""

    request: Recorded
    right: bytes
    """The answer that belongs to this request."""
    nth: int
    """How many requests this case has had on all connections, this one included."""


Script = Callable[[Turn], Iterable[Step]]


def right_answer(request_body: bytes) -> bytes:
    """The JSON answer that belongs to this request body and to no other."""
    return b'{"answer":"%b"}' % hashlib.sha256(request_body).hexdigest()[:32].encode("ascii")


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One behaviour, and what the gateway makes of it."""

    name: str
    doc: str
    expect: Expected
    """The outcome of a hook on a fresh connection."""
    connections_after: int
    """How many connections of this one hook the gateway may keep for later hooks: 0 (must close it) or 1."""
    script: Script
    also: tuple[Expected, ...] = ()
    """Outcomes that the contract or the RFCs leave open beside *expect*."""
    second: tuple[Expected, ...] = ()
    """Acceptable outcomes of the next hook, sent once this one is answered; empty: the same again."""
    early: bool = False
    """The script starts when the head is in, before the body is read."""
    body: Callable[[bytes], bytes] = right_answer
    """The body that an allowed hook gets, byte for byte, from the request's body."""

    @property
    def allowed(self) -> tuple[Expected, ...]:
        """Every acceptable outcome, the expected one first."""
        return (self.expect, *self.also)


CASES: Final[dict[str, Case]] = {}


def add_case(
    name: str, doc: str, expect: Expected, connections_after: int, script: Script, *,
    also: tuple[Expected, ...] = (), second: tuple[Expected, ...] = (), early: bool = False,
    body: Callable[[bytes], bytes] = right_answer,
) -> None:  # fmt: skip
    """Put a case into the table; ValueError for a name that is taken or would not fit into a path."""
    if name in CASES or not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"case name {name!r} is taken or does not fit into a path")
    CASES[name] = Case(name, doc, expect, connections_after, script, also, second, early, body)
