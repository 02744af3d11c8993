"""Decisions between the connections and the database: none waits for good, none is lost unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.policy.history import Bodies, HistorySettings
from gateway.policy.shadow import ShadowResult
from gateway.store import history_keeper
from gateway.store.decisions import decode_decision, decode_shadow, encode_sent, encode_shadow
from gateway.store.engine import open_databases
from gateway.store.history_keeper import HistoryKeeper
from gateway.store.migrate import migrate
from gateway.store.requests import HistoryFilter, HistoryPage, SearchHistory, StoreUnavailable
from tests.store.decided import NOW, decided

SETTINGS = HistorySettings(keep=1e9, keep_allowed=1e9)
MASK = ("caller", "callee")


def sent(*numbers: int) -> list[bytes]:
    return [encode_sent(decided(number), Bodies.OFF, 1, "") for number in numbers]


class Keeping:
    """A keeper, with what it has dropped."""

    def __init__(self, readers: ThreadPoolExecutor) -> None:
        self.dropped = 0
        self.keeper = HistoryKeeper(self._drop, readers)

    def _drop(self, decisions: int) -> None:
        self.dropped += decisions

    def open(self, directory: Path) -> None:
        database = open_databases(f"sqlite:{directory}/store.db").history
        migrate(database)
        self.keeper.open(database)

    async def page(self) -> HistoryPage:
        return await self.keeper.search(SearchHistory(HistoryFilter()))

    async def found(self) -> list[str]:
        return [decode_decision(each).decision.request_id for each in (await self.page()).decisions]

    async def wait_for(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(found := await self.found()) < count:
                await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def keeping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeping]:
    monkeypatch.setattr(history_keeper, "_GATHER", 0.01)
    with ThreadPoolExecutor(1) as readers:
        each = Keeping(readers)
        try:
            yield each
        finally:
            await each.keeper.close(10.0)


async def test_what_comes_before_the_database_is_open_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(monkeypatch) as each:
        each.keeper.keep(sent(1))  # the configuration has not come yet
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.keep(sent(2, 3))
        each.open(tmp_path)
        each.keeper.keep(sent(4))
        assert await each.wait_for(4) == [f"request-{number}" for number in (4, 3, 2, 1)]
        assert each.dropped == 0


async def test_what_is_too_much_to_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_keeper, "_MAX_WAITING", 1000)
    async with keeping(monkeypatch) as each:
        each.keeper.configure(SETTINGS, MASK, MASK)
        for number in range(100):
            each.keeper.keep(sent(number))
        kept = 100 - each.dropped
        assert 1 <= kept <= 9
        each.open(tmp_path)
        assert len(await each.wait_for(kept)) == kept


async def test_what_never_got_a_database_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(monkeypatch) as each:
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.cannot_open("the disk is gone")
        each.keeper.keep(sent(1, 2))
        with pytest.raises(StoreUnavailable, match="the disk is gone"):
            await each.found()
    assert each.dropped == 2


async def test_without_a_history_nothing_is_kept_and_nothing_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(monkeypatch) as each:
        each.keeper.keep(sent(1))
        each.open(tmp_path)
        each.keeper.configure(None, MASK, MASK)
        each.keeper.keep(sent(2))
        each.keeper.keep_shadow("request-2", NOW, b"")
        with pytest.raises(StoreUnavailable, match="no history is configured"):
            await each.found()
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.keep(sent(3))
        assert await each.wait_for(1) == ["request-3"]
    assert each.dropped == 0


async def test_a_reload_changes_how_long_decisions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(monkeypatch) as each:
        each.open(tmp_path)
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.keep(sent(1))
        await each.wait_for(1)
        assert await each.keeper.oldest() == pytest.approx(NOW + 1)
        await each.keeper.tick()
        assert await each.found() == ["request-1"]
        each.keeper.configure(SETTINGS._replace(keep=60.0, keep_allowed=60.0), MASK, MASK)
        await each.keeper.tick()
        assert await each.found() == []
        assert await each.keeper.size() > 0


async def test_a_clock_that_is_set_ahead_makes_no_decision_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(monkeypatch) as each:
        each.open(tmp_path)
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.keep(sent(1))
        await each.wait_for(1)
        ahead = time.time() + 2e9
        monkeypatch.setattr(time, "time", lambda: ahead)
        await each.keeper.tick()
        assert await each.found() == ["request-1"]


async def test_results_of_shadow_copies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ShadowResult("new", "match", 200, "", 1.0, ())
    async with keeping(monkeypatch) as each:
        each.open(tmp_path)
        each.keeper.configure(SETTINGS, MASK, MASK)
        each.keeper.keep(sent(1))
        each.keeper.keep_shadow("request-1", decided(1).time, encode_shadow(result, decided(1)))
        async with asyncio.timeout(20):
            while not (shadows := (await each.page()).shadows) or shadows[0] is None:
                await asyncio.sleep(0.02)
        assert decode_shadow(shadows[0]) == result
