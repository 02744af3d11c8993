"""The command line in this process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final
from unittest import mock

import typer.main
from typer.testing import CliRunner, Result

from gateway.cli.main import app

_command: Final = functools.cache(typer.main.get_command)
"""Typer builds all commands anew at each call, which takes as long as three calls."""


def invoke(*args: str | Path, stdin: bytes = b"") -> Result:
    """Run ``gateway`` with these arguments. Raises what the command raises, ``SystemExit`` apart."""
    with mock.patch("typer.testing._get_command", _command):
        return CliRunner().invoke(app, [str(arg) for arg in args], stdin, prog_name="gateway", catch_exceptions=False)
