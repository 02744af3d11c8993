"""A gateway between Flashphoner Web Call Server and the web backends that decide its calls."""

import sys

__version__ = "0.1.0"

# httpx imports its own command line wherever rich is installed, and with that 3 MB that no worker ever uses. None here
# tells Python that there is no such module (its reference, "The module cache"), which httpx takes well.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
