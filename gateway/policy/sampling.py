"""A sample of sessions: of each, all hooks are in it or none, the same in every process and after every restart."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from gateway.model.hooks import Hook, own_session

_ALL: Final = 1 << 32
_SCATTER: Final = 0x9E3779B1
"""Alike ids have alike checksums, and a multiplication by this scatters them (Knuth's multiplicative hash)."""
_NONE: Final = frozenset((b"", b"null", b'""'))
"""How a hook says that it has no such id: else all that have none would be in the sample together, or none of them."""


def session_or_call(hook: Hook, method: str = "") -> bytes:
    """The JSON of the session's id, else of the call's; empty where the hook has neither."""
    for name in (bytes(own_session(hook, method)), bytes(hook.call_id)):
        if name not in _NONE:
            return name
    return b""


class Sample:
    """So large a part of all sessions, above 0 and up to 1; a larger sample holds the smaller one."""

    __slots__ = ("_bound",)

    def __init__(self, part: float) -> None:
        self._bound = max(1, round(part * _ALL))

    def takes(self, hook: Hook, request_id: str, method: str = "") -> bool:
        """Whether the hook is in it: by its session, else by its call, else by itself."""
        if self._bound >= _ALL:
            return True
        key = session_or_call(hook, method) or request_id.encode()
        return crc32(key, crc32(bytes(hook.node_id))) * _SCATTER % _ALL < self._bound
