"""A person's number leaves the whole history, in steps, beside a gateway that writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.policy.history import HistorySettings
from gateway.store import history_forget
from gateway.store.engine import StoreError
from gateway.store.forgetting import forget_number
from gateway.store.requests import HistoryFilter
from tests.support.direct_store import KEY, MASK, DirectStore
from tests.telemetry.test_journal import NOW, decision

SETTINGS = HistorySettings(key=SecretStr(KEY))
NUMBER = "+4930987654"


def found(store: DirectStore, **wanted: str) -> int:
    with store.databases.history.read() as connection:
        return len(store.history.search(connection, HistoryFilter(**wanted)).decisions)  # type: ignore[arg-type]


def test_it_is_gone_from_every_block_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_forget, "_STEP", 1)
    store = DirectStore(tmp_path)
    for number in range(5):
        store.decide(
            decision(time=NOW + number, request_id=f"in-{number}", fields={"caller": NUMBER}),
            decision(time=NOW + number, request_id=f"out-{number}", fields={"caller": "+491", "callee": NUMBER}),
            decision(time=NOW + number, request_id=f"other-{number}", fields={"caller": "+4930987655"}),
        )
    assert found(store, number=NUMBER) == 10
    steps: list[int] = []

    def write_meanwhile(decisions: int) -> None:
        steps.append(decisions)
        store.decide(decision(time=NOW - 100 - len(steps), request_id=f"meanwhile-{len(steps)}"))

    assert forget_number(f"sqlite:{tmp_path}/store.db", SETTINGS, MASK, "0049 (30) 987654", write_meanwhile) == 10
    assert steps[-1] == 10
    assert len(steps) > 4
    assert found(store, number=NUMBER) == 0
    assert found(store, caller="+4930987655") == 5
    assert found(store, request_id="in-3") == found(store, request_id="meanwhile-1") == 1
    store.close()


def test_without_the_key_a_masked_number_cannot_be_found(tmp_path: Path) -> None:
    DirectStore(tmp_path).close()
    with pytest.raises(StoreError, match=r"history\.key is not set"):
        forget_number(f"sqlite:{tmp_path}/store.db", HistorySettings(), MASK, NUMBER)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert forget_number(f"sqlite:{tmp_path}/store.db", SETTINGS, MASK, NUMBER) == 0
    assert list(tmp_path.iterdir()) == []
