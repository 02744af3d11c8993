"""What requests for the spool say, in a query or in a body; every mistake has a message."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.spool_filter import (
    ACTION_NAMES,
    EXPORT_NAMES,
    LIST_NAMES,
    PAUSE_NAMES,
    SpoolQuery,
    parse_spool_body,
    parse_spool_query,
)
from gateway.store.requests import EventFilter

ids = st.integers(0, 10**18 - 1)
texts = st.none() | st.text(min_size=1, max_size=20)
filters = st.builds(
    EventFilter,
    ids=st.none() | st.lists(ids, min_size=1, max_size=5).map(tuple),
    app=texts,
    upstream=texts,
    method=texts,
    call_id=texts,
    dead=st.none() | st.booleans(),
)


def fields(wanted: EventFilter) -> dict[str, Any]:
    said = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    if "ids" in said:
        said["id"] = list(said.pop("ids"))
    return said


@given(filters, ids, st.booleans())
def test_a_body_and_a_query_say_the_same(wanted: EventFilter, after: int, everything: bool) -> None:
    said = {**fields(wanted), "cursor": after, "all": everything}
    pairs = [
        (name, str(int(each)) if isinstance(each, bool) else str(each))
        for name, value in said.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    asked = SpoolQuery(wanted, after, 100, everything)
    assert parse_spool_query(pairs, ACTION_NAMES) == asked
    assert parse_spool_body(json.dumps(said).encode(), ACTION_NAMES) == asked


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.sampled_from(ACTION_NAMES), inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_understood_or_a_value_error(body: bytes) -> None:
    message = ""
    try:
        parse_spool_body(body, ACTION_NAMES)
    except ValueError as exc:
        message = str(exc)
    assert message.isprintable()


@pytest.mark.parametrize(
    ("query", "names", "message"),
    [
        ([("colour", "red")], LIST_NAMES, "unknown parameter 'colour'; known parameters: id, app, upstream, method, "),
        ([("limit", "1")], EXPORT_NAMES, "unknown parameter 'limit'"),
        ([("method", "m")], PAUSE_NAMES, "unknown parameter 'method'; known parameters: upstream, app"),
        ([("app", "a"), ("app", "b")], LIST_NAMES, "duplicate parameter app"),
        ([("app", "a" * 513)], LIST_NAMES, "app is longer than 512 characters"),
        ([("dead", "maybe")], LIST_NAMES, "dead must be 1 or 0, not 'maybe'"),
        ([("id", "-1")], LIST_NAMES, "id must be a whole number, not '-1'"),
        ([("id", "٣")], LIST_NAMES, "id must be a whole number"),
        ([("cursor", "x")], LIST_NAMES, "cursor must be a whole number, not 'x'"),
        ([("limit", "0")], LIST_NAMES, "limit must be a whole number from 1 to 1000, not '0'"),
        ([("limit", "1001")], LIST_NAMES, "limit must be a whole number from 1 to 1000, not '1001'"),
        ([("id", "1")] * 1001, LIST_NAMES, "at most 1000 ids at a time, not 1001"),
    ],
)
def test_a_mistake_is_said_in_plain_words(query: list[tuple[str, str]], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        parse_spool_query(query, names)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON"),
        (b"[" * 100_000, "the body is not valid JSON"),
        (b"[]", "the body must be a JSON object"),
        (b'{"app": {"a": 1}}', "'app' must be a text, a whole number, true or false"),
        (b'{"app": ["a"]}', "'app' must be a text"),
        (b'{"id": [1.5]}', "'id' must be a text, a whole number"),
    ],
)
def test_a_mistake_in_a_body_is_said_in_plain_words(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_spool_body(body, ACTION_NAMES)


def test_empty_fields_of_a_form_filter_nothing() -> None:
    assert parse_spool_query([("app", ""), ("dead", ""), ("limit", "")], LIST_NAMES) == SpoolQuery(EventFilter())


@pytest.mark.parametrize(
    ("query", "chooses"),
    [([], False), ([("dead", "0")], False), ([("dead", "1")], True), ([("app", "a")], True), ([("id", "0")], True)],
)
def test_waiting_ones_alone_are_no_choice(query: list[tuple[str, str]], chooses: bool) -> None:
    assert parse_spool_query(query, ACTION_NAMES).names_events is chooses
