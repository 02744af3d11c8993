"""Notices that the configuration's file has changed, however it was replaced.

The directory is watched, not the file: editors rename a new file into place, and Kubernetes swaps a symbolic link
beside it. What counts is whether the bytes differ from those last looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

logger = logging.getLogger(__name__)

_DEBOUNCE_MS = 200
"""A file written in several steps is looked at once they are over."""


async def changes(path: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield each time the file's content has changed; ends when *stop* is set."""
    seen = await asyncio.to_thread(_digest, path)
    try:
        async for _ in awatch(
            path.parent, stop_event=stop, recursive=False, debounce=_DEBOUNCE_MS, step=50, raise_interrupt=False
        ):
            now = await asyncio.to_thread(_digest, path)
            if now is not None and now != seen:
                seen = now
                yield
    except OSError as exc:
        logger.warning("%s is not watched for changes (%s); reload by SIGHUP or POST /-/reload", path, exc)


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None  # between the removal of the old file and the arrival of the new one
