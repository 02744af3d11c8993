"""Access lines: one hook, one line, with any content."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import Decision, is_failure
from gateway.model.text import MAX_TEXT, mask_number, printable, shorten, timestamp
from gateway.model.verdicts import (
    Cause,
    Fallback,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_allow,
    backend_reject,
    fallback_ruling,
    static_ruling,
)
from gateway.proxy.refusals import problem, unknown_app_answer
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log import PIPE_ATOMIC
from tests.telemetry.log.lines import (
    HOSTILE,
    NAUGHTY,
    NUMBER_FIELDS,
    TEXT_FIELDS,
    TIMED_OUT,
    Sink,
    decision,
    naughty_strings,
)

CONTRACT_FIELDS = (
    "ts request_id client node_id app method session_id call_id verdict source reason error status upstream target "
    "attempts budget_ms duration_ms upstream_ms"
).split()
ANNOTATIONS: dict[str, Any] = {
    "rule": "spam",
    "repaired": "before",
    "client_config": "enforced",
    "ineffective": True,
    "failed_over_from": "old",
}
"""Fields that only some lines have."""


async def record(
    sink: Sink, *decisions: Decision, access: str = "all", console: bool = False, mask: tuple[str, ...] = ()
) -> list[bytes]:
    log = AccessLog(sink.writer)
    log.configure(access=access, console=console, mask=mask)
    for one in decisions:
        log.record(one)
    log.flush()
    return sink.lines()


async def line_of(sink: Sink, one: Decision, **options: Any) -> dict[str, Any]:
    (line,) = await record(sink, one, **options)
    read: dict[str, Any] = json.loads(line)
    return read


async def test_an_access_line_has_the_contract_s_fields_and_the_two_numbers_and_no_others(sink: Sink) -> None:
    assert set(await line_of(sink, decision())) == {*CONTRACT_FIELDS, "caller", "callee"}


async def test_an_access_line_says_what_the_decision_says(sink: Sink) -> None:
    body = {"appKey": "k", "nodeId": "n", "sessionId": "s", "callId": "c", "caller": "100", "callee": 200}
    assert await line_of(sink, decision(fallback_ruling(TIMED_OUT, Fallback(), b""), body)) == {
        "ts": "2023-11-14T22:13:20.123Z",
        "request_id": "id-1",
        "client": None,
        "node_id": "n",
        "app": "a",
        "method": "OnCallEvent",
        "session_id": "s",
        "call_id": "c",
        "caller": "100",
        "callee": "200",
        "verdict": "reject",
        "source": "fallback",
        "reason": "timeout",
        "error": "no answer within 1.5 s",
        "status": 403,
        "upstream": "u",
        "target": "http://t/",
        "attempts": 2,
        "budget_ms": 1500.0,
        "duration_ms": 20.5,
        "upstream_ms": 10.0,
    }


async def test_what_few_hooks_have_stands_only_on_lines_that_have_it(sink: Sink) -> None:
    cut = "\ufeff<br />Notice: SECRET-NOTICE"
    ruling = backend_allow(b"{}").annotate(rule="night", repaired="bom+before", cut=cut, client_config="missing")
    line = await line_of(sink, decision(ruling.annotate(ineffective=True, failed_over_from="old")))
    more = {name: line[name] for name in ANNOTATIONS}
    assert more == {
        "rule": "night",
        "repaired": "bom+before",
        "client_config": "missing",
        "ineffective": True,
        "failed_over_from": "old",
    }
    assert set(line) == {*CONTRACT_FIELDS, "caller", "callee", *ANNOTATIONS}
    assert list(line)[: len(CONTRACT_FIELDS) + 2] == list(line)[: -len(ANNOTATIONS)]


@pytest.mark.parametrize("name", ANNOTATIONS)
async def test_a_line_has_no_annotation_but_its_own(sink: Sink, name: str) -> None:
    line = await line_of(sink, decision(backend_reject().annotate(**{name: ANNOTATIONS[name]})))
    assert {key for key in line if key in ANNOTATIONS} == {name}
    assert line[name] == ANNOTATIONS[name]


async def test_a_line_shows_its_client_without_the_port_and_for_people_where_something_was_wrong(sink: Sink) -> None:
    client = ("2001:db8::7", 50000)
    assert (await line_of(sink, decision(client=client)))["client"] == "2001:db8::7"
    rulings = [backend_reject(), fallback_ruling(TIMED_OUT, Fallback(), b"")]
    people = Sink(sink.path.with_suffix(".people"))
    right, wrong = await record(people, *(decision(ruling, client=client) for ruling in rulings), console=True)
    assert b"2001:db8::7" not in right
    assert b" from=2001:db8::7: no answer within 1.5 s" in wrong


async def test_a_connect_answer_that_is_as_wanted_is_not_worth_a_word(sink: Sink) -> None:
    line = await line_of(sink, decision(backend_allow(b"{}").annotate(client_config="ok")))
    assert set(line) == {*CONTRACT_FIELDS, "caller", "callee"}


async def test_a_line_for_people_has_the_annotations_too(sink: Sink) -> None:
    ruling = backend_reject().annotate(rule="sp\x1b[2Jam", repaired="after", ineffective=True, failed_over_from="old")
    (line,) = await record(sink, decision(ruling), console=True)
    assert rb" rule=sp\x1b[2Jam repaired=after failed_over_from=old ineffective" in line


async def test_adversarial_annotations_do_not_make_a_line_too_long_for_a_pipe(sink: Sink) -> None:
    long = "\x00" * 5000
    ruling = fallback_ruling(TIMED_OUT._replace(detail=long), Fallback(), b"")
    hook = {"appKey": "a", "callId": long, "sessionId": long, "caller": long, "callee": long, "nodeId": long}
    names = ",".join(f"field{number:03d}" for number in range(32))
    annotations = {"changed_fields": names, "ignored_fields": names, "excluded": tuple(names.split(","))}
    ruling = ruling.annotate(rule=long, failed_over_from=long, failover_cause="error_status", cut=long, **annotations)
    client = ("fe80:ffff:ffff:ffff:ffff:ffff:ffff:ffff%interface-of-15", 50000)
    (line,) = await record(sink, decision(ruling, hook, client=client))
    assert len(line) < PIPE_ATOMIC
    json.loads(line)


@pytest.mark.parametrize("body", [b"", b"not JSON", b'{"appKey": "a", "appKey": "b", "callId": "c"}', b"\xff"])
async def test_a_hook_that_could_not_be_read_still_gets_its_line(sink: Sink, body: bytes) -> None:
    line = await line_of(sink, decision(problem(400, "why"), body, budget=None, upstream=None, target=None))
    told = {name: line[name] for name in ("node_id", "call_id", "caller", "budget_ms", "upstream", "target")}
    assert told == dict.fromkeys(told)
    assert (line["status"], line["error"]) == (400, "why")


@pytest.mark.parametrize(
    ("number", "shown"),
    [("+4930123456", "*********56"), ("12345", "***45"), ("1234", "****"), ("1", "*"), ("", ""), (4930123, "*****23")],
)
async def test_masked_numbers_show_their_last_two_characters_at_most(sink: Sink, number: str | int, shown: str) -> None:
    body = {"appKey": "a", "caller": number, "callee": number}
    line = await line_of(sink, decision(body=body), mask=("caller",))
    assert (line["caller"], line["callee"]) == (shown, str(number))


def said(value: object, longest: int) -> str | None:
    """What a line says of a hook's field with this value."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.booleans(),
    st.text(max_size=300),
    st.text("+0123456789", max_size=70),
    st.lists(st.integers(0, 9), max_size=100),
)


