"""What a backend can do with a hook, and which verdicts that can come to."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.chaos.facts import ALLOW, BAD_ANSWER, DELIVERED, DENY, ERROR_STATUS, TIMEOUT, UNREACHABLE


class Mode(NamedTuple):
    """How one hook is treated."""

    outcomes: frozenset[str]
    """The verdicts and causes that it can come to."""
    delivers: bool = False
    """Whether it tells an event's sender that the event has come: any 2xx with a whole body."""


def _to(*outcomes: str, delivers: bool = False) -> Mode:
    return Mode(frozenset(outcomes), delivers)


MODES: Final = {
    "ok": _to(ALLOW),
    "slow": _to(ALLOW),
    "drip": _to(ALLOW),
    "connection_close": _to(ALLOW),
    "closes_silently": _to(ALLOW),
    "surplus": _to(ALLOW, BAD_ANSWER),
    "denied": _to(DENY),
    "error": _to(ERROR_STATUS),
    "redirect": _to(ERROR_STATUS),
    "no_content": _to(ERROR_STATUS, delivers=True),
    "html": _to(BAD_ANSWER, delivers=True),
    "empty": _to(BAD_ANSWER, delivers=True),
    "bom": _to(BAD_ANSWER, delivers=True),
    "array": _to(BAD_ANSWER, delivers=True),
    "php_dies": _to(BAD_ANSWER),
    "noise": _to(BAD_ANSWER),
    "short": _to(BAD_ANSWER, UNREACHABLE),
    "reset": _to(UNREACHABLE),
    "close": _to(UNREACHABLE),
    "reset_amid": _to(BAD_ANSWER, UNREACHABLE),
    "close_amid": _to(BAD_ANSWER, UNREACHABLE),
    "hang": _to(TIMEOUT),
    "hang_amid": _to(TIMEOUT),
    "drip_late": _to(TIMEOUT),
    "endless": _to(BAD_ANSWER, TIMEOUT),
}
"""An event that one of those meets which deliver comes to DELIVERED instead."""

REFUSE: Final = "refuse"
"""No mode of a hook: nobody listens."""
MIX: Final = "mix"
"""A mode for each hook, picked by its id."""


def outcomes(mode: str, event: bool) -> frozenset[str]:
    """What a hook of this kind can come to."""
    known = MODES[mode]
    return frozenset({DELIVERED}) if event and known.delivers else known.outcomes
