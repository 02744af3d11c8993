"""The spool of a method: how long and how much of its events is kept until they can be delivered."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from gateway.config.sections.fields import Section
from gateway.config.sections.types import ReadAs, duration, size, whole_number
from gateway.policy.spooling import ATTEMPTS, SpoolSettings

OFF: Final = "off"
ON: Final = "on"
LEAST_SIZE: Final = "64KiB"


class Spool(Section):
    """How long and how much of the events that could not be delivered is kept."""

    max_age: Annotated[float, duration("1s", "365d")] = Field(
        default="24h",
        validate_default=True,
        description="How long after its arrival an event is kept; past it, it is dropped and counted. Default 24h. If "
        "a backend is down for longer, its oldest events are lost.",
    )
    max_size: Annotated[int, size(LEAST_SIZE, "1024GiB")] = Field(
        default="1GiB",
        validate_default=True,
        description="Bytes that the app's kept events may take, all methods together; past it, the oldest of the "
        "least valuable ones are dropped, those of calls last, and counted. Default 1GiB. An event takes about 4KiB; "
        "apps that are matched by one glob share it.",
    )
    attempts: Annotated[int, whole_number(1, 1000, "attempts")] = Field(
        default=ATTEMPTS,
        description="How often delivery of one event may fail while the backend takes others; then it becomes a dead "
        f"letter, and the next event of its call follows. Default {ATTEMPTS}. Attempts while the upstream is down do "
        "not count.",
    )


SPOOL: Final = ReadAs(Spool, SpoolSettings, words=((ON, SpoolSettings()), (OFF, OFF)))