@given(
    hook=st.fixed_dictionaries({}, optional=dict.fromkeys((*TEXT_FIELDS, *NUMBER_FIELDS), VALUES)),
    ascii_only=st.booleans(),
    masked_fields=st.sets(st.sampled_from(NUMBER_FIELDS)),
    app=st.text(min_size=1),
    seconds=st.floats(0, 20),
    budget=st.one_of(st.none(), st.floats(0.001, 600)),
)
async def test_a_line_says_of_a_hook_what_its_body_says(
    hook: dict[str, Any], ascii_only: bool, masked_fields: set[str], app: str, seconds: float, budget: float | None
) -> None:
    try:
        body = json.dumps({"appKey": "a", **hook}, ensure_ascii=ascii_only).encode()
        app.encode()
    except UnicodeEncodeError:
        return
    one = decision(body=body, app=app, duration=seconds, upstream_duration=seconds / 2, budget=budget)
    if one.hook is None:  # half of a surrogate pair as an escape
        return
    with tempfile.TemporaryDirectory() as directory:
        sink = Sink(Path(directory) / "log")
        line = await line_of(sink, one, mask=tuple(masked_fields))
        os.close(sink.fd)
    assert line["app"] == app
    for name, key in TEXT_FIELDS.items():
        assert line[key] == said(hook.get(name), 256)
    for name in NUMBER_FIELDS:
        number = said(hook.get(name), 64)
        assert line[name] == (mask_number(number) if name in masked_fields and number is not None else number)
    assert line["duration_ms"] == pytest.approx(seconds * 1000, abs=0.001)
    assert line["upstream_ms"] == pytest.approx(seconds * 500, abs=0.001)
    assert line["budget_ms"] == (None if budget is None else pytest.approx(budget * 1000, abs=0.001))


