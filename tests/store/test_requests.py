"""Requests of operators and their answers travel as they are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.store.records import UpstreamBacklog
from gateway.store.requests import (
    ANSWERS,
    AppBacklog,
    DropEvents,
    EventFilter,
    EventPage,
    EventView,
    HistoryFilter,
    HistoryPage,
    ListEvents,
    PauseSpool,
    Portion,
    Request,
    RetryEvents,
    SearchHistory,
    ShowEvent,
    SpoolReport,
    SpoolStatus,
    StoreReport,
    StoreRequest,
    StoreState,
    decode_answer,
    decode_request,
    encode_request,
)
from tests.support.kept_events import event

WANTED = EventFilter(ids=(1, 2), app="a", upstream="u", method="m", call_id="c", dead=True)
VIEW = EventView(7, False, 1, None, "HTTP 500", 1.5, event(), 100)
UPSTREAM = UpstreamBacklog("u", 1, 2, 3, 4.5, None, True)
APP = AppBacklog("a", 1, 2, 3, None, False, True)
EXCHANGES: list[tuple[StoreRequest, Any]] = [
    (
        SpoolStatus(),
        SpoolReport(
            [UpstreamBacklog("u", 1, 2, 3, 4.5, None, True)], [AppBacklog("a", 1, 2, 3, None, False, True)], 9, True
        ),
    ),
    (ListEvents(WANTED, 5, 10, bodies=True), EventPage([VIEW], 7)),
    (ShowEvent(7), VIEW),
    (ShowEvent(8), None),
    (RetryEvents(WANTED, 5, 10), Portion(3, 7)),
    (DropEvents(EventFilter()), Portion(0, None)),
    (PauseSpool(True, "u", None), True),
    (
        SearchHistory(HistoryFilter(since=1.5, app="a", caller="+49", failures=True), 2**60, 10, bodies=True),
        HistoryPage([b"x", b""], [None, b"y"], 2**60 - 1, 1.5),
    ),
    (StoreReport(), StoreState("sqlite", False, "full", 1, 2.5, 3)),
]


@pytest.mark.parametrize(("request_", "answer"), EXCHANGES)
def test_a_request_and_its_answer_come_as_they_were_sent(request_: StoreRequest, answer: Any) -> None:
    assert decode_request(encode_request(request_)) == request_
    assert decode_answer(request_, msgspec.msgpack.encode(answer)) == answer


def test_every_request_has_an_answer_and_is_tried_here() -> None:
    kinds = set(Request.__args__)
    assert set(ANSWERS) == kinds == {type(request) for request, _ in EXCHANGES}
