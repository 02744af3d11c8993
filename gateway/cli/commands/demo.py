"""``gateway demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.commands.serve import serve
from gateway.cli.common import load_or_fail
from gateway.cli.demo import DEMO_CONFIG, run_demo
from gateway.config import loads


def demo(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="Start demo backends for this configuration (default: a built-in one).",
        ),
    ] = None,
) -> None:
    """Start a gateway with a demo backend. Shows some hooks and their verdicts, then serves, on loopback only."""
    if config is not None:
        serve(load_or_fail(config), run_demo)
        return
    with tempfile.TemporaryDirectory(prefix="wcs-gateway-demo-") as directory:  # of its store
        serve(loads(DEMO_CONFIG, f"{directory}/demo.yaml"), run_demo)
