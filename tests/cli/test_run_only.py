"""A process that serves does not carry the other commands with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.commands import PATIENCE
from tests.support.gateways import ROOT

LOADED = """
import sys
from gateway.cli.entry import main
try:
    main()
finally:
    others = "gateway.cli.main", "gateway.cli.top", "gateway.recording.replay"
    print(*(name for name in others if name in sys.modules))
"""


@pytest.mark.parametrize(("command", "loaded"), [("run", ""), ("check", "gateway.cli.main")])
def test_only_the_command_that_serves_is_loaded_alone(command: str, loaded: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert f"{command} [OPTIONS]" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(loaded)
    assert bool(done.stdout.splitlines()[-1]) == bool(loaded)
