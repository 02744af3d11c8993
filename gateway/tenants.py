"""An app's live state in one process: what a reload must not forget, and what every hook of the app touches.

It lies together in one place, for with ten thousand apps each hook's is cold: a look-up per piece would cost a hook
more than the piece itself.
"""

from __future__ import annotations

from gateway.metrics.cells import Value
from gateway.ratelimit import Limiter, Rate
from gateway.verdicts import Place


class Tenant(Place):
    """An app that is served, by its name in the configuration: a glob is one, whatever its appKeys."""

    __slots__ = ("asking", "in_flight", "limiter", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.in_flight: Value | None = None
        """Its hooks inside, repeats that wait for a verdict included; None before it is served."""
        self.asking = 0
        """Its hooks that a backend is asked for: each has a place under the limits."""
        self.limiter: Limiter | None = None

    def __repr__(self) -> str:
        return f"<Tenant {self.name} {self.limiter!r}>"

    def limit(self, rate: Rate | None, now: float) -> None:
        """Take hooks at this rate from now on; what has been taken stays taken."""
        if rate is None:
            self.limiter = None
        elif self.limiter is None:
            self.limiter = Limiter(rate, now)
        else:
            self.limiter.configure(rate)