@given(st.text())
def test_masking_keeps_the_length_and_hides_all_but_the_end(number: str) -> None:
    hidden = mask_number(number)
    assert len(hidden) == len(number)
    shown = 2 if len(number) > 4 else 0
    assert hidden[: len(number) - shown] == "*" * (len(number) - shown)
    assert hidden[len(number) - shown :] == number[len(number) - shown :]


async def test_no_body_and_no_secret_comes_into_a_line(sink: Sink) -> None:
    body = {"appKey": "a", "sdp": "SECRET-SDP", "password": "SECRET-PW", "custom": {"token": "SECRET-TOKEN"}}
    echoed = fallback_ruling(TIMED_OUT, Fallback(frozenset(Cause)), json.dumps(body).encode())
    rulings = [backend_allow(b'{"x": "SECRET-ANSWER"}'), echoed, static_ruling(Verdict.ALLOW, echoed.body)]
    for console in (False, True):
        sink_of_kind = Sink(sink.path.with_suffix(f".{console}"))
        written = await record(sink_of_kind, *(decision(ruling, body) for ruling in rulings), console=console)
        os.close(sink_of_kind.fd)
        assert len(written) == 3
        assert b"SECRET" not in b"\n".join(written)


def hook_with(text: str) -> dict[str, str]:
    return {"appKey": "a", **dict.fromkeys((*TEXT_FIELDS, *NUMBER_FIELDS), text)}


def decisions_about(text: str) -> list[Decision]:
    """The text in every field that a caller or backend can bring into a line."""
    return [
        decision(body=hook_with(text)),
        decision(unknown_app_answer(text), {**hook_with(text), "appKey": text}),
        decision(fallback_ruling(TIMED_OUT._replace(detail=text), Fallback(), b""), hook_with(text)),
    ]


@pytest.mark.skipif(not NAUGHTY.exists(), reason="the shared folder with the naughty strings is absent")
async def test_naughty_strings_make_one_valid_line_each_and_come_through_bounded(sink: Sink) -> None:
    await assert_one_valid_line_each(sink, naughty_strings())


async def test_hostile_strings_make_one_valid_line_each_and_come_through_bounded(sink: Sink) -> None:
    await assert_one_valid_line_each(sink, HOSTILE)


async def assert_one_valid_line_each(sink: Sink, strings: list[str]) -> None:
    written = await record(sink, *(one for text in strings for one in decisions_about(text)))
    assert len(written) == 3 * len(strings)
    for text, line in zip(strings, written[::3], strict=True):
        assert_bounded(line, 256, text, {*TEXT_FIELDS.values()})
        for name in NUMBER_FIELDS:
            assert json.loads(line)[name] == shorten(text, 64)
    for text, line in zip(strings, written[2::3], strict=True):
        assert_bounded(line, MAX_TEXT, text, {"error"})
    # Written with its line feed in one piece, it cannot mix with another process's.
    assert max(map(len, written)) < PIPE_ATOMIC


