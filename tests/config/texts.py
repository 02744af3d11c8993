"""Texts that several suites begin with, and what loading them says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gateway.config import ConfigError, Loaded, Problem, loads
from gateway.model.hooks import KEEP_ALIVE

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "gateway.yaml"
PEM: Final = Path(__file__).parent / "pem"
ONE_UPSTREAM: Final = "upstreams: {u: {url: http://h}}\n"
UPSTREAMS: Final = "upstreams: {u: {url: http://h}, v: {url: http://i}}\n"
BACKEND: Final = "upstreams: {u: {url: http://backend/api}}\n"
BACKEND_APP: Final = "apps: {a: {upstream: u}}\n"


def of_u(settings: str) -> str:
    """A configuration whose app has an upstream and these settings."""
    return UPSTREAMS + "apps: {a: {upstream: u, " + settings + "}}\n"


def problems_of(text: str) -> list[str]:
    """The problems of a configuration, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return [str(problem).removeprefix("gateway.yaml:") for problem in caught.value.problems]


def warnings_of(loaded: Loaded) -> list[Problem]:
    """All but the one for apps without a fallback for StreamKeepAliveEvent (see checks/test_methods)."""
    return [it for it in loaded.warnings if KEEP_ALIVE not in it.message]
