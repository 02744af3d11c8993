"""The history: what is added is found, page by page, until it is too old, too much, or to be forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.model.decision import Decision, is_failure
from gateway.model.hooks import field_text
from gateway.model.verdicts import backend_allow, backend_reject
from gateway.policy.history import Bodies, HistorySettings, is_ordinary
from gateway.policy.shadow import ShadowResult
from gateway.store import history_search
from gateway.store.decisions import DecodedDecision, decode_decision, decode_shadow, encode_sent, encode_shadow
from gateway.store.engine import Database, StoreError, open_databases
from gateway.store.history import History
from gateway.store.history_blocks import unpack
from gateway.store.numbers import normalize_number
from gateway.store.requests import HistoryFilter, HistoryPage
from gateway.store.schema import HISTORY, history_block, history_body, history_shadow, history_shard
from tests.store.decided import NOW, TIMED_OUT, decided, decisions

HOUR: Final = 3600.0
KEY: Final = SecretStr("key")
SETTINGS: Final = HistorySettings(keep=30 * 24 * HOUR, keep_allowed=24 * HOUR, key=KEY)
MASK: Final = ("caller", "callee")
NUMBER: Final = "+493012345"


class Kept:
    """A history that is used as the gateway does it: each step in a transaction of its own."""

    def __init__(self, database: Database, settings: HistorySettings = SETTINGS, **options: Any) -> None:
        self.database = database
        self.bodies = settings.bodies
        self.history = History(settings, options.pop("mask", MASK), **options)

    def add(self, *decisions: Decision) -> None:
        with self.database.write() as connection:
            batch = [encode_sent(each, self.bodies, 77, "") for each in decisions]
            assert self.history.add(connection, [batch]) == [len(batch)]

    def maintain(self, now: float = NOW) -> None:
        for _ in range(1000):
            with self.database.write() as connection:
                if not self.history.maintain(connection, now):
                    return
        raise AssertionError("it never comes to an end")

    def page(self, wanted: HistoryFilter, before: int | None = None, limit: int = 100) -> HistoryPage:
        with self.database.read() as connection:
            return self.history.search(connection, wanted, before, limit)

    def found(self, limit: int = 100, **wanted: Any) -> list[DecodedDecision]:
        """All pages."""
        found: list[DecodedDecision] = []
        before = None
        while True:
            page = self.page(HistoryFilter(**wanted), before, limit)
            found += map(decode_decision, page.decisions)
            if page.next is None:
                return found
            assert before is None or page.next < before
            before = page.next

    def ids(self, **wanted: Any) -> list[str]:
        return [each.decision.request_id for each in self.found(**wanted)]

    def forget(self, number: str) -> int:
        forgotten, after = 0, None
        while True:
            with self.database.write() as connection:
                step = self.history.forget(connection, number, after)
            forgotten, after = forgotten + step.decisions, step.next
            if after is None:
                return forgotten

    def rows(self, table: sa.Table) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Database]]:
    database = open_databases(f"sqlite:{tmp_path_factory.mktemp('history')}/store.db").history
    with database.write() as connection:
        HISTORY.create_all(connection)

    def emptied() -> Database:
        with database.write() as connection:
            for table in reversed(HISTORY.sorted_tables):
                connection.execute(sa.delete(table))
        return database

    yield emptied
    database.close()


@pytest.fixture
def kept(empty_database: Callable[[], Database]) -> Kept:
    return Kept(empty_database())


# --- search ---


def wanted_by(wanted: HistoryFilter, decision: Decision) -> bool:
    """What the filter's description says, on the original."""
    ruling, hook = decision.ruling, decision.hook
    has = {
        "app": decision.app,
        "method": decision.method,
        "verdict": ruling.verdict,
        "source": ruling.source,
        "reason": ruling.reason,
        "upstream": decision.upstream,
        "target": decision.target,
        "request_id": decision.request_id,
        "call_id": hook and field_text(hook.call_id),
        "session_id": hook and field_text(hook.session_id),
    }
    caller = normalize_number(field_text(hook.caller) or "") if hook else ""
    callee = normalize_number(field_text(hook.callee) or "") if hook else ""
    number = wanted.number and normalize_number(wanted.number)
    return (
        all(getattr(wanted, name) in (None, value) for name, value in has.items())
        and (wanted.since is None or decision.time >= wanted.since)
        and (wanted.until is None or decision.time < wanted.until)
        and (not wanted.failures or is_failure(decision))
        and (wanted.caller is None or caller == normalize_number(wanted.caller))
        and (wanted.callee is None or callee == normalize_number(wanted.callee))
        and (number is None or number in (caller, callee))
    )


