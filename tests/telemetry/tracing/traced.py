"""Gateways that trace, what their senders send, and decisions to be traced."""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import Verdict, static_ruling
from gateway.telemetry.tracing.otlp import Encoder
from tests.support.faulty import FaultyBackend
from tests.support.gateways import LISTEN

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"


def traceparent(number: int, flags: str = "01") -> dict[str, str]:
    """The header of a sender whose trace has this number."""
    return {"traceparent": f"00-{trace_id(number)}-{PARENT}-{flags}"}


def trace_id(number: int) -> str:
    return f"{TRACE[:24]}{number:08x}"


def configuration(collector: str, backend: FaultyBackend, refused: int) -> str:
    url = backend.url_of
    upstreams: dict[str, dict[str, Any]] = {
        "ok": {"url": url("ok")},
        "denied": {"url": url("denied")},
        "html": {"url": url("body_notice_before")},
        "second": {"targets": [{"url": f"http://127.0.0.1:{refused}"}, {"url": url("ok"), "backup": True}]},
        "stale": {"url": url("close_after_idle")},
        "gone": {"url": f"http://127.0.0.1:{refused}", "breaker": "off", "retry": {"attempts": 1}},
    }
    apps: dict[str, dict[str, Any]] = {
        name: {"upstream": name, "timeout": "10s", "dedupe": "off"} for name in upstreams
    }
    apps["gone"]["failover"] = ["second"]
    apps["static"] = {"static": "allow"}
    apps["twice"] = {"upstream": "ok", "dedupe": "10s"}
    sections = {
        "tracing": {
            "endpoint": collector,
            "sample": 1,
            "service_name": "gw-7",
            "headers": {"X-Key": "the-secret-key"},
        },
        "upstreams": upstreams,
        "apps": apps,
    }
    return LISTEN + "".join(f"{key}: {json.dumps(section)}\n" for key, section in sections.items())


def encoder() -> Encoder:
    return Encoder({"service.name": "x"}, "http", {})


def decision(number: int = 0) -> Decision:
    hook = parse_hook(b'{"appKey":"a","callId":"\xf0\x9f\x93\x9e"}')
    return Decision(static_ruling(Verdict.ALLOW, b"{}"), 1.0, f"r{number}", "a", "connect", None, 0.5, hook=hook)
