"""The threads for blocking work beside an event loop: reading files, building tables, answering scrapes."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_THREADS: Final = 2
"""One for reading the configuration, one for scrapes: neither delays the other."""
_SWITCH_INTERVAL: Final = 0.001
"""Seconds, instead of Python's 0.005: how long hooks wait each time a busy thread holds the interpreter."""


async def start_threads() -> None:
    """Start all threads that will ever do blocking work for this loop.

    Starting one later, when memory has run out, could block the event loop for ever.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking-work")
    loop.set_default_executor(executor)
    together = threading.Barrier(_THREADS)
    await asyncio.gather(*(loop.run_in_executor(executor, together.wait, 10.0) for _ in range(_THREADS)))
