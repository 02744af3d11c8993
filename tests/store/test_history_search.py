"""A search in the history finds what is wanted, the newest first, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.model.decision import Decision, is_failure
from gateway.model.hooks import field_text
from gateway.policy.history import HistorySettings
from gateway.store import history_search
from gateway.store.engine import StoreError
from gateway.store.numbers import normalize_number
from gateway.store.requests import HistoryFilter
from gateway.store.schema import history_block
from tests.store.decided import NOW, TIMED_OUT, decided, decisions
from tests.store.histories import MASK, NUMBER, SETTINGS, EmptyDatabase, Kept


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
    empty_database: EmptyDatabase, added: list[Decision], data: st.DataObject
) -> None:
    kept = Kept(empty_database(), SETTINGS._replace(keep=1e9, keep_allowed=1e9), bucket=3)
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
    empty_database: EmptyDatabase, written: str, is_sealed: bool
) -> None:
    kept = Kept(empty_database(), bucket=1 if is_sealed else 100)
    kept.add(decided(1, fields={"caller": "tel:+49-30-12345"}), decided(2, fields={"callee": NUMBER}), decided(3))
    kept.maintain()
    assert kept.ids(caller=written) == ["request-1"]
    assert kept.ids(callee=written) == ["request-2"]
    assert kept.ids(number=written) == ["request-2", "request-1"]
    assert kept.ids(number=NUMBER[:-1]) == []


def test_whole_numbers_need_the_key_where_they_are_masked(empty_database: EmptyDatabase) -> None:
    kept = Kept(empty_database(), HistorySettings())
    kept.add(decided(1, fields={"caller": NUMBER}))
    for search in (lambda: kept.ids(number=NUMBER), lambda: kept.forget(NUMBER)):
        with pytest.raises(StoreError, match=r"log\.mask hides them, and history\.key is not set"):
            search()


def test_numbers_that_are_not_masked_are_found_without_a_key(empty_database: EmptyDatabase) -> None:
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
