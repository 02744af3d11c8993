"""``gateway schema`` and ``gateway version``."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version as version_of

from gateway import __version__
from gateway.config import json_schema

_KEY_DEPENDENCIES = ("starlette", "uvicorn", "uvloop", "httptools", "httpx", "msgspec", "pydantic", "prometheus-client")


def schema() -> None:
    """Print the configuration's JSON Schema. Editors use it."""
    print(json.dumps(json_schema(), indent=2))


def version() -> None:
    """Print the gateway's version. Also prints those of Python and the main dependencies."""
    print(f"wcs-gateway {__version__}")
    print(f"Python {platform.python_version()}")
    for name in _KEY_DEPENDENCIES:
        print(f"{name} {version_of(name)}")
