"""The history: which decisions are kept in the store, for how long, and how a telephone number is found in it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from gateway.config.sections.fields import Section
from gateway.config.sections.types import NotNull, ReadAs, Secret, duration, secret_check, size
from gateway.policy.history import Bodies, HistorySettings

LEAST_KEY: Final = 16
"""Characters."""


def _key(text: str) -> None:
    if len(text) < LEAST_KEY:
        raise ValueError(
            f"must have at least {LEAST_KEY} characters: with a key that can be guessed, every number can be found; "
            "make one with: openssl rand -hex 32"
        )


class History(Section):
    """Decisions kept in the store: what gateway decisions and the console find after the last minute."""

    keep: Annotated[float, duration("1m", "3650d")] = Field(
        default="30d",
        validate_default=True,
        description="How long decisions are kept: rejections, failures, and all others that were not simply allowed. "
        "Default 30d. Ask how long the law lets you keep who called whom.",
    )
    keep_allowed: Annotated[float, duration("1m", "3650d")] = Field(
        default="1d",
        validate_default=True,
        description="How long decisions are kept of hooks that were allowed as usual, which nearly all are; at most as "
        "long as keep. Default 1d. A hook takes a few hundred bytes: at 100 hooks/s, some gigabytes a day.",
    )
    max_size: Annotated[int, size("1MiB", "1024GiB")] = Field(
        default="2GiB",
        validate_default=True,
        description="Bytes that the history may take; past it, the oldest decisions are deleted, those that were "
        "allowed as usual first. Default 2GiB. Too small keeps less than keep says.",
    )
    bodies: Bodies = Field(
        default=Bodies.OFF,
        description="Of which hooks the bodies of hook and answer are kept: off, failures or all, masked as "
        "recordings are. Default off. Bodies contain what the hooks contain, except masked fields, and take some ten "
        "times the space.",
    )
    key: Annotated[Secret | None, NotNull(), secret_check(_key)] = Field(
        default=None,
        description="Secret with which whole numbers are found although they are stored masked: at least "
        f"{LEAST_KEY} characters, the same on all gateways that share the store. No default. Without it, gateway "
        "decisions --caller finds nothing in the history, and forget cannot find a person; after a change, older "
        "decisions are not found by number.",
    )


def _settings(**keys: Any) -> HistorySettings:
    """Nothing is kept for longer than ``keep``."""
    settings = HistorySettings(**keys)
    return settings._replace(keep_allowed=min(settings.keep_allowed, settings.keep))


HISTORY: Final = ReadAs(History, _settings)
