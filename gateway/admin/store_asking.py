"""Asks the store for what an operator waits for, but never for long: a store that hangs must not hide the rest."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.store.requests import StoreConnection, StoreRequest, StoreUnavailable


async def ask_within(seconds: float, store: StoreConnection, request: StoreRequest) -> Any:
    """The store's answer. Raises StoreUnavailable, also where it does not come in time."""
    try:
        async with asyncio.timeout(seconds):
            return await store.ask(request)
    except TimeoutError as exc:
        raise StoreUnavailable(f"the store has not answered within {seconds:g} s") from exc
