"""The store put together, over real databases: what is kept, found again, refused, and said once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.model.verdicts import backend_reject
from gateway.policy.history import Bodies
from gateway.store import spool_keeper
from gateway.store.client import StoreClient
from gateway.store.decisions import decode_decision, encode_sent
from gateway.store.engine import open_databases
from gateway.store.maintenance import hold
from gateway.store.messages import Settle
from gateway.store.records import Delivery
from gateway.store.requests import (
    DropEvents,
    EventFilter,
    HistoryFilter,
    ListEvents,
    PauseSpool,
    Portion,
    RetryEvents,
    SearchHistory,
    ShowEvent,
    SpoolStatus,
    StoreReport,
    StoreUnavailable,
)
from gateway.store.spool import Added
from gateway.store.spool_keeper import _Kept
from tests.store.decided import decided
from tests.store.serving import event, until
from tests.store.stores import Running, running


async def test_events_are_kept_taken_in_order_and_settled(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for body in (b'{"n":1}', b'{"n":2}'):
            assert await it.keep(event(body)) is None
        assert await it.keep(event(b'{"n":3}', key=b"j" * 16)) is None
        assert it.at.writer.count(b"k" * 16) == 2
        taken = await it.worker.take("php", 10)
        assert sorted(each.event.body for each in taken) == [b'{"n":1}', b'{"n":3}'], "the first of each key"
        assert await it.worker.take("php", 10) == (), "they are in somebody's hands"
        first = min(taken, key=lambda each: each.id)
        it.worker.settle(Settle(first.id, "delivered"))
        await until(lambda: it.at.writer.count(b"k" * 16) == 1)
        (second,) = await it.worker.take("php", 10)
        assert second.event.body == b'{"n":2}'
        it.worker.settle(Settle(second.id, "failed", time.time() - 1, "500"))
        await until(lambda: "1 held" in repr(it.worker))
        (second,) = await it.worker.take("php", 10)
        assert second.attempts == 1
        it.worker.settle(Settle(second.id, "dead", error="500"))
        await until(lambda: it.counts.dead_letters == 1)
        assert it.at.writer.count(b"k" * 16) == 0
        await until(lambda: [(each.events, each.dead) for each in it.backlogs[-1].upstreams] == [(1, 1)])
        assert len(it.counts.commits) == 3


async def test_the_next_process_counts_what_the_last_one_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for number in range(100):
            assert await it.keep(event(b"%d" % number, key=bytes([number % 7]) * 16)) is None
        await it.stop()
        it.at.writer.replace(())  # as in the memory of a gateway that starts
        await it.start()
        await until(lambda: it.at.writer.count(bytes(16)) == 15)
        assert sum(it.at.writer.count(bytes([number]) * 16) for number in range(7)) == 100


async def test_a_repeat_is_kept_once_and_counted_once(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        kept = event()
        assert list(await asyncio.gather(it.keep(kept), it.keep(kept), it.keep(kept))) == [None] * 3
        assert it.at.writer.count(kept.key) == 1


async def test_operators_list_show_retry_drop_and_pause(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.opened()
        for number in range(3):
            await it.keep(event(b"%d" % number))
        report = await it.admin.ask(SpoolStatus())
        assert [(app.app, app.events, app.configured) for app in report.apps] == [("defaultApp", 3, True)]
        page = await it.admin.ask(ListEvents(EventFilter()))
        assert [view.event.body for view in page.events] == [b"", b"", b""]
        shown = await it.admin.ask(ShowEvent(page.events[0].id))
        assert shown.event.body == b"0"
        assert await it.admin.ask(ShowEvent(4711)) is None
        assert await it.admin.ask(PauseSpool(paused=True)) is True
        assert await it.worker.take("php", 10) == ()
        assert await it.admin.ask(PauseSpool(paused=False)) is True
        assert await it.admin.ask(RetryEvents(EventFilter())) == Portion(3, None)
        assert await it.admin.ask(DropEvents(EventFilter())) == Portion(3, None)
        assert it.counts.drops == {"operator": 3}
        assert it.at.writer.count(b"k" * 16) == 0
        state = await it.admin.ask(StoreReport())
        assert (state.engine, state.up, state.error) == ("sqlite", True, None)
        assert state.spool_size > 0
        assert state.history_size > 0


async def test_an_event_that_is_given_back_is_due_soon_by_whatever_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock may have been set forward, and back, while the outcome was on its way."""
    monkeypatch.setattr(spool_keeper, "RELEASE_LIMIT", 0.1)
    async with running(tmp_path) as it:
        assert await it.keep(event(b"first", key=b"k" * 16)) is None
        (first,) = await it.worker.take("php", 1)
        it.worker.settle(Settle(first.id, "released", time.time() + 1500))
        again: tuple[Delivery, ...] = ()
        async with asyncio.timeout(10):
            while not again:
                again = await it.worker.take("php", 1)
        assert [each.id for each in again] == [first.id]


