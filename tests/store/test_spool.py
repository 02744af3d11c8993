"""The spool, one rule a test, on both engines; ``test_spool_model`` has all of them in any order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.policy.spooling import REPEAT_WINDOW
from gateway.store.engine import Database, Databases
from gateway.store.messages import Settle
from gateway.store.migrate import migrate
from gateway.store.records import Delivery, SpooledEvent
from gateway.store.requests import EventFilter
from gateway.store.schema import spool_event
from gateway.store.spool import LEASE, Added, Spool
from gateway.store.spool_queries import FAR, inconsistencies
from tests.store.spooled import START, make_event

POSTGRESQL = pytest.mark.parametrize(
    "store_url", [pytest.param("postgresql", marks=pytest.mark.process)], indirect=True
)


class Gateway:
    """A spool with a clock of its own, each action in a transaction."""

    def __init__(self, database: Database, owner: str = "gateway-1") -> None:
        self.database = database
        self.now = START
        self.spool = Spool(database, owner, clock=lambda: self.now)

    def keep(self, *events: SpooledEvent) -> list[Added]:
        with self.database.write() as connection:
            results = self.spool.add(connection, events)
        assert all(isinstance(result, Added) for result in results)
        return [result for result in results if isinstance(result, Added)]

    def take(self, most: int = 100, upstream: str = "php", **options: Any) -> list[Delivery]:
        with self.database.write() as connection:
            return self.spool.take(connection, upstream, most, **options)

    def settle(self, outcome: str, *ids: int, due: float = 0.0) -> list[Any]:
        with self.database.write() as connection:
            return list(self.spool.settle(connection, [Settle(id_, outcome, due, "status 500") for id_ in ids]))

    def write(self, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self.database.write() as connection:
            return action(connection, *args, **options)

    def read(self, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self.database.read() as connection:
            return action(connection, *args, **options)


@pytest.fixture
def database(databases: Databases) -> Database:
    migrate(databases.spool)
    return databases.spool


@pytest.fixture
def gateway(database: Database) -> Gateway:
    return Gateway(database)


def texts(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.event.body for delivery in deliveries]


def test_events_of_one_call_are_given_one_after_the_other(gateway: Gateway) -> None:
    first, second, other = make_event("a"), make_event("a"), make_event("b")
    gateway.keep(first, second, other)
    taken = gateway.take()
    assert texts(taken) == [first.body, other.body]
    assert gateway.take(excluded=[delivery.id for delivery in taken]) == []
    gateway.settle("delivered", taken[0].id)
    (following,) = gateway.take(excluded=[taken[1].id])
    assert following.event == second
    gateway.settle("delivered", following.id, taken[1].id)
    assert gateway.read(lambda connection: list(gateway.spool.keys(connection))) == []


def test_an_event_comes_back_as_it_was_byte_for_byte(gateway: Gateway) -> None:
    plain = make_event("pl\0in", method="Odd\0Event")
    gateway.keep(plain)
    (delivery,) = gateway.take()
    assert delivery.event == plain
    assert delivery.attempts == 0
    (view,) = gateway.read(gateway.spool.list_events, EventFilter()).events
    assert view.event.method == "Odd\0Event"
    assert view.event.body == b""
    assert gateway.read(gateway.spool.show, delivery.id).event == plain
    assert gateway.read(gateway.spool.show, delivery.id + 1) is None


@pytest.mark.parametrize("restarts", [False, True])
def test_a_repeat_within_the_window_is_confirmed_and_kept_once(database: Database, restarts: bool) -> None:
    gateway = Gateway(database)
    (kept,) = gateway.keep(make_event("a", "same", received=START))
    if restarts:
        gateway = Gateway(database)
    gateway.now = START + REPEAT_WINDOW - 1
    (repeat,) = gateway.keep(make_event("a", "same", received=gateway.now))
    assert repeat == Added(kept.id, is_new=False, is_over=False)
    gateway.now = START + REPEAT_WINDOW + 1
    again, twice = gateway.keep(*[make_event("a", "same", received=gateway.now)] * 2)
    assert again.is_new
    assert twice == Added(again.id, is_new=False, is_over=False)
    assert gateway.read(gateway.spool.status).apps[0].events == 2


def test_a_repeat_without_any_id_is_found_too(gateway: Gateway) -> None:
    body = b'{"nodeId":"x"}'
    (kept,) = gateway.keep(make_event(None, body=body))
    assert gateway.keep(make_event(None, body=body)) == [Added(kept.id, is_new=False, is_over=False)]


def test_the_same_bytes_for_another_app_or_method_are_no_repeat(gateway: Gateway) -> None:
    events = [make_event("a", "x"), make_event("a", "x", app="other"), make_event("a", "x", method="Another")]
    assert all(result.is_new for result in gateway.keep(*events))


def test_a_failure_waits_until_it_is_due_and_counts_once_however_often_it_is_said(gateway: Gateway) -> None:
    gateway.keep(make_event("a"), make_event("a"))
    (delivery,) = gateway.take()
    gateway.settle("failed", delivery.id, due=START + 30)
    gateway.settle("failed", delivery.id, due=START + 30)
    assert gateway.take() == []
    gateway.now = START + 30
    (again,) = gateway.take()
    assert (again.id, again.attempts) == (delivery.id, 1)
    gateway.settle("released", again.id, due=START + 31)
    gateway.now = START + 31
    assert [each.attempts for each in gateway.take()] == [1]


def test_a_dead_letter_lets_its_call_go_on_and_comes_back_at_its_place(gateway: Gateway) -> None:
    poison, second, third = (make_event("a") for _ in range(3))
    gateway.keep(poison, second, third)
    (first,) = gateway.take()
    (settled,) = gateway.settle("dead", first.id)
    assert settled.is_gone
    (delivery,) = gateway.take()
    assert delivery.event == second
    page = gateway.read(gateway.spool.list_events, EventFilter(dead=True))
    assert [(view.id, view.attempts, view.last_error, view.due) for view in page.events] == [
        (first.id, 1, "status 500", None)
    ]
    step = gateway.write(gateway.spool.retry, EventFilter(dead=True))
    assert (step.events, step.keys, step.next) == (1, {poison.key: 1}, None)
    assert texts(gateway.take(excluded=[delivery.id])) == [poison.body]
    assert gateway.read(inconsistencies) == []


def test_a_dead_letter_is_kept_for_max_age_from_its_death(gateway: Gateway) -> None:
    gateway.keep(make_event("a", max_age=60.0), make_event("b", max_age=60.0))
    gateway.now = START + 50
    first, _ = gateway.take()
    gateway.settle("dead", first.id)
    gateway.now = START + 61
    step = gateway.write(gateway.spool.expire, ["app"])
    assert [(dropped.app, dropped.reason, dropped.events) for dropped in step.dropped] == [("app", "age", 1)]
    gateway.now = START + 111
    assert gateway.write(gateway.spool.expire, []).events == 0  # the app is not configured any more
    assert gateway.write(gateway.spool.expire, ["app"]).events == 1


def test_what_goes_first_where_there_is_no_room(gateway: Gateway) -> None:
    values = [2, 0, 1, 0]
    kept = gateway.keep(*(make_event(str(at), value=value, max_size=600) for at, value in enumerate(values)))
    assert [result.is_over for result in kept] == [True] * 4
    gateway.settle("dead", kept[0].id)
    size = gateway.read(gateway.spool.show, kept[0].id).size
    gone: list[int] = []
    for most in (3, 2, 1, 0):
        step = gateway.write(gateway.spool.enforce, "app", most * size + 10)
        assert [(dropped.reason, dropped.events) for dropped in step.dropped] == [("size", 1)]
        left = {view.id for view in gateway.read(gateway.spool.list_events, EventFilter()).events}
        gone += [result.id for result in kept if result.id not in left and result.id not in gone]
    assert gone == [kept[at].id for at in (0, 1, 3, 2)]  # the dead letter, the lowest value, the oldest
    assert gateway.write(gateway.spool.enforce, "app", 0).next is None


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_after_an_outage_the_file_becomes_small_again(gateway: Gateway) -> None:
    def pages() -> tuple[int, int]:
        with gateway.database.read() as connection:
            names = ("freelist_count", "page_count")
            free, every = (int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in names)
            return free, every

    gateway.keep(*(make_event(str(at), "x" * 5000) for at in range(150)))
    assert gateway.write(gateway.spool.drop, EventFilter()).events == 150
    before = pages()
    for _ in range(3):
        gateway.write(gateway.spool.expire, ["app"])
    after = pages()
    assert after[1] < before[1] / 2
    assert after[0] <= after[1] / 2


def test_a_clock_that_was_wrong_does_not_hold_an_event_back(gateway: Gateway) -> None:
    gateway.keep(make_event("a"))
    (delivery,) = gateway.take()
    gateway.settle("failed", delivery.id, due=START + 10 * FAR)
    assert len(gateway.take()) == 1
    assert gateway.read(gateway.spool.backlogs)[0].due == START


def test_only_configured_apps_of_the_upstream_are_taken_and_each_has_its_turn(gateway: Gateway) -> None:
    gateway.keep(*(make_event(f"{app}{at}", app=app) for app in ("one", "two", "gone") for at in range(5)))
    gateway.keep(make_event("x", app="one", upstream="night"))
    taken: list[Delivery] = []
    for _ in range(4):
        taken += gateway.take(1, apps=["one", "two"], excluded=[delivery.id for delivery in taken])
    assert [delivery.event.app for delivery in taken].count("one") == 2
    assert len(gateway.take(apps=["one", "two"])) == 10
    assert gateway.take(upstream="nowhere") == []


def test_bodies_are_taken_up_to_a_bound_but_always_one(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.spool._MAX_TAKEN", 30_000)
    gateway.keep(*(make_event(str(at), body=b'{"callId":%d,"x":"%s"}' % (at, b"x" * 20_000)) for at in range(3)))
    assert [len(gateway.take()), len(gateway.take(2))] == [1, 1]


def test_a_page_follows_the_other_by_every_filter(gateway: Gateway) -> None:
    kept = gateway.keep(
        *(
            make_event(
                "ab"[at % 2], app=("app", "other")[at % 3 == 0], upstream=("php", "night")[at % 5 == 0], value=at % 3
            )
            for at in range(30)
        )
    )
    gateway.settle("dead", *(result.id for result in kept[::4]))
    every = gateway.read(gateway.spool.list_events, EventFilter(), limit=1000).events
    for wanted in (
        EventFilter(),
        EventFilter(app="app"),
        EventFilter(upstream="php"),
        EventFilter(upstream="php", dead=False),
        EventFilter(call_id="a"),
        EventFilter(dead=True),
        EventFilter(method="CallStatusEvent", app="other"),
        EventFilter(ids=tuple(result.id for result in kept[:7])),
        EventFilter(app="nobody"),
    ):
        expected = [
            view
            for view in every
            if wanted.app in (None, view.event.app)
            and wanted.upstream in (None, view.event.upstream)
            and wanted.call_id in (None, view.event.call_id)
            and wanted.dead in (None, view.dead)
            and (wanted.ids is None or view.id in wanted.ids)
        ]
        found: list[Any] = []
        after: int | None = 0
        while after is not None:
            page = gateway.read(gateway.spool.list_events, wanted, after=after, limit=4)
            found += page.events
            after = page.next
        assert found == expected


# --- several gateways on one PostgreSQL ---


@POSTGRESQL
def test_a_head_is_leased_to_one_gateway_until_it_ends_or_does_not_renew(database: Database) -> None:
    one, two = Gateway(database, "one"), Gateway(database, "two")
    one.keep(make_event("a"), make_event("b"))
    (first,) = one.take(1)
    assert len(two.take()) == 1
    assert two.take(excluded=[]) != []  # its own it is given again
    assert [delivery.id for delivery in one.take()] == [first.id]
    one.write(one.spool.release)
    assert len(two.take()) == 2
    with database.write() as connection:  # thirty seconds later
        connection.execute(spool_event.update().values(leased_until=spool_event.c.leased_until - LEASE - 1))
    two.write(two.spool.renew, [first.id])
    assert [delivery.id for delivery in one.take()] != [first.id]
    assert len(one.take()) == 1


@POSTGRESQL
def test_gateways_that_take_at_once_never_have_the_same_call(database: Database) -> None:
    gateways = [Gateway(database, f"gateway-{number}") for number in range(3)]
    gateways[0].keep(*(make_event(f"call {at % 40}") for at in range(200)))
    delivered: list[bytes] = []
    under_way: set[bytes] = set()
    doubled: set[bytes] = set()
    guard = threading.Lock()

    def work(gateway: Gateway) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            taken = gateway.take(5)
            with guard:
                mine = {delivery.event.key for delivery in taken}
                doubled.update(mine & under_way)
                under_way.update(mine)
                delivered.extend(texts(taken))
            time.sleep(0.002)
            with guard:
                under_way.difference_update(mine)
            if not taken and len(delivered) >= 200:
                return
            gateway.settle("delivered", *(delivery.id for delivery in taken)) if taken else time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(gateway,)) for gateway in gateways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doubled == set()
    assert len(delivered) == len(set(delivered)) == 200
    assert gateways[0].read(inconsistencies) == []


@POSTGRESQL
def test_what_gateways_keep_at_once_is_in_one_order_with_one_head_for_each_call(database: Database) -> None:
    gateways = [Gateway(database, f"gateway-{number}") for number in range(4)]
    results: list[list[Added]] = [[] for _ in gateways]

    def work(at: int) -> None:
        for _ in range(15):
            results[at] += gateways[at].keep(*(make_event(call) for call in "abc"))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(gateways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [result.id for each in results for result in each]
    assert len(set(ids)) == len(ids) == 180
    assert all([result.id for result in each] == sorted(result.id for result in each) for each in results)
    assert gateways[0].read(inconsistencies) == []
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.sum(spool_event.c.head))) == 3
