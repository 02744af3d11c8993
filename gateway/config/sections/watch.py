"""The watch: when a changed configuration file is reloaded automatically."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from pydantic import Field

from gateway.config.sections.fields import Section
from gateway.config.sections.types import TRUE_OR_FALSE, ReadAs, duration


class WatchSettings(NamedTuple):
    """When a changed file is reloaded automatically."""

    settle: float = 2.0
    """Seconds for which it must have been unchanged."""
    allow_mass_removal: bool = False
    """Whether more than half of ten or more apps may be removed without a command."""


class Watch(Section):
    """When a changed configuration file is reloaded automatically."""

    settle: Annotated[float, duration("0s", "10m")] = Field(
        default="2s",
        validate_default=True,
        description="How long the file must have been unchanged; a file that was renamed into place, and was last "
        "written longer ago than that, is reloaded at once. Default 2s. If the program that writes the file pauses "
        "for longer, half a file may be reloaded.",
    )
    allow_mass_removal: Annotated[bool, TRUE_OR_FALSE] = Field(
        default=False,
        description="Whether an automatic reload may remove more than half of ten or more apps. Default false. With "
        "false, such a file needs POST /-/reload or SIGHUP; with true, a truncated file removes its apps.",
    )


WATCH: Final = ReadAs(Watch, WatchSettings, off=True)
