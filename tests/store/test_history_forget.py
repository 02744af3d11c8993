"""A number that is to be forgotten is nowhere in the history afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from gateway.model.hooks import field_text
from gateway.model.verdicts import backend_reject
from gateway.policy.history import Bodies
from gateway.store.engine import Database
from gateway.store.history_blocks import unpack
from gateway.store.schema import history_block, history_body, history_shard
from tests.store.decided import NOW, decided
from tests.store.histories import NUMBER, SETTINGS, EmptyDatabase, Kept


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_forgotten_number_is_nowhere_in_the_database(empty_database: EmptyDatabase, is_sealed: bool) -> None:
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
    assert kept.found(request_id="request-1", bodies=True)[0].decision.body == b""
    assert kept.found(request_id="request-2", bodies=True)[0].decision.body != b""
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
    empty_database: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
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
