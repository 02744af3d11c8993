"""Which hooks are traced, and which ids their spans have: W3C Trace Context."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.trace_context import Sampling, Trace
from gateway.upstreams.headers import RequestHead, hook_header_lines

TRACE_IDS = st.integers(1, (1 << 128) - 1).map(lambda number: b"%032x" % number)
SPANS = st.integers(1 << 63, (1 << 64) - 1)
SENDERS = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-%b"
valid = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01").fullmatch


@given(TRACE_IDS, SPANS, st.integers(1, 20))
def test_an_attempt_tells_the_backend_a_valid_traceparent_with_its_own_id(
    trace_id: bytes, span: int, number: int
) -> None:
    trace = Trace(trace_id, b"", span)
    told = trace.traceparent(number)
    assert valid(told)
    assert told.split(b"-")[1:3] == [trace_id, b"%016x" % trace.attempt(number)]


@given(SPANS)
def test_the_spans_of_a_hook_have_different_ids_and_none_is_zero(span: int) -> None:
    trace = Trace(b"1" * 32, b"", span)
    numbers = range(1, 21)
    ids = [trace.span, *map(trace.attempt, numbers), *map(trace.queue, numbers)]
    assert len(set(ids)) == len(ids)
    assert all(0 < id_ < 1 << 64 for id_ in ids)


@given(SPANS, st.integers(1, 20), st.integers(1, 20))
def test_a_later_request_changes_nothing_of_the_head_but_the_parent(span: int, before: int, number: int) -> None:
    trace = Trace(b"1" * 32, b"", span)
    head = b"x-a: 1\r\ntraceparent: %b\r\nx-b: 2\r\n"
    assert trace.renumber(head % trace.traceparent(before), before, number) == head % trace.traceparent(number)


@pytest.mark.parametrize(("flags", "traced"), [(b"00", False), (b"01", True), (b"02", False), (b"03", True)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_sender_s_decision_holds_whatever_the_ratio(flags: bytes, traced: bool, ratio: float) -> None:
    trace = Sampling(ratio).trace(SENDERS % flags, begins=False)
    assert (trace is not None) is traced


def test_the_sender_s_trace_is_gone_on_with() -> None:
    trace = Sampling(0.0).trace(SENDERS % b"01", begins=False)
    assert trace is not None
    assert trace.trace_id == b"4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace.parent == b"00f067aa0ba902b7"


def test_a_trace_that_begins_here_has_no_parent_and_chance_decides_of_it() -> None:
    counts = {}
    for ratio in (0.0, 0.25, 1.0):
        traces = [Sampling(ratio).trace(RequestHead(()).identity().traceparent, begins=True) for _ in range(4000)]
        found = [trace for trace in traces if trace is not None]
        assert {trace.parent for trace in found} <= {b""}
        counts[ratio] = len(found)
    assert counts[0.0] == 0
    assert counts[1.0] == 4000
    assert 800 < counts[0.25] < 1200  # seven standard deviations


def test_the_header_line_of_a_traced_hook_is_the_first_request_s() -> None:
    received = RequestHead(((b"x-request-id", b"r"),))
    identity = received.identity()
    trace = Sampling(1.0).trace(identity.traceparent, begins=True)
    assert trace is not None
    assert identity.traceparent.split(b"-")[1] == trace.trace_id
    assert hook_header_lines(identity).count(identity.traceparent) == 1