def assert_bounded(line: bytes, longest: int, text: str, names: set[str]) -> None:
    """The fields hold the text up to its bound, or a fifth of that where the line were else too long for a pipe."""
    read = json.loads(line)
    whole = {**read, **dict.fromkeys(names, shorten(text, longest))}
    if "error" in names:
        whole.update({name: shorten(text, longest // 2) for name in TEXT_FIELDS.values()})
    if len(msgspec.json.encode(whole)) >= PIPE_ATOMIC:
        longest //= 5
    assert {read[name] for name in names} == {shorten(text, longest)}


async def test_hostile_strings_make_one_printable_console_line_each(sink: Sink) -> None:
    strings = naughty_strings()
    written = await record(sink, *(one for text in strings for one in decisions_about(text)), console=True)
    assert len(written) == 3 * len(strings)
    for line in written:
        assert line.decode("utf-8").isprintable()
    assert max(map(len, written)) < 16 * 1024


@given(st.text(st.characters(exclude_categories=[])))
def test_printable_text_is_printable_and_stays_as_it_is_where_it_was_so(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) is text.isprintable()


@given(st.text(max_size=1000), st.integers(1, 600))
def test_bounded_text_is_cut_at_its_limit_and_says_so(text: str, limit: int) -> None:
    cut = shorten(text, limit)
    assert len(cut) <= limit
    assert cut == text if len(text) <= limit else cut == text[: limit - 1] + "…"
    assert len(shorten("x" * 10_000)) == MAX_TEXT


@given(st.floats(0, 4e9))
def test_a_timestamp_reads_back_as_the_same_millisecond(seconds: float) -> None:
    shown = timestamp(seconds)
    assert shown.endswith("Z")
    assert abs(datetime.fromisoformat(shown).timestamp() - seconds) <= 0.001
    assert datetime.fromisoformat(shown).tzinfo == UTC


# --- which hooks get a line ---

AS_MEANT = [
    backend_allow(b"{}"),
    backend_reject(),
    static_ruling(Verdict.ALLOW, b"{}"),
    static_ruling(Verdict.REJECT, b"{}"),
    Ruling(Verdict.REJECT, Source.RULE, Reason.DENIED, 403).annotate(rule="spam"),
    backend_allow(b"{}").annotate(failed_over_from="old"),
    backend_allow(b"{}").annotate(client_config="missing"),
]
FAILURES = [
    backend_reject().annotate(ineffective=True),
    backend_allow(b"{}").annotate(repaired="bom"),
    fallback_ruling(TIMED_OUT, Fallback(), b"{}"),
    fallback_ruling(TIMED_OUT, Fallback(frozenset(Cause)), b"{}"),
    unknown_app_answer("x"),
    problem(400, "no"),
    problem(413, "no"),
]


@pytest.mark.parametrize("access", ["all", "failures", "off"])
async def test_failures_are_what_nobody_meant_and_off_is_off(sink: Sink, access: str) -> None:
    rulings = AS_MEANT + FAILURES
    written = await record(sink, *(decision(ruling) for ruling in rulings), access=access)
    expected = {"all": len(rulings), "failures": len(FAILURES), "off": 0}[access]
    assert len(written) == expected
    assert [is_failure(decision(ruling)) for ruling in rulings] == [ruling in FAILURES for ruling in rulings]


async def test_lines_come_without_anybody_s_flush_in_the_order_of_the_hooks(sink: Sink) -> None:
    log = AccessLog(sink.writer)
    for number in range(100):
        log.record(decision(request_id=f"id-{number}"))
    for _ in range(500):
        if sink.path.stat().st_size:
            break
        await asyncio.sleep(0.02)
    assert [json.loads(line)["request_id"] for line in sink.lines()] == [f"id-{number}" for number in range(100)]


async def test_a_line_that_cannot_be_made_is_counted_and_keeps_no_other_back(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(sink.writer)
    for request_id, duration in (("id-1", 0.1), ("id-2", float("nan")), ("id-3", 0.1)):
        log.record(decision(request_id=request_id, duration=duration))
    log.flush()
    log.flush()
    assert [json.loads(line)["request_id"] for line in sink.lines()] == ["id-1", "id-3"]
    assert sink.dropped == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
