"""The ``gateway`` command: one module per kind of subcommand.

Its signals have their meanings before anything else is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module

from gateway.server.signals import MEANINGS, PROCESS, interruptible

_SERVING = ("run", "demo")


def main() -> None:
    """Run the command line; the exit status is 0, 1 (failed at run time) or 2 (usage or configuration)."""
    if next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None) in _SERVING:
        PROCESS.install(MEANINGS)
        with PROCESS.exit_at_end():
            _run()
    else:
        with interruptible():
            _run()


def _run() -> None:
    import_module("gateway.cli.entry").main()


__all__ = ["main"]
