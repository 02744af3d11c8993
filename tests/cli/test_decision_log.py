"""``gateway decisions --from-log``: the log says the same as the admin port, also of damaged and compressed logs."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import lzma
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.decision_log import MAX_LINE, LogUnreadable, decision_view, search_logs
from gateway.cli.render_decisions import csv_row
from gateway.model.decision import Decision
from gateway.model.text import timestamp
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter
from tests.cli.commands import gateway
from tests.telemetry.log.lines import Sink
from tests.telemetry.test_journal import RULINGS, decision

NOW = 1_700_000_000.0
WANTED = DecisionFilter()


def log_of(decisions: list[Decision], path: Path, mask: tuple[str, ...] = ()) -> Path:
    """The log that the gateway writes of these."""

    async def write() -> None:
        sink = Sink(path)
        access = AccessLog(sink.writer)
        access.configure(access="all", console=False, mask=mask)
        for each in decisions:
            access.record(each)
        access.flush()
        sink.writer.close(20.0)
        assert sink.dropped == 0

    asyncio.run(write())
    return path


def line(request_id: str = "r", at: float = NOW, **fields: Any) -> bytes:
    known = {"ts": timestamp(at), "request_id": request_id, "verdict": "allow", "source": "backend", "reason": "ok"}
    return json.dumps({**known, "app": "a", "method": "m", "status": 200, **fields}).encode() + b"\n"


def ids(path: Path | str, wanted: DecisionFilter = WANTED, limit: int = 100) -> list[str]:
    return [each.request_id for each in search_logs([str(path)], wanted, limit).decisions]


words = st.sampled_from(["a", "b", "+4930123456", "4000", "é\\n", "=1+1"])
hooks = st.fixed_dictionaries({}, optional=dict.fromkeys(("callId", "sessionId", "nodeId", "caller", "callee"), words))
made = st.lists(
    st.builds(
        lambda ruling, fields, app, target, number: (ruling, fields, {"app": app, "target": target, "number": number}),
        st.sampled_from(RULINGS),
        hooks,
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, "t:80"]),
        st.integers(0, 5000),
    ),
    max_size=12,
    unique_by=lambda each: each[2]["number"],
)
wanted_filters = st.builds(
    DecisionFilter,
    app=st.none() | st.just("a"),
    method=st.none() | st.just("OnCallEvent"),
    verdict=st.none() | st.sampled_from(["allow", "reject"]),
    source=st.none() | st.sampled_from(["backend", "fallback"]),
    reason=st.none() | st.sampled_from(["ok", "timeout"]),
    call_id=st.none() | words,
    session_id=st.none() | words,
    target=st.none() | st.just("t:80"),
    caller=st.none() | st.sampled_from(["0049 30 123456", "4000"]),
    q=st.none() | st.sampled_from(["A", "30123", "4000", "no answer", "r1"]),
    since=st.none() | st.integers(0, 5000).map(lambda ms: NOW + ms / 1000),
    until=st.none() | st.integers(0, 5000).map(lambda ms: NOW + ms / 1000),
    rule=st.none() | st.just("night"),
    failures=st.booleans(),
    ineffective=st.booleans(),
    repaired=st.booleans(),
)


@given(made, wanted_filters, st.integers(1, 12))
def test_it_finds_and_shows_what_the_admin_port_does(world: list[Any], wanted: DecisionFilter, limit: int) -> None:
    decisions = [
        decision(ruling, fields, time=NOW + more["number"] / 1000 + 0.0004, request_id=f"r{more['number']}",
                 app=more["app"], target=more["target"])
        for ruling, fields, more in world
    ]  # fmt: skip
    formatter = DecisionFormatter(0)
    matching = sorted(
        (each for each in decisions if formatter.matches(each, wanted)), key=lambda each: each.time, reverse=True
    )
    with tempfile.TemporaryDirectory() as directory:
        path = log_of(decisions, Path(directory) / "log")
        found = search_logs([str(path)], wanted, limit)
    shown = [msgspec.to_builtins(decision_view(each)) for each in found.decisions]
    views = [msgspec.to_builtins(formatter.format(each)) for each in matching[:limit]]
    assert [csv_row(each) for each in shown] == [csv_row(each) for each in views]
    assert [each["means"] for each in shown] == [each["means"] for each in views]
    assert (found.matched, found.read, found.bad) == (len(matching), len(decisions), 0)


# --- logs as they are found ---


def test_other_lines_are_passed_over_and_bad_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    other = b'{"ts": "2026-01-01T00:00:00.000Z", "level": "info", "message": "ready"}\n'
    bad = [b"Traceback (most recent call last):\n", b"[1]\n", b"\xff\n", line(status="x"), line(ts="yesterday")]
    path.write_bytes(b"".join([other, line("a"), b"\n", *bad, b"x" * (MAX_LINE + 1) + b"\n", line("b", NOW + 1)[:-1]]))
    found = search_logs([str(path)], WANTED, 10)
    assert [each.request_id for each in found.decisions] == ["b", "a"]
    assert (found.read, found.bad) == (2, len(bad) + 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_whatever_their_names(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "log").write_bytes(pack(line("a")))
    assert ids(tmp_path / "log") == ["a"]


def test_a_compressed_file_that_ends_too_early_shows_what_it_has(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(line(str(number), NOW + number, error=f"{number}" * 50) for number in range(9000)))
    (tmp_path / "log.gz").write_bytes(data[: len(data) // 2])
    found = search_logs([str(tmp_path / "log.gz")], WANTED, 10)
    assert len(found.decisions) == 10
    assert found.cut == [str(tmp_path / "log.gz")]


def test_rotated_files_are_one_log_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line("new", NOW + 2))
    (tmp_path / "log.1.gz").write_bytes(gzip.compress(line("old", NOW) + line("middle", NOW + 1)))
    for names in (["log", "log.1.gz"], ["log.1.gz", "log"]):
        found = search_logs([str(tmp_path / name) for name in names], WANTED, 2)
        assert [each.request_id for each in found.decisions] == ["new", "middle"]
        assert (found.matched, found.read) == (3, 3)


def test_memory_is_flat(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        for number in range(15_000):
            log.write(line(str(number), NOW + number, error="x" * 300))
    assert path.stat().st_size > 6_000_000
    tracemalloc.start()
    try:
        assert ids(path, limit=3) == ["14999", "14998", "14997"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfdxx"), "is compressed with zstd; unpack it"),
        (lambda path: path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 99), "log: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "log")
    with pytest.raises(LogUnreadable, match=message) as caught:
        search_logs([str(tmp_path / "log")], WANTED, 1)
    assert str(tmp_path / "log") in str(caught.value)


def test_masked_numbers_are_noticed(tmp_path: Path) -> None:
    path = log_of([decision(fields={"caller": "+4930123456"})], tmp_path / "log", ("caller",))
    found = search_logs([str(path)], DecisionFilter(caller="+4930123456"), 1)
    assert (found.decisions, found.hides_numbers) == ([], True)


# --- the command ---


def test_the_command_reads_standard_input_and_prints_the_newest_last(tmp_path: Path) -> None:
    log = line("one") + line("two", NOW + 1, verdict="reject")
    run = gateway("decisions", "--from-log", "-", stdin=log)
    assert (run.status, run.err) == (0, "")
    assert [text.partition("id=")[2].split()[0] for text in run.out.splitlines()] == ["one", "two"]
    assert "id=one" not in gateway("decisions", "--from-log", "-", "--verdict", "reject", stdin=log).out


def test_the_command_prints_json_and_csv(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line("one", call_id='=cmd|"x"', caller="+4930123456"))
    as_json = gateway("decisions", "--from-log", tmp_path / "log", "--json")
    assert json.loads(as_json.out)["request_id"] == "one"
    head, row = gateway("decisions", "--from-log", tmp_path / "log", "--csv").out.splitlines()
    assert head.startswith("time,request_id,app,method,")
    assert row.startswith('2023-11-14T22:13:20.000Z,one,a,m,,,"\'=cmd|""x""",+4930123456,')


