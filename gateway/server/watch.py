"""Notices that the configuration's file has changed, however it was replaced.

The directory is watched, not the file: editors rename a new file into place, and Kubernetes swaps a symbolic link
beside it. What counts is whether the bytes differ from those that were last tried; they are compared at intervals too,
since a change can fall between two watches, and some file systems tell of none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from watchfiles import awatch

from gateway.config import digest_at

logger = logging.getLogger(__name__)

_DEBOUNCE_MS: Final = 200
"""A file written in several steps is looked at once they are over."""
_LOOK_EVERY_MS: Final = 3000


async def changes(path: Path, seen: Callable[[], str | None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield each time the file's text is another than the one with the digest *seen*; ends when *stop* is set."""
    try:
        async for _ in awatch(
            path.parent,
            stop_event=stop,
            recursive=False,
            debounce=_DEBOUNCE_MS,
            step=50,
            rust_timeout=_LOOK_EVERY_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            now = await asyncio.to_thread(digest_at, path)
            if now is not None and now != seen():
                yield
    except OSError as exc:
        logger.warning("%s is not watched for changes (%s); reload by SIGHUP or POST /-/reload", path, exc)