async def test_bounds_drop_what_is_too_old_or_too_much_and_count_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as it:
        for number in range(20):
            small = event(b"x" * 10_000 + b"%d" % number, key=bytes([number]) * 16)
            assert await it.keep(replace(small, max_size=100_000, received=time.time())) is None
        await until(lambda: it.counts.drops.get("max_size", 0) >= 10)
        old = event(b"old", key=b"o" * 16)
        await it.keep(replace(old, received=time.time() - 10, max_age=5.0))
        await until(lambda: it.counts.drops.get("max_age") == 1)
        assert it.at.writer.count(b"o" * 16) == 0
        assert it.store is not None
        it.store._spool._report_at = 0.0
        await until(lambda: "older than max_age" in caplog.text)


async def test_decisions_are_kept_and_found(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.opened()
        sent = [encode_sent(decided(number, ruling=backend_reject()), Bodies.OFF, 77, "") for number in range(3)]
        assert it.worker.send_decisions(sent)
        search = SearchHistory(HistoryFilter())
        found: list[str] = []
        while len(found) < 3:
            page = await it.admin.ask(search)
            found = [decode_decision(each).decision.request_id for each in page.decisions]
        assert found == ["request-2", "request-1", "request-0"]
        assert it.counts.missing == 0


async def test_without_a_history_operators_learn_that_there_is_none(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.configure(history=None)
        await it.opened()
        with pytest.raises(StoreUnavailable, match="no history is configured"):
            await _ask_until_refused(it.admin, SearchHistory(HistoryFilter()))


async def _ask_until_refused(client: StoreClient, request: SearchHistory) -> None:
    while True:
        await client.ask(request)


async def test_a_damaged_database_is_said_once_and_the_other_one_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def damage(it: Running) -> None:
        it.file.with_name("store.spool.db").write_bytes(b"this is no database" * 1000)

    caplog.set_level(logging.INFO)
    async with running(tmp_path, before=damage) as it:
        await until(lambda: "events cannot be kept" in caplog.text)
        assert not it.at.client().has_backlog(b"k" * 16), "hooks do not wait for it"
        assert "is damaged" in str(await it.keep(event()))
        await until(lambda: "the history's database is open" in caplog.text)
        await asyncio.sleep(0.3)
        assert caplog.text.count("events cannot be kept") == 1
        state = await it.admin.ask(StoreReport())
        assert not state.up
        assert "is damaged" in str(state.error)
        assert it.worker.send_decisions([encode_sent(decided(1), Bodies.OFF, 77, "")])
        it.file.with_name("store.spool.db").unlink()
        while (refused := await it.keep(event())) is not None:
            assert "is damaged" in refused or "starting" in refused
            await asyncio.sleep(0.1)


async def test_a_store_that_another_process_owns_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hold(f"sqlite:{tmp_path}/store.db"):
        async with running(tmp_path) as it:
            await until(lambda: "the store cannot be opened" in caplog.text)
            assert await it.keep(event()) is not None
            with pytest.raises(StoreUnavailable):
                await it.admin.ask(SpoolStatus())
            assert caplog.text.count("the store cannot be opened") == 1
    async with running(tmp_path) as it:
        assert await it.keep(event()) is None


async def test_an_event_that_comes_while_the_last_gateway_s_store_ends_is_kept_and_none_overtakes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as last:
        last.enter_context(hold(f"sqlite:{tmp_path}/store.db"))
        async with running(tmp_path) as it:
            keeping = asyncio.create_task(it.keep(event()))
            assert it.store is not None
            spool = it.store._spool
            await until(lambda: spool._early)
            assert not keeping.done()
            assert it.worker.has_backlog(b"a" * 16)
            last.close()
            assert await keeping is None
            assert "cannot be opened" not in caplog.text


async def test_at_the_end_all_that_was_sent_is_committed(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.opened()
        sent = [encode_sent(decided(number), Bodies.OFF, 77, "") for number in range(500)]
        for one in sent:
            it.worker.send_decisions([one])
        keeping = [asyncio.create_task(it.keep(event(b"%d" % number))) for number in range(50)]
        await asyncio.sleep(0)
        await it.worker.aclose()
        await it.admin.aclose()
        store, it.store = it.store, None
        assert store is not None
        await store.finish(10.0)
        await asyncio.gather(*keeping)
    async with running(tmp_path) as it:
        await it.opened()
        report = await it.admin.ask(SpoolStatus())
        assert report.apps[0].events == 50
        assert os.path.exists(it.file.with_name("store.history.db"))


async def test_an_event_whose_commit_has_failed_counts_until_it_is_known_what_became_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert await it.keep(event()) is None
        assert it.store is not None
        spool = it.store._spool
        written = [_Kept(Added(id=4711, is_new=True, is_over=False), b"u" * 16)]
        spool._count_before(written)
        spool._count_back(written)
        assert it.at.writer.count(b"u" * 16) == 1, "it may be in the database"
        assert await it.keep(event(b"next")) is None
        assert it.at.writer.count(b"u" * 16) == 0, "the same connection goes on: it is not"
        spool._count_before(written)
        spool._count_back(written)
        database = open_databases(f"sqlite:{it.file}").spool
        with database.connect() as connection:
            spool._read_keys(connection)
        database.close()
        assert it.at.writer.count(b"u" * 16) == 0
        assert it.at.writer.count(b"k" * 16) == 2
        assert await it.keep(event(b"last")) is None
        assert it.at.writer.count(b"k" * 16) == 3
