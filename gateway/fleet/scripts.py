"""Lua scripts on the server: each is one atomic step and one round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateway.fleet.wire import Argument


class Script:
    """A Lua script. A Link loads it at each connect (``Link.load``), and runs it by its digest (``Link.run``)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        """By which the server knows it."""

    def command(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)

    def whole_command(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """The same with the text, for a server that has forgotten it."""
        return ("EVAL", self.text, len(keys), *keys, *arguments)
