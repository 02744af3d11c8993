"""W3C Trace Context: which hooks are traced, and the ids of their spans.

A hook's span has a random id; the ids of the spans below it follow from that one, so that nothing but it need be
carried along: the id that was sent to a backend as its parent is computed again when the spans are made.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

import msgspec

_SAMPLED: Final = 1
_TOP_BIT: Final = 1 << 63
"""Set in every hook's span id, so that no id derived from it is zero, which is invalid."""
_QUEUE: Final = 1 << 16
"""Sets a queue's span apart from its attempt's."""


class Trace(msgspec.Struct, frozen=True, gc=False):
    """A traced hook's place in its trace."""

    trace_id: bytes
    """32 hexadecimal digits."""
    parent: bytes
    """The sender's span id in 16 hexadecimal digits; empty if the trace begins here."""
    span: int
    """The id of the hook's own span."""

    def attempt(self, number: int) -> int:
        """The span id of an attempt; the first one's *number* is 1."""
        return self.span ^ number

    def queue(self, number: int) -> int:
        """The id of the span of an attempt's wait for a connection."""
        return self.span ^ number ^ _QUEUE

    def traceparent(self, number: int = 1) -> bytes:
        """An attempt's header for the backend (W3C Trace Context, section 3.2): the attempt is the parent."""
        return b"00-%b-%016x-01" % (self.trace_id, self.span ^ number)

    def renumber(self, head: bytes, before: int, number: int) -> bytes:
        """The header lines of attempt *before*, changed for attempt *number*."""
        return head.replace(self.traceparent(before), self.traceparent(number), 1)


class Sampling:
    """Decides of which hooks spans are made: the sender's decision holds, else chance decides."""

    def __init__(self, ratio: float) -> None:
        self._bound = int(ratio * (1 << 64))

    def trace(self, traceparent: bytes, *, begins: bool) -> Trace | None:
        """A hook's place in its trace; None where it is not traced.

        *traceparent* is a valid one: the sender's, or where the trace *begins* here, a new one.
        """
        if begins:
            # The random part of the trace id decides, as it does elsewhere (TraceIdRatioBased).
            if int(traceparent[19:35], 16) >= self._bound:
                return None
            parent = b""
        else:
            if not int(traceparent[53:55], 16) & _SAMPLED:
                return None
            parent = traceparent[36:52]
        return Trace(traceparent[3:35], parent, getrandbits(63) | _TOP_BIT)