def test_one_decision_of_the_log_in_full(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line("one") + line("two", call_id="c-2"))
    run = gateway("decisions", "two", "--from-log", tmp_path / "log")
    assert run.status == 0
    assert "call id     c-2" in run.out
    missing = gateway("decisions", "three", "--from-log", tmp_path / "log")
    assert missing.status == 1
    assert missing.err.startswith("gateway: request three is not in the log; the log has 2 decisions, from ")


def test_where_nothing_matches_it_says_what_the_log_has(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line("one", caller="*********56") + b"not json\n")
    run = gateway("decisions", "--from-log", tmp_path / "log", "--caller", "+4930123456")
    assert (run.status, run.out) == (0, "")
    assert "1 line skipped: not JSON, or damaged" in run.err
    assert "no decision matches; the log has 1 decision, from 2023-11-1" in run.err
    assert "the log has masked numbers" in run.err
    (tmp_path / "empty").write_bytes(b"")
    assert "the log has no decisions" in gateway("decisions", "--from-log", tmp_path / "empty").err


def test_globs_choose_files_and_more_matches_than_shown_are_said(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_bytes(line("one"))
    (tmp_path / "log.2").write_bytes(line("two", NOW + 1))
    run = gateway("decisions", "--from-log", tmp_path / "log.*", "-n", "1")
    assert "id=two" in run.out
    assert "2 decisions match: these are the newest 1; use --limit" in run.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from-log", "missing.log"], "missing.log: no such file or directory"),
        (["--from-log", "-", "--shadow", "differs"], "--shadow: the log has no results of shadow copies"),
        (["--from-log", "-", "--follow"], "--follow cannot be combined with --from-log"),
        (["--from-log", "-", "--since", "soon"], "since must be a time such as"),
        (["--from-log", "-", "--caller", "sip:"], "caller must be a whole number"),
        (["--from-log", "-", "--json", "--csv"], "use either --json or --csv, not both"),
    ],
)
def test_mistakes_are_wrong_usage(options: list[str], message: str) -> None:
    run = gateway("decisions", *options)
    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"gateway: {message}")