@st.composite
def filters(draw: st.DrawFn, among: Sequence[Decision]) -> HistoryFilter:
    """A filter, with values that a decision has."""
    one = draw(st.sampled_from(among))
    hook = one.hook
    values: dict[str, Any] = {
        "since": one.time, "until": one.time, "app": one.app, "method": one.method, "verdict": str(one.ruling.verdict),
        "source": str(one.ruling.source), "reason": str(one.ruling.reason), "upstream": one.upstream,
        "target": one.target, "request_id": one.request_id, "failures": True,
    }  # fmt: skip
    if hook is not None:
        values |= {"call_id": field_text(hook.call_id), "session_id": field_text(hook.session_id)}
        values |= {
            name: text
            for name, raw in (("caller", hook.caller), ("callee", hook.callee), ("number", hook.callee))
            if (text := field_text(raw)) and normalize_number(text)
        }
    chosen = draw(st.sets(st.sampled_from(sorted(values)), max_size=3))
    return HistoryFilter(**{name: values[name] for name in chosen})


@given(st.lists(decisions(), min_size=1, max_size=12), st.data())
def test_a_search_finds_what_is_wanted_the_newest_first_however_it_lies(
    empty_database: Callable[[], Database], added: list[Decision], data: st.DataObject
) -> None:
    kept = Kept(empty_database(), HistorySettings(keep=1e9, keep_allowed=1e9, key=KEY), bucket=3)
    added = [msgspec.structs.replace(each, request_id=f"r{number}") for number, each in enumerate(added)]
    left = list(added)
    while left:
        size = data.draw(st.integers(1, 5))
        kept.add(*left[:size])
        left = left[size:]
        if data.draw(st.booleans()):
            kept.maintain()
    wanted = data.draw(filters(added))
    matching = [each for each in added if wanted_by(wanted, each)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(history_search, "LOOKED_AT", data.draw(st.sampled_from([1, 4, 50_000])))
        patched.setattr(history_search, "_FETCHED", data.draw(st.sampled_from([1, 16])))
        found = kept.found(data.draw(st.integers(1, 6)), **msgspec.structs.asdict(wanted))
    assert sorted(each.decision.request_id for each in found) == sorted(each.request_id for each in matching)
    times = [int(each.decision.time * 1e6) for each in found]
    assert times == sorted(times, reverse=True)


def test_a_long_hook_comes_in_its_place_although_it_was_added_later(kept: Kept) -> None:
    kept.add(decided(5), decided(9))
    kept.add(decided(7), decided(8))
    kept.add(decided(6))
    assert kept.ids(limit=2) == [f"request-{n}" for n in (9, 8, 7, 6, 5)]


@pytest.mark.parametrize("written", [NUMBER, "0049 30 123-45", f'"A" <sip:{NUMBER}@h>'])
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_whole_number_is_found_however_it_is_written(
    empty_database: Callable[[], Database], written: str, is_sealed: bool
) -> None:
    kept = Kept(empty_database(), bucket=1 if is_sealed else 100)
    kept.add(decided(1, fields={"caller": "tel:+49-30-12345"}), decided(2, fields={"callee": NUMBER}), decided(3))
    kept.maintain()
    assert kept.ids(caller=written) == ["request-1"]
    assert kept.ids(callee=written) == ["request-2"]
    assert kept.ids(number=written) == ["request-2", "request-1"]
    assert kept.ids(number=NUMBER[:-1]) == []


def test_whole_numbers_need_the_key_where_they_are_masked(empty_database: Callable[[], Database]) -> None:
    kept = Kept(empty_database(), HistorySettings())
    kept.add(decided(1, fields={"caller": NUMBER}))
    for search in (lambda: kept.ids(number=NUMBER), lambda: kept.forget(NUMBER)):
        with pytest.raises(StoreError, match=r"log\.mask hides them, and history\.key is not set"):
            search()


def test_numbers_that_are_not_masked_are_found_without_a_key(empty_database: Callable[[], Database]) -> None:
    kept = Kept(empty_database(), HistorySettings(), mask=())
    kept.add(decided(1, fields={"caller": NUMBER}), decided(2, fields={"caller": "1"}))
    assert kept.ids(caller="0049 (0)30 12345") == ["request-1"]
    assert kept.forget("0049 (0)30 12345") == 1
    assert kept.ids(caller=NUMBER) == []


def test_another_key_finds_nothing(kept: Kept) -> None:
    kept.add(decided(1, fields={"caller": NUMBER}))
    kept.history.configure(SETTINGS._replace(key=SecretStr("another")), MASK)
    assert kept.ids(caller=NUMBER) == []
    kept.history.configure(SETTINGS, MASK)
    assert kept.ids(caller=NUMBER) == ["request-1"]


def test_a_page_says_how_far_back_it_looked(kept: Kept) -> None:
    assert kept.page(HistoryFilter()).oldest is None
    kept.add(decided(1), decided(2, ruling=TIMED_OUT))
    assert kept.page(HistoryFilter(call_id="none")).oldest == pytest.approx(NOW + 1)
    assert kept.page(HistoryFilter(failures=True)).oldest == pytest.approx(NOW + 2)
    with kept.database.read() as connection:
        assert kept.history.oldest(connection) == pytest.approx(NOW + 1)


def test_a_page_is_a_bounded_amount_of_work(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_search, "LOOKED_AT", 10)
    for second in range(0, 60, 5):
        kept.add(*(decided(second + n) for n in range(5)))
    page = kept.page(HistoryFilter(call_id="none", app="b"))
    assert page.decisions == []
    page = kept.page(HistoryFilter(method="OnCallEvent", target="192.0.2.1:80", until=NOW + 1e6), limit=1000)
    assert 5 <= len(page.decisions) <= 15
    assert page.next is not None
    assert len(kept.found(limit=1000)) == 60


def test_a_damaged_block_hides_no_other(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.add(decided(1))
    kept.add(decided(2))
    with kept.database.write() as connection:
        first = sa.select(sa.func.min(history_block.c.id)).scalar_subquery()
        connection.execute(sa.update(history_block).where(history_block.c.id == first).values(data=b"\x78damaged"))
    assert kept.ids() == ["request-2"]
    assert "cannot be read" in caplog.text


# --- adding ---


def test_what_is_no_decision_takes_no_other_with_it(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    good = encode_sent(decided(1), Bodies.OFF, 77, "")
    with kept.database.write() as connection:
        assert kept.history.add(connection, [[b"\x93", good], [b""], []]) == [1, 0, 0]
    assert kept.ids() == ["request-1"]
    assert "a decision cannot be kept" in caplog.text


def test_two_gateways_may_have_decided_in_the_same_microsecond(empty_database: Callable[[], Database]) -> None:
    database = empty_database()
    one, other = Kept(database), Kept(database)
    for kept in (one, other):
        kept.history._preparer._count = 0
    one.add(decided(1))
    other.add(decided(1, request_id="other"))
    assert sorted(one.ids()) == ["other", "request-1"]


def test_bodies_come_with_the_one_request_that_is_asked_for(empty_database: Callable[[], Database]) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(bodies=Bodies.ALL))
    kept.add(decided(1, fields={"caller": NUMBER, "x": 1}, ruling=backend_allow(b'{"y":2}')))
    (one,) = kept.found(request_id="request-1")
    assert b'"x": 1' in one.decision.body
    assert one.decision.ruling.body == b'{"y":2}'
    assert kept.found()[0].decision.body == b""


def test_results_of_shadow_copies_come_with_their_decisions(kept: Kept) -> None:
    one, other = decided(1), decided(2, ruling=TIMED_OUT)
    kept.add(one, other, decided(3))
    results = {each.request_id: ShadowResult("new", "match", 200, each.request_id, 1.0, ()) for each in (one, other)}
    with kept.database.write() as connection:
        for _ in range(2):  # a repeat changes nothing
            kept.history.add_shadow(
                connection,
                [(each.request_id, each.time, encode_shadow(results[each.request_id], each)) for each in (one, other)],
            )
        kept.history.add_shadow(connection, [("x", NOW, b"nothing")])
    page = kept.page(HistoryFilter())
    shown = [data and decode_shadow(data) for data in page.shadows]
    assert shown == [None, results["request-2"], results["request-1"]]


# --- sealing and pruning ---


def test_sealing_keeps_everything_and_makes_few_rows_of_many(empty_database: Callable[[], Database]) -> None:
    kept = Kept(empty_database(), bucket=100)
    added = [decided(n, ruling=TIMED_OUT if n % 3 == 0 else backend_allow(b"{}"), fields={"callId": f"c{n % 50}"})
             for n in range(300)]  # fmt: skip
    for each in added:
        kept.add(each)
    assert kept.rows(history_block) == 300
    kept.maintain()
    assert kept.rows(history_block) < 10
    assert kept.rows(history_shard) > 100
    assert len(kept.ids()) == 300
    assert kept.ids(call_id="c7") == [f"request-{n}" for n in (257, 207, 157, 107, 57, 7)]
    assert kept.ids(request_id="request-299") == ["request-299"]
    with kept.database.read() as connection:
        statistics = kept.history.statistics(connection)
    assert (statistics.decisions, statistics.ordinary) == (300, 200)
    assert statistics.oldest == pytest.approx(NOW)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_ordinary_decisions_are_kept_for_a_shorter_time(
    empty_database: Callable[[], Database], is_sealed: bool
) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(bodies=Bodies.ALL), bucket=1 if is_sealed else 100)
    kept.add(decided(0), decided(1, ruling=backend_reject()))
    with kept.database.write() as connection:
        results = [(each.request_id, each.time, encode_shadow(ShadowResult("n", "match", 200, "", 1.0, ()), each))
                   for each in (decided(0), decided(1, ruling=backend_reject()))]  # fmt: skip
        kept.history.add_shadow(connection, results)
    kept.maintain(NOW + 23 * HOUR)
    assert kept.ids() == ["request-1", "request-0"]
    kept.maintain(NOW + 25 * HOUR)
    assert kept.ids() == ["request-1"]
    assert (kept.rows(history_body), kept.rows(history_shadow)) == (1, 1)
    kept.maintain(NOW + 30 * 24 * HOUR + 10)
    for table in (history_block, history_shard, history_body, history_shadow):
        assert kept.rows(table) == 0


def test_a_step_removes_a_bounded_number(kept: Kept) -> None:
    for n in range(0, 70_000, 700):
        kept.add(decided(n))
    with kept.database.write() as connection:
        assert kept.history.maintain(connection, NOW + 1e9)
    assert 0 < kept.rows(history_block) < 100
    kept.maintain(NOW + 1e9)
    assert kept.rows(history_block) == 0


def test_what_is_too_much_goes_the_oldest_ordinary_ones_first(empty_database: Callable[[], Database]) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(max_size=400_000), bucket=200)
    rng = random.Random(1)
    for n in range(0, 8000, 100):
        kept.add(
            *(
                decided(n + m, fields={"callId": rng.randbytes(16).hex(), "sessionId": rng.randbytes(16).hex()})
                for m in range(99)
            ),
            decided(n + 99, ruling=backend_reject()),
        )
        kept.maintain()
    with kept.database.read() as connection:
        assert kept.history.used(connection) <= 400_000
    assert len(kept.ids(verdict="reject")) == 80
    left = [each.decision for each in kept.found()]
    assert any(map(is_ordinary, left))
    assert min(each.time for each in left if is_ordinary(each)) > NOW + 1000
    assert is_ordinary(left[1])  # the newest are there


