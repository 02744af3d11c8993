"""The spool against a plain model: in any order of actions, nothing is lost, doubled or overtaken."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.store.engine import Database, Databases, StoreError
from gateway.store.messages import Settle
from gateway.store.migrate import migrate
from gateway.store.requests import EventFilter
from gateway.store.schema import spool_count, spool_event, spool_pause
from gateway.store.spool import Added, Spool, Step
from gateway.store.spool_queries import inconsistencies
from tests.store.spooled import START, Model, Row, make_event

APPS = ("app", "other", "gone")
"""The last one is not configured."""
CONFIGURED = ("app", "other")
UPSTREAMS = ("php", "night")
STEPS = 20

apps = st.sampled_from(("app", "app", *APPS))
upstreams = st.sampled_from(UPSTREAMS)
kinds = st.sampled_from(["all", "upstream", "app"])
filters = st.one_of(
    st.builds(EventFilter, app=apps, dead=st.none() | st.booleans()),
    st.builds(EventFilter, upstream=upstreams, dead=st.none() | st.booleans()),
    st.builds(EventFilter, call_id=st.sampled_from("ab"), method=st.none() | st.just("CallStatusEvent")),
    st.builds(EventFilter, dead=st.booleans()),
    st.builds(EventFilter, ids=st.lists(st.integers(1, 60), max_size=5).map(tuple)),
)
parts = st.tuples(
    st.sampled_from("abc"),  # call
    st.sampled_from(["1", "2", None]),  # text: some are repeats
    apps,
    upstreams,
    st.integers(0, 2),  # value
    st.sampled_from([30.0, 3600.0]),  # max_age
)


class SpoolMachine(RuleBasedStateMachine):
    """One gateway and its operators."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.now = START
        self.model = Model()
        self.taken: dict[int, Row] = {}
        with database.write() as connection:
            for table in (spool_event, spool_count, spool_pause):
                connection.execute(table.delete())
            if database.is_sqlite:
                connection.exec_driver_sql("DELETE FROM sqlite_sequence")
            else:
                connection.exec_driver_sql("ALTER SEQUENCE spool_event_id_seq RESTART")
        self.spool = self.new_spool()

    def new_spool(self) -> Spool:
        return Spool(self.database, "gateway-1", clock=lambda: self.now)

    # --- what happens ---

    @initialize(batch=st.lists(parts, min_size=4, max_size=8))
    def begin(self, batch: list[Any]) -> None:
        self.keep(batch)

    @rule(batch=st.lists(parts, min_size=1, max_size=6))
    def keep(self, batch: list[Any]) -> None:
        events = [
            make_event(
                call, text, app=app, upstream=upstream, value=value, max_age=max_age, received=self.now, max_size=1500
            )
            for call, text, app, upstream, value, max_age in batch
        ]
        with self.database.write() as connection:
            results = self.spool.add(connection, events)
            sized = connection.execute(sa.select(spool_event.c.id, spool_event.c.size))
            sizes = {row.id: row.size for row in sized}
        for event, result in zip(events, results, strict=True):
            assert isinstance(result, Added)
            repeated = self.model.repeated(event)
            assert result.is_new == (repeated is None)
            if repeated is not None:
                assert result.id == repeated.id
                continue
            assert all(row.id < result.id for row in self.model.rows)
            self.model.rows.append(Row(result.id, event, sizes[result.id], self.now, self.now + event.max_age))
        for event, result in zip(events, results, strict=True):
            assert isinstance(result, Added)
            if result.is_new:
                assert result.is_over == (self.model.bytes_of(event.app) > event.max_size)

    def any_due(self) -> list[str]:
        return [name for name in UPSTREAMS if self.model.due(name, CONFIGURED, self.now) - self.taken.keys()]

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), most=st.integers(1, 4))
    def take(self, data: st.DataObject, most: int) -> None:
        if not self.any_due() and data.draw(st.booleans()):
            self.now += 60.0
        upstream = data.draw(st.sampled_from(self.any_due() or UPSTREAMS))
        with self.database.write() as connection:
            given = self.spool.take(connection, upstream, most, apps=CONFIGURED, excluded=frozenset(self.taken))
        due = self.model.due(upstream, CONFIGURED, self.now) - self.taken.keys()
        ids = [delivery.id for delivery in given]
        assert len(set(ids)) == len(ids) == min(most, len(due))
        for delivery in given:
            row = self.model.find(delivery.id)
            assert row is not None
            assert row.id in due
            assert delivery.event == row.event  # every byte of it
            assert delivery.attempts == row.attempts
            self.taken[row.id] = row

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        ids = data.draw(st.permutations(sorted(self.taken)))[:4]
        outcomes = [
            Settle(
                id=id_,
                outcome=data.draw(st.sampled_from(["dead", "failed", "delivered", "released"])),
                due=self.now + data.draw(st.integers(1, 60)),
                error="status 500",
            )
            for id_ in ids
        ]
        with self.database.write() as connection:
            results = self.spool.settle(connection, outcomes)
        for outcome, result in zip(outcomes, results, strict=True):
            row = self.model.find(outcome.id)
            del self.taken[outcome.id]
            assert (result is None) == (row is None)
            if row is None or result is None:
                continue
            was_dead = row.dead
            self.apply(row, outcome)
            assert result.is_gone == (not was_dead and (row.dead or self.model.find(row.id) is None))
        if data.draw(st.booleans()):  # the answer was lost: it is said again
            with self.database.write() as connection:
                self.spool.settle(connection, outcomes)

    def apply(self, row: Row, outcome: Settle) -> None:
        if outcome.outcome == "delivered":
            self.model.remove([row.id])
        elif row.dead:
            return
        elif outcome.outcome == "dead":
            row.dead, row.attempts = True, row.attempts + 1
            row.expires = self.now + row.event.max_age
        else:
            row.due = outcome.due
            row.attempts += outcome.outcome == "failed"

    @rule(seconds=st.sampled_from([1.0, 11.0, 40.0]), restarts=st.booleans())
    def wait(self, seconds: float, restarts: bool) -> None:
        self.now += seconds
        if restarts:
            self.spool = self.new_spool()
            self.taken.clear()

    @rule(wanted=filters | st.just(EventFilter(dead=True)) | st.just(EventFilter()))
    def retry(self, wanted: EventFilter) -> None:
        expected = self.model.matching(wanted)
        assert self.whole(lambda connection, after: self.spool.retry(connection, wanted, after=after, limit=2)) == len(
            expected
        )
        for row in expected:
            row.due = self.now
            if row.dead:
                row.dead, row.attempts = False, 0

    @rule(data=st.data(), how=st.sampled_from(["drop", "expire", "enforce"]))
    def remove(self, data: st.DataObject, how: str) -> None:
        match how:
            case "drop":
                wanted = data.draw(filters)
                expected = {row.id for row in self.model.matching(wanted)}
                done = self.whole(lambda connection, after: self.spool.drop(connection, wanted, after=after, limit=2))
            case "expire":
                old = [row for row in self.model.rows if row.expires <= self.now]
                expected = {row.id for row in old if row.event.app in CONFIGURED}
                done = self.whole(lambda connection, _: self.spool.expire(connection, CONFIGURED, limit=2))
            case _:
                app, most = data.draw(apps), data.draw(st.sampled_from([500, 1500]))
                expected = set(self.model.shed(app, most))
                done = self.whole(lambda connection, _: self.spool.enforce(connection, app, most, limit=2))
        assert done == len(expected)
        self.model.remove(expected)

    def whole(self, action: Any) -> int:
        """All steps of a long action; how many events it changed."""
        events, after, keys = 0, 0, self.model.keys()
        while True:
            with self.database.write() as connection:
                step: Step = action(connection, after)
            events += step.events
            for key, change in step.keys.items():
                keys[key] += change
            if step.dropped:
                assert sum(dropped.events for dropped in step.dropped) == step.events
            if step.next is None:
                break
            after = step.next
        with self.database.read() as connection:
            assert dict(self.spool.keys(connection)) == +keys  # what it says of keys is what it did
        return events

    @precondition(lambda self: len(self.model.rows) > 4)
    @rule(
        paused=st.sampled_from([False, False, True]),
        what=st.sampled_from(["all", "upstream", "app"]),
        at=st.integers(0, 1),
    )
    def pause(self, paused: bool, what: str, at: int) -> None:
        model = self.model
        upstream = UPSTREAMS[at] if what == "upstream" else None
        app = APPS[at] if what == "app" else None
        before = (model.everything, set(model.upstreams), set(model.apps))
        if what == "all":
            model.everything = paused
            if not paused:
                model.upstreams.clear()
                model.apps.clear()
        else:
            names, name = (model.upstreams, UPSTREAMS[at]) if upstream else (model.apps, APPS[at])
            names.add(name) if paused else names.discard(name)
        with self.database.write() as connection:
            changed = self.spool.pause(connection, paused, upstream=upstream, app=app)
        assert changed == (before != (model.everything, model.upstreams, model.apps))

    # --- what always holds ---

    @invariant()
    def agrees(self) -> None:
        rows = self.model.rows
        heads = {row.id for row in self.model.heads().values()}
        with self.database.read() as connection:
            assert inconsistencies(connection) == []
            assert dict(self.spool.keys(connection)) == dict(self.model.keys())
            page = self.spool.list_events(connection, EventFilter(), limit=1000)
            report = self.spool.status(connection, CONFIGURED)
        assert [(view.id, view.dead, view.attempts, view.expires) for view in page.events] == [
            (row.id, row.dead, row.attempts, row.expires) for row in rows
        ]
        assert [view.due for view in page.events] == [row.due if row.id in heads else None for row in rows]
        by_app = {each.app: (each.events, each.dead, each.oldest) for each in report.apps}
        for app in APPS:
            waiting = [row for row in rows if row.event.app == app and not row.dead]
            dead = sum(row.dead for row in rows if row.event.app == app)
            expected = (len(waiting), dead, min((row.event.received for row in waiting), default=None))
            assert by_app.get(app, (0, 0, None)) == expected
        totals = Counter({each.upstream: each.events for each in report.upstreams})
        assert totals == Counter(row.event.upstream for row in rows if not row.dead)


