"""The rate limit of an app: hooks per second in the long run, and how many at once."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from gateway.config.sections.types import parsed_text, text_schema
from gateway.policy.rate_limit import FORM, PATTERN, Rate, parse_rate

UNLIMITED: Final = "off"
_FORM: Final = f"{FORM}, or off"


def _parse(text: str) -> Rate | str:
    if text == UNLIMITED:
        return UNLIMITED
    try:
        return parse_rate(text)
    except ValueError as exc:
        raise ValueError(_FORM if str(exc) == FORM else str(exc)) from exc


RateLimit = Annotated[
    Rate | Literal["off"] | None,
    parsed_text(_FORM, _parse, text_schema(f"off|{PATTERN}", "50/s", "50/s burst 100", "300/m", "off"), str),
]
"""A rate, or ``off``; None = left out."""
