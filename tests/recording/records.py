"""What the tests of recordings share: a decision, its line, and the keys of its pseudonyms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import (
    Cause,
    Failure,
    ProxyError,
    Ruling,
    backend_allow,
)
from gateway.recording import Record
from gateway.recording.format import decode_record, encode_record
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Key, Pseudonyms
from tests.support.gateways import ROOT

KEY: Final = Key(b"k" * 32)
OTHER_KEY: Final = Key(b"o" * 32)
RUN: Final = KEY.run
TIMED_OUT: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer within 1.5 s")
WIRE: Final = ROOT.parent / "shared" / "wire" / "OnCallEvent-sdp.json"
GIVEN_UP: Final = 10.0


def hook_body(**fields: Any) -> bytes:
    return json.dumps({"appKey": "defaultApp", **fields}).encode()


def decision(body: bytes | None = None, ruling: Ruling | None = None, **changes: Any) -> Decision:
    body = hook_body(sessionId="s1", caller="+4930123456") if body is None else body
    ruling = backend_allow(body) if ruling is None else ruling
    made = Decision(
        ruling, 1_700_000_000.25, "0123456789abcdef", "defaultApp", "OnCallEvent", 1.5, 0.0125, "php", "php:80", 1,
        0.011, parse_hook(body), body=body, method_name="OnCallEvent", size=len(body),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def recorded(made: Decision, mask: tuple[str, ...] = ("caller", "callee"), key: Key = KEY) -> Record:
    line = encode_record(made, Mask(mask, Pseudonyms(key)), key.run, mask)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return decode_record(line)


def masked(document: Any, mask: tuple[str, ...] = ("caller", "callee")) -> Any:
    return json.loads(Mask(mask, Pseudonyms(KEY)).apply(json.dumps(document).encode()))


def lines_of(*paths: Path) -> list[bytes]:
    return [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
