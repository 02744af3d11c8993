"""A store that hangs is reported in time; what it answers and says is passed on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.admin.store_asking import ask_within
from gateway.store.requests import SpoolStatus, StoreUnavailable


class Store:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def ask(self, request: Any) -> Any:
        if self._answer is None:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def test_an_answer_is_passed_on() -> None:
    assert await ask_within(30.0, Store(7), SpoolStatus()) == 7


async def test_its_own_error_is_passed_on() -> None:
    with pytest.raises(StoreUnavailable, match=r"^the disk is full$"):
        await ask_within(30.0, Store(StoreUnavailable("the disk is full")), SpoolStatus())


async def test_a_store_that_hangs_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"^the store has not answered within 0\.01 s$"):
        await ask_within(0.01, Store(None), SpoolStatus())
