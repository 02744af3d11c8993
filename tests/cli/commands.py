"""The command line as a user has it, in this process or in a shell, and what it left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.command_line import invoke
from tests.support.gateways import ROOT

PATIENCE: Final = 30.0
HOOK: Final = b'{"appKey": "defaultApp", "callee": "PPP005"}'
CONFIG: Final = """\
upstreams:
  legacy-php: {url: http://127.0.0.1:8081/rest/my_api}
  other: {url: http://127.0.0.1:8082}
apps:
  defaultApp:
    upstream: legacy-php
    timeout: 2s
    fallback: {timeout: allow, unreachable: allow}
    methods:
      OnCallEvent: {timeout: 1500ms, fallback: reject}
  "tenant-*": {upstream: other}
  blocked: {static: reject}
  open: {static: allow}
"""


class Run:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in err
        assert "Exception ignored" not in err

    def __repr__(self) -> str:
        return f"<exit {self.status}\n{self.out}\n{self.err}>"


def gateway(*args: str | Path, stdin: bytes = b"") -> Run:
    """The command, in this process."""
    result = invoke(*args, stdin=stdin)
    return Run(result.exit_code, result.stdout, result.stderr)


def shell(command: str, directory: Path, **environment: str) -> Run:
    """The command, in a shell of its own; ``gateway`` in it is ours."""
    whole = command.replace("gateway ", f"{sys.executable} -m gateway ")
    done = subprocess.run(
        ["bash", "-c", whole],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def explained(run: Run) -> dict[str, str]:
    """The first word of each line and the rest of it."""
    assert (run.status, run.err) == (0, "")
    return dict(re.split(r" +", line, maxsplit=1) for line in run.out.splitlines() if not line.startswith(" "))
