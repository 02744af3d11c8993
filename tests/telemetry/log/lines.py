"""Decisions to be logged, where their lines go, and strings that try to break a line."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from gateway.model.decision import Decision
from gateway.model.hooks import BadHookError, Hook, parse_hook
from gateway.model.verdicts import Cause, Failure, ProxyError, Ruling, backend_reject
from gateway.telemetry.log import LogWriter
from tests.support.gateways import ROOT

TEXT_FIELDS = {"nodeId": "node_id", "sessionId": "session_id", "callId": "call_id"}
NUMBER_FIELDS = ("caller", "callee")
TIMED_OUT = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer within 1.5 s")
NAUGHTY = ROOT.parent / "shared" / "corpora" / "naughty_strings.json"
HOSTILE = [
    "a\r\nb",
    'quote " and \\ back',
    "\x1b[31mred\x1b[0m",
    "\x00\x07\x08",
    "\u2028\u2029\x85",
    "\u202egnp.exe",
    "x" * 100_000,
    "é" * 5_000,
    "{}",
    '{"verdict": "allow"}',
    "\ufeff",
    "😀" * 1000,
    "%s %d {}",
    "[red]markup[/]",
]


def hook_of(raw: bytes) -> Hook | None:
    """The hook, where the gateway can read it."""
    with contextlib.suppress(BadHookError):
        return parse_hook(raw)
    return None


def decision(ruling: Ruling | None = None, body: bytes | dict[str, Any] = b"", **changes: Any) -> Decision:
    """A backend's refusal of this hook, unless something else is said; *changes* are to the decision's own fields."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = Decision(
        ruling or backend_reject(), 1_700_000_000.1234, "id-1", "a", "OnCallEvent", 1.5, 0.0205, "u",
        "http://t/", 2, 0.01, hook_of(raw),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Sink:
    """A file, the writer that fills it, and the number of lines given up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.writer = LogWriter(self.fd, self._drop)

    def _drop(self, lines: int) -> None:
        self.dropped += lines

    def lines(self) -> list[bytes]:
        """Everything written; ends the writer."""
        self.writer.close(20.0)
        data = self.path.read_bytes()
        assert data == b"" or data.endswith(b"\n")
        return data.split(b"\n")[:-1]


def naughty_strings() -> list[str]:
    """The hostile strings, and those of the shared folder where it is there."""
    strings: list[str] = json.loads(NAUGHTY.read_text("utf-8")) if NAUGHTY.exists() else []
    return HOSTILE + strings
