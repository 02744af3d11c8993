"""The configuration of the gateway whose hooks are watched: an app for each way that a hook may go."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.support.faulty import FaultyBackend

ENVIRONMENT: Final = {"TEST_API_KEY": "key-of-the-upstream", "TEST_PASSWORD": "pass:wörd"}
LISTEN: Final = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
CASE_OF_CAUSE: Final = {
    "timeout": "hang",
    "unreachable": "close_without_a_byte",
    "bad_answer": "body_notice_before",
    "error_status": "status_500",
}
TIMEOUT: Final = "1s"
"""Of the apps that are to meet it."""
ENOUGH: Final = "5s"
"""For an answer that comes, on a busy machine too."""


def configuration(backend: FaultyBackend, refused: int) -> str:
    """Apps named after the backend's cases, and others; *refused* is a port where nobody listens."""
    cases = (
        *("ok", "ok_slow", "ok_set_cookie", "ok_html_type", "denied", "denied_html", "denied_yes"),
        *("refused", "status_404", "status_503_yes", "redirect_302", "body_bom", "half_body_close"),
        *("reset_before_body", "body_over_limit", "header_100_kb", *CASE_OF_CAUSE.values()),
    )  # fmt: skip
    upstreams: dict[str, dict[str, Any]] = {
        name: {"url": backend.url_of(name)} for name in dict.fromkeys(cases) if name != "refused"
    }
    upstreams["refused"] = {"url": f"http://127.0.0.1:{refused}"}
    ok = backend.url_of("ok")
    upstreams["slash"] = {"url": ok + "/"}
    upstreams["preserve"] = {"url": ok, "host": "preserve"}
    upstreams["literal"] = {"url": ok, "host": "legacy.example.com"}
    upstreams["no_keepalive"] = {"url": ok, "keepalive": "off"}
    upstreams["keyed"] = {
        "url": ok,
        "headers": {"X-Api-Key": "${env:TEST_API_KEY}", "Accept": "application/json;v=2"},
        "credentials": {"username": "wcs", "password": "${env:TEST_PASSWORD}"},
    }
    upstreams["single"] = {"url": backend.url_of("gated"), "max_connections": 1}
    apps: dict[str, dict[str, Any]] = {
        name: {"upstream": name, "timeout": TIMEOUT if name == "hang" else ENOUGH} for name in upstreams
    }
    for cause, case in CASE_OF_CAUSE.items():
        apps[f"{cause}-allow"] = {**apps[case], "fallback": "allow"}
        apps[f"{cause}-named"] = {**apps[case], "fallback": {cause: "allow"}}
        others = {other: "allow" for other in (*CASE_OF_CAUSE, "overload") if other != cause}
        apps[f"{cause}-others"] = {**apps[case], "fallback": others}
    apps["holder"] = {"upstream": "single", "timeout": "14s"}
    apps["overload-allow"] = {"upstream": "single", "timeout": "200ms", "fallback": "allow"}
    apps["overload-reject"] = {"upstream": "single", "timeout": "200ms"}
    apps["methods"] = {
        "upstream": "refused",
        "timeout": "2s",
        "fallback": "allow",
        "methods": {"OnCallEvent": {"timeout": "1s", "fallback": "reject"}, "connect": {"timeout": "3s"}},
    }
    upstreams["gzip_unasked"] = {"url": backend.url_of("gzip_unasked")}
    apps["off"] = {"upstream": "ok_html_type", "response_check": "off"}
    apps["off-coded"] = {"upstream": "gzip_unasked", "response_check": "off"}
    apps["static-allow"] = {"static": "allow"}
    apps["static-reject"] = {"static": "reject"}
    apps |= {name: {"upstream": "ok"} for name in ("tenant-*", "tenant-1*", "tenant-1", "*-2", "t?nant-9")}
    for upstream in upstreams.values():
        upstream["breaker"] = "off"
    return json.dumps({"server": LISTEN, "defaults": {"dedupe": "off"}, "upstreams": upstreams, "apps": apps})
