"""The faults by class, and what all of them go by."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.stage import Stage

Fault = Callable[[Stage, random.Random], Awaitable[None]]
FAULTS: Final[dict[str, dict[str, Fault]]] = {}
"""Faults by class, then by name."""
PROBE_WITHIN: Final = 3.0
"""Seconds in which a probe is answered, during any fault."""
WATCHED: Final = 3.0
"""Seconds in which the gateway would have taken a file by itself."""


def fault(of: str) -> Callable[[Fault], Fault]:
    """Enter a fault in its class."""

    def enter(function: Fault) -> Fault:
        FAULTS.setdefault(of, {})[function.__name__] = function
        return function

    return enter
