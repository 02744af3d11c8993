"""A gateway whose configuration each test brings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.gateways import RunningGateway, running_gateway
from tests.support.pacing.backend import PacedBackend

LISTENERS: Final = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}


def configuration(
    upstreams: Mapping[str, Mapping[str, Any]], apps: Mapping[str, Mapping[str, Any]], **sections: Any
) -> str:
    """A configuration, in the JSON that is YAML too; repeats are asked, unless a section says otherwise."""
    sections["server"] = {**LISTENERS, **sections.get("server", {})}
    sections.setdefault("defaults", {"dedupe": "off"})
    return json.dumps({"upstreams": upstreams, "apps": apps, **sections})


EMPTY: Final = configuration({}, {"nobody": {"static": "reject"}})
"""Nothing in it: no target, no series is left of what was there before."""


@contextlib.contextmanager
def reloadable_gateway(directory: Path) -> Iterator[RunningGateway]:
    """A gateway for many tests, each of which has it take EMPTY and then its own configuration."""
    with running_gateway(EMPTY, directory) as gateway:
        yield gateway


def take(gateway: RunningGateway, text: str) -> dict[str, Any]:
    """Have the gateway take a configuration; its report."""
    return gateway.reload(text)


def serve(
    gateway: RunningGateway,
    upstreams: Mapping[str, Mapping[str, Any]],
    apps: Mapping[str, Mapping[str, Any]],
    **sections: Any,
) -> None:
    """Put this configuration in force."""
    take(gateway, configuration(upstreams, apps, **sections))


def targets(*backends: PacedBackend) -> list[dict[str, Any]]:
    return [{"url": backend.url} for backend in backends]


def open_files(gateway: RunningGateway) -> int:
    """File descriptors that the gateway has open."""
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))
