"""The ``gateway`` command: one module per kind of subcommand."""

from gateway.cli.entry import main

__all__ = ["main"]
