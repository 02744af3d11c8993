"""Apps that show what no general proxy knows: refusals that stop nothing, repair, rules, shares, stand-ins."""

from __future__ import annotations

from typing import Any, Final

from tests.support.faulty import FaultyBackend

APPS: Final[dict[str, dict[str, Any]]] = {
    "acme": {"upstream": "denied", "rules": [{"methods": "connect", "upstream": "well"}]},
    "old-php": {"upstream": "php", "response_check": "repair"},
    "ruled": {"upstream": "well", "rules": [{"name": "spam", "caller": "+49301*", "verdict": "reject"}]},
    "canary": {"upstream": [{"name": "well", "weight": 3}, {"name": "denied", "weight": 1}]},
    "away": {"upstream": "gone", "failover": ["well"]},
}


def sections(backend: FaultyBackend, refused: int, php: str, apps: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A configuration with these apps besides; *php* is the backend's case that pollutes, *refused* nobody's port."""
    return {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "defaults": {"dedupe": "off", "timeout": "5s"},
        "upstreams": {
            "well": {"url": backend.url_of("ok")},
            "denied": {"url": backend.url_of("denied")},
            "php": {"url": backend.url_of(php)},
            "gone": {"url": f"http://127.0.0.1:{refused}/", "breaker": "off"},
        },
        "apps": {**APPS, **apps},
    }
