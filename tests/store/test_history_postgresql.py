"""The history on PostgreSQL: the same tests, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from gateway.store.engine import Database, open_databases
from gateway.store.history_blocks import shard_row
from gateway.store.migrate import migrate
from gateway.store.requests import HistoryFilter
from gateway.store.schema import history_block, history_body, history_shadow, history_shard
from tests.store.decided import NOW, decided
from tests.store.histories import SETTINGS, EmptyDatabase, Kept
from tests.store.test_history import (
    test_a_step_removes_a_bounded_number,
    test_ordinary_decisions_are_kept_for_a_shorter_time,
    test_results_of_shadow_copies_come_with_their_decisions,
    test_sealing_keeps_everything_and_makes_few_rows_of_many,
    test_two_gateways_may_have_decided_in_the_same_microsecond,
)
from tests.store.test_history_forget import (
    test_a_forgotten_number_is_nowhere_in_the_database,
    test_a_number_is_forgotten_also_in_blocks_that_are_sealed_meanwhile,
)
from tests.store.test_history_search import (
    test_a_page_says_how_far_back_it_looked,
    test_a_search_finds_what_is_wanted_the_newest_first_however_it_lies,
    test_a_whole_number_is_found_however_it_is_written,
)
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow

__all__ = [
    "test_a_forgotten_number_is_nowhere_in_the_database",
    "test_a_number_is_forgotten_also_in_blocks_that_are_sealed_meanwhile",
    "test_a_page_says_how_far_back_it_looked",
    "test_a_search_finds_what_is_wanted_the_newest_first_however_it_lies",
    "test_a_step_removes_a_bounded_number",
    "test_a_whole_number_is_found_however_it_is_written",
    "test_ordinary_decisions_are_kept_for_a_shorter_time",
    "test_results_of_shadow_copies_come_with_their_decisions",
    "test_sealing_keeps_everything_and_makes_few_rows_of_many",
    "test_two_gateways_may_have_decided_in_the_same_microsecond",
]


@pytest.fixture(scope="module")
def empty_database(postgres: PostgresServer) -> Iterator[EmptyDatabase]:
    database = open_databases(postgres.new_database()).history
    migrate(database)

    def emptied() -> Database:
        with database.write() as connection:
            for table in (history_block, history_shard, history_body, history_shadow):
                connection.execute(sa.delete(table))
        return database

    yield emptied
    database.close()


def test_what_is_too_much_goes_although_the_tables_stay_as_large(empty_database: EmptyDatabase) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(max_size=50_000), bucket=100)
    for n in range(0, 2000, 100):
        kept.add(*(decided(n + m) for m in range(100)))
        kept.maintain()
    with kept.database.read() as connection:
        assert kept.history.used(connection) <= 50_000
        size = connection.scalar(sa.select(sa.func.sum(history_block.c.size)))
    assert 0 < (size or 0) <= 50_000
    assert kept.ids()[0] == "request-1999"


def test_two_gateways_seal_and_remove_beside_each_other(empty_database: EmptyDatabase) -> None:
    database = empty_database()
    one, other = Kept(database, bucket=10), Kept(database, bucket=10)
    for n in range(40):
        (one if n % 2 else other).add(decided(n))
    with database.write() as first:
        assert one.history.maintain(first, NOW)  # its blocks are locked until the transaction ends
        with database.write() as second:
            other.history.maintain(second, NOW)
    one.maintain()
    assert len(one.ids()) == 40
    assert other.page(HistoryFilter(request_id="request-7")).decisions


def test_what_two_gateways_have_left_of_a_bucket_is_swept_up(empty_database: EmptyDatabase) -> None:
    kept = Kept(empty_database(), bucket=10)
    for n in range(10):
        kept.add(decided(n))
    kept.maintain()
    rest, sealed = shard_row(2, 5), kept.rows(history_shard)
    with kept.database.write() as connection:
        connection.execute(sa.insert(history_shard), [{"id": rest, "data": b""}])
    for _ in range(4):
        kept.maintain()
    assert kept.rows(history_shard) == sealed
    assert kept.ids(request_id="request-3") == ["request-3"]
