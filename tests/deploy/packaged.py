"""Programs that come as Python packages, pinned with the tests' other requirements; see programs.py on missing ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def packaged(program: str, package: str) -> str:
    """The path of a program beside this Python, or on the PATH; skips, or fails under ``CI=true``, without it."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    path = shutil.which(program, path=places)
    if path is not None:
        return path
    reason = f"{program} is not installed (PyPI package {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def complaints(command: list[str], seconds: float = 60.0) -> str:
    """What a checker says where it does not end well; nothing if all is."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}exit status {done.returncode}"
