"""What operators see of the spool: numbers add up, secrets and numbers are masked, an export is a recording."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.spool_views import (
    MAX_SHOWN_BODY,
    BacklogTrend,
    EventMask,
    event_detail,
    event_list,
    export_line,
    no_spool,
    spool_view,
    time_until_empty,
)
from gateway.model.hooks import BadHookError, parse_hook
from gateway.recording.format import decode_record
from gateway.recording.pseudonyms import Key
from gateway.store.records import SpooledEvent, UpstreamBacklog
from gateway.store.requests import AppBacklog, EventPage, EventView, SpoolReport, StoreState
from tests.support.kept_events import event

NOW = 1_700_000_100.0
STATE = StoreState("sqlite", True, None, 2048, 1_690_000_000.0, 4096)
BODY = (
    b'{"appKey":"a","callId":"c","caller":"+4930123456","callee":"4000","password":"hunter2",\n"sdp":"to +4930123456"}'
)
MASK = EventMask(("caller", "callee"), Key(b"k" * 32))


def backlog(upstream: str, events: int, dead: int = 0, oldest: float | None = 1_700_000_040.0) -> UpstreamBacklog:
    return UpstreamBacklog(upstream, events, events * 10, dead, oldest, NOW + 2 if events else None, False)


def view(kept: SpooledEvent | None = None, *, dead: bool = False, due: float | None = NOW + 5) -> EventView:
    kept = kept or event(body=BODY)
    return EventView(7, dead, 3, due, "HTTP 500", NOW + 3600, kept, len(kept.body))


# --- the state ---


def test_the_totals_are_the_sums_and_the_largest_backlog_is_first() -> None:
    report = SpoolReport([backlog("a", 1, 2), backlog("b", 30, 0, 1_700_000_000.0)], [], 4096)
    seen = spool_view(report, STATE, {"a": 1.0, "b": -3.0}, NOW)
    assert (seen.events, seen.bytes, seen.dead, seen.oldest_age_seconds) == (31, 310, 2, 100.0)
    assert [each.upstream for each in seen.upstreams] == ["b", "a"]
    assert (seen.change_per_second, seen.empty_in_seconds) == (-2.0, 15.5)
    assert [each.empty_in_seconds for each in seen.upstreams] == [10.0, None]
    assert seen.upstreams[0].next_attempt == "2023-11-14T22:15:02.000Z"
    assert (seen.store.up, seen.store.engine, seen.store.history_bytes) == (True, "sqlite", 2048)


def test_rates_are_unknown_before_there_are_two_readings() -> None:
    seen = spool_view(SpoolReport([backlog("a", 1)], [], 0), STATE, {}, NOW)
    assert (seen.change_per_second, seen.empty_in_seconds) == (None, None)


def test_an_empty_spool_is_empty_already() -> None:
    seen = spool_view(SpoolReport([], [AppBacklog("a", 0, 0, 1, None, False, True)], 0), STATE, {}, NOW)
    assert (seen.events, seen.oldest, seen.empty_in_seconds) == (0, None, 0.0)
    assert (seen.apps[0].configured, seen.apps[0].paused, seen.apps[0].dead) == (False, True, 1)


def test_without_a_store_and_without_its_answer_it_says_so() -> None:
    assert no_spool(configured=False, error=None, now=NOW).store.configured is False
    down = no_spool(configured=True, error="the disk is full", now=NOW)
    assert (down.store.up, down.store.error, down.events, down.upstreams) == (False, "the disk is full", None, [])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(-100, 100))
def test_a_backlog_that_changes_evenly_changes_at_that_rate(halves: list[int], per_second: int) -> None:
    trend = BacklogTrend()
    now, events = 0.0, 1_000_000
    trend.read(now, {"u": events})
    for half_seconds in halves:
        now += half_seconds / 2
        rates = trend.read(now, {"u": events + round(per_second * now)})
        assert rates == {} or rates["u"] == pytest.approx(per_second, abs=2.0)
        assert rates or half_seconds > 60 or now > 30


def test_what_is_longer_ago_than_half_a_minute_does_not_count() -> None:
    trend = BacklogTrend()
    assert trend.read(0.0, {"u": 1_000_000}) == {}
    assert trend.read(10.0, {"u": 100}) == {"u": (100 - 1_000_000) / 10}
    assert trend.read(31.0, {"u": 58, "new": 21}) == {"u": -2.0, "new": 1.0}
    assert trend.read(100.0, {"u": 0}) == {}


def test_readings_that_follow_at_once_do_not_push_out_older_ones() -> None:
    trend = BacklogTrend()
    for number in range(1000):
        trend.read(number / 1000, {"u": number})
    assert trend.read(1.0, {"u": 1000}) == {"u": 1000.0}


@pytest.mark.parametrize(
    ("events", "change", "seconds"),
    [(0, None, 0.0), (10, None, None), (10, 0.0, None), (10, 1.0, None), (10, -2.0, 5.0), (10, -5e-324, None)],
)
def test_the_time_until_it_is_empty(events: int, change: float | None, seconds: float | None) -> None:
    assert time_until_empty(events, change) == seconds


# --- events ---


def test_states_of_events_in_a_list() -> None:
    page = EventPage([view(), view(due=None), view(dead=True, due=None)], 8)
    seen = event_list(page, NOW)
    assert [each.state for each in seen.events] == ["waiting", "queued", "dead"]
    assert [each.next_attempt for each in seen.events] == ["2023-11-14T22:15:05.000Z", None, None]
    assert (seen.next, seen.events[0].age_seconds, seen.events[0].last_error) == (8, 100.0, "HTTP 500")
    assert b"4930123456" not in json.dumps([each.call_id for each in seen.events]).encode()


def test_an_event_is_shown_masked() -> None:
    kept = event(
        body=BODY,
        query=b"token=abc&node=n1",
        fields=((b"x-note", b"token=abc"), (b"host", b"gateway")),
    )
    seen = event_detail(view(kept), MASK, NOW)
    assert seen.masked
    assert (seen.caller, seen.callee) == ("*********56", "****")
    assert seen.body is not None
    for secret in ("4930123456", "4000", "hunter2"):
        assert secret not in seen.body
    assert json.loads(seen.body)["callId"] == "c"
    assert seen.query == "token=***&node=n1"
    assert seen.headers == [("x-note", "token=***"), ("host", "gateway")]


def test_unmasked_it_is_as_it_came() -> None:
    seen = event_detail(view(event(body=BODY, query=b"token=abc")), None, NOW)
    assert (seen.body, seen.query, seen.caller, seen.masked) == (BODY.decode(), "token=abc", "+4930123456", False)


def test_a_body_that_is_too_large_to_be_masked_is_not_shown() -> None:
    large = b'{"appKey":"a","x":"%b"}' % (b"x" * MAX_SHOWN_BODY)
    assert event_detail(view(event(body=large)), MASK, NOW).body is None
    assert event_detail(view(event(body=large)), None, NOW).body == large.decode()


def test_nothing_is_masked_where_the_log_masks_nothing_but_secrets_always_are() -> None:
    seen = event_detail(view(), EventMask((), Key()), NOW)
    assert seen.caller == "+4930123456"
    assert seen.body is not None
    assert "+4930123456" in seen.body
    assert "hunter2" not in seen.body


@given(st.binary(max_size=50))
def test_any_body_query_and_field_can_be_shown_and_exported(data: bytes) -> None:
    body = b'{"appKey":"a","x":%b}' % data
    try:
        parse_hook(body)
    except BadHookError:
        body = json.dumps({"appKey": "a", "x": data.decode("latin-1")}).encode()
    kept = event(body=body, query=data, fields=((b"x", data),))
    for mask in (MASK, None):
        assert json.dumps(event_detail(view(kept), mask, NOW).headers)
    line = export_line(view(kept))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    record = decode_record(line)
    assert bytes(record.hook) == body.replace(b"\n", b" ").replace(b"\r", b" ")
    assert (record.app_key, record.method, record.source) == ("a", "CallStatusEvent", "spool")
    assert json.loads(line)["spool"]["query"].encode("latin-1") == data
