"""The ``gateway`` command: one module per kind of subcommand, assembled here."""

from gateway.cli.main import main

__all__ = ["main"]