@pytest.fixture
def database(databases: Databases) -> Database:
    database = databases.spool
    migrate(database)
    if database.is_sqlite:  # nothing is cut off here
        sa.event.listen(database._writer, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        database.reset()
    return database


@pytest.mark.thorough
@pytest.mark.parametrize(
    "store_url", ["sqlite", pytest.param("postgresql", marks=[pytest.mark.process, pytest.mark.slow])], indirect=True
)
def test_nothing_is_lost_doubled_or_overtaken(database: Database) -> None:
    examples = max(settings.default.max_examples // 5, 5) if settings.default else 5
    machine: Any = functools.partial(SpoolMachine, database)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=STEPS))


def test_an_event_larger_than_its_bound_alone_is_not_kept(database: Database) -> None:
    spool = Spool(database)
    with database.write() as connection:
        kept, refused = spool.add(connection, [make_event(), make_event(max_size=100)])
    assert isinstance(kept, Added)
    assert isinstance(refused, StoreError)
    assert "larger than spool.max_size" in str(refused)


def test_what_is_paused_is_reported_although_nothing_waits(database: Database) -> None:
    spool = Spool(database)
    with database.write() as connection:
        assert spool.pause(connection, True, upstream="php")
        assert spool.pause(connection, True, app="one")
    with database.read() as connection:
        report = spool.status(connection)
    assert [(each.upstream, each.paused, each.events, each.due) for each in report.upstreams] == [
        ("php", True, 0, None)
    ]
    assert [(each.app, each.paused, each.events) for each in report.apps] == [("one", True, 0)]
