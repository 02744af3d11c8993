"""A gateway with one app that is well, one that refuses and one in trouble, and commands that ask it."""

from __future__ import annotations

from typing import Final

from tests.cli.commands import Run, gateway
from tests.support.gateways import LISTEN, RunningGateway

TOKEN: Final = "token-of-the-admin"
NAUGHTY: Final = "call\x1b[31m\x07\x9b2J\u202e"
CONFIG: Final = (
    LISTEN
    + f"""
admin: {{token: {TOKEN}}}
upstreams: {{dead: {{url: "http://127.0.0.1:9/rest"}}}}
apps:
  defaultApp: {{static: allow}}
  blocked: {{static: reject}}
  tenant-7: {{upstream: dead}}
"""
)


def ask(running: RunningGateway, *args: str) -> Run:
    return gateway(*args, "--admin", running.admin)
