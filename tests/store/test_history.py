"""The history: what is added is kept until it is too old or too much."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.model.verdicts import backend_allow, backend_reject
from gateway.policy.history import Bodies, is_ordinary
from gateway.policy.shadow import ShadowResult
from gateway.store import history_search
from gateway.store.decisions import decode_shadow, encode_sent, encode_shadow
from gateway.store.engine import Database, open_databases
from gateway.store.migrate import migrate
from gateway.store.requests import HistoryFilter
from gateway.store.schema import history_block, history_body, history_shadow, history_shard
from tests.store.decided import NOW, TIMED_OUT, decided
from tests.store.histories import HOUR, NUMBER, SETTINGS, EmptyDatabase, Kept


def test_what_is_no_decision_takes_no_other_with_it(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    good = encode_sent(decided(1), Bodies.OFF, 77, "")
    with kept.database.write() as connection:
        assert kept.history.add(connection, [[b"\x93", good], [b""], []]) == [1, 0, 0]
    assert kept.ids() == ["request-1"]
    assert "a decision cannot be kept" in caplog.text


def test_two_gateways_may_have_decided_in_the_same_microsecond(empty_database: EmptyDatabase) -> None:
    database = empty_database()
    one, other = Kept(database), Kept(database)
    for kept in (one, other):
        kept.history._preparer._count = 0
    one.add(decided(1))
    other.add(decided(1, request_id="other"))
    assert sorted(one.ids()) == ["other", "request-1"]


def test_bodies_come_where_they_are_asked_for(empty_database: EmptyDatabase) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(bodies=Bodies.ALL))
    kept.add(decided(1, fields={"caller": NUMBER, "x": 1}, ruling=backend_allow(b'{"y":2}')))
    (one,) = kept.found(request_id="request-1", bodies=True)
    assert b'"x": 1' in one.decision.body
    assert one.decision.ruling.body == b'{"y":2}'
    assert kept.found()[0].decision.body == b""


def test_a_page_has_no_more_bodies_than_a_message_may(
    empty_database: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_search, "MAX_PAGE_BYTES", 3000)
    kept = Kept(empty_database(), SETTINGS._replace(bodies=Bodies.ALL))
    kept.add(*(decided(n, fields={"sdp": "x" * (1000 if n else 5000)}) for n in range(5)))
    sizes = [len(kept.page(HistoryFilter(until=NOW + n), bodies=True).decisions) for n in (5, 3, 1)]
    assert sizes == [2, 2, 1]
    found = kept.found(bodies=True)
    assert [each.decision.request_id for each in found] == [f"request-{n}" for n in (4, 3, 2, 1, 0)]
    assert all(each.decision.body for each in found)


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


def test_sealing_keeps_everything_and_makes_few_rows_of_many(empty_database: EmptyDatabase) -> None:
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
def test_ordinary_decisions_are_kept_for_a_shorter_time(empty_database: EmptyDatabase, is_sealed: bool) -> None:
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


def test_what_is_too_much_goes_the_oldest_ordinary_ones_first(empty_database: EmptyDatabase) -> None:
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
    migrate(database)
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