def test_room_is_given_back_to_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.history._FREE_PAGES", 100)
    database = open_databases(f"sqlite:{tmp_path}/store.db").history
    with database.write() as connection:
        HISTORY.create_all(connection)
    kept = Kept(database, SETTINGS._replace(bodies=Bodies.ALL))
    rng = random.Random(1)
    for n in range(8):
        kept.add(*(decided(10 * n + m, fields={"sdp": rng.randbytes(100_000).hex()}) for m in range(10)))
    before = pages(database)
    for _ in range(20):
        kept.maintain(NOW + 1e9)
    assert kept.rows(history_body) == 0
    assert pages(database) < before / 2
    database.close()


def pages(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())


# --- a person's right ---


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_forgotten_number_is_nowhere_in_the_database(empty_database: Callable[[], Database], is_sealed: bool) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(bodies=Bodies.ALL), bucket=1 if is_sealed else 100)
    fields = {"caller": NUMBER, "callee": "+1555000111", "callId": "c1"}
    kept.add(decided(1, fields=fields), decided(2, fields={"caller": "+1555000111"}), decided(3))
    kept.add(decided(4, fields={"callee": "0049-30-12345"}, ruling=backend_reject()))
    kept.maintain()
    assert kept.forget("0049 30 12345") == 2
    assert kept.ids(number=NUMBER) == []
    assert kept.ids() == [f"request-{n}" for n in (4, 3, 2, 1)]
    assert kept.ids(number="+1555000111") == ["request-2", "request-1"]
    one, two = kept.found(call_id="c1")[0].decision.hook, kept.found(request_id="request-2")[0].decision.hook
    assert one is not None
    assert two is not None
    assert (field_text(one.caller), field_text(one.callee)) == (None, "*********11")
    assert field_text(two.caller) == "*********11"
    assert kept.found(request_id="request-1")[0].decision.body == b""
    assert kept.found(request_id="request-2")[0].decision.body != b""
    assert kept.forget(NUMBER) == 0
    hashed = kept.history._hasher and kept.history._hasher.hash(NUMBER)
    assert hashed
    assert not any(hashed in data or hashed[:4] in data for data in everything(kept.database))


def everything(database: Database) -> Iterator[bytes]:
    """All bytes of all rows, unpacked."""
    with database.read() as connection:
        for data, terms in connection.execute(sa.select(history_block.c.data, history_block.c.terms)):
            yield unpack(data)
            yield terms or b""
        for table in (history_shard, history_body):
            yield from connection.scalars(sa.select(table.c.data))


def test_a_number_is_forgotten_also_in_blocks_that_are_sealed_meanwhile(
    empty_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.history_forget._STEP", 2)
    kept = Kept(empty_database(), bucket=5)
    for n in range(12):
        kept.add(decided(n, fields={"caller": NUMBER}))
    forgotten, after = 0, None
    while True:
        with kept.database.write() as connection:
            step = kept.history.forget(connection, NUMBER, after)
        forgotten, after = forgotten + step.decisions, step.next
        if after is None:
            break
        with kept.database.write() as connection:
            kept.history.maintain(connection, NOW)
    assert forgotten == 12
    assert kept.ids(caller=NUMBER) == []
    assert len(kept.ids()) == 12
