"""The recorder: hooks are written by a thread, bounded in number and bytes, and never cost a hook anything."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from gateway.model.decision import Decision
from gateway.model.verdicts import (
    Fallback,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_reject,
    duplicate_ruling,
    fallback_ruling,
    static_ruling,
)
from gateway.recording import Recorder, RecordSettings
from gateway.recording import files as files_module
from gateway.recording import recorder as recorder_module
from gateway.recording.files import RecordFiles
from gateway.recording.format import decode_record, encode_record
from tests.recording.records import GIVEN_UP, KEY, TIMED_OUT, decision, hook_body, lines_of
from tests.support.gateways import wait_until


class Counts:
    """What a recorder counts."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def __call__(self, outcome: str, hooks: int) -> None:
        if hooks:
            self.of[outcome] += hooks

    def wait(self, total: int) -> Counter[str]:
        wait_until(lambda: self.of.total() >= total, GIVEN_UP)
        return self.of


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def recorder(counts: Counts) -> Iterator[Recorder]:
    made = Recorder(counts)
    yield made
    made.close()


def threads() -> int:
    return sum(thread.name == "recorder" for thread in threading.enumerate())


def test_hooks_are_written_by_a_thread_and_what_is_queued_at_the_end_too(
    recorder: Recorder, counts: Counts, tmp_path: Path
) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl"), key=KEY))
    for number in range(1000):
        recorder.record(decision(request_id=f"r{number}"))
    recorder.close(GIVEN_UP)
    assert [decode_record(line).request_id for line in lines_of(tmp_path / "hooks.jsonl")] == [
        f"r{n}" for n in range(1000)
    ]
    assert counts.of == {"written": 1000}


def test_where_nothing_is_recorded_there_is_no_thread_and_no_listener(counts: Counts, tmp_path: Path) -> None:
    told: list[Any] = []
    recorder = Recorder(counts, told.append)
    assert threads() == 0
    settings = RecordSettings(str(tmp_path / "hooks.jsonl"))
    recorder.configure(settings)
    recorder.configure(settings)
    assert threads() == 1
    recorder.configure(None)
    assert told == [recorder.record, None]
    assert wait_until(lambda: threads() == 0, GIVEN_UP) or threads() == 0
    recorder.record(decision())
    recorder.close()
    assert counts.of == {}
    assert list(tmp_path.iterdir()) == []


def test_a_reload_changes_everything_at_once_and_loses_nothing(
    recorder: Recorder, counts: Counts, tmp_path: Path
) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "one.jsonl"), key=KEY))
    recorder.record(decision(request_id="r1"))
    recorder.configure(RecordSettings(str(tmp_path / "two.jsonl"), mask=(), key=KEY))
    recorder.record(decision(request_id="r2"))
    recorder.close(GIVEN_UP)
    (one,), (two,) = (lines_of(tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    assert (decode_record(one).request_id, decode_record(one).masked) == ("r1", ("caller", "callee"))
    assert (decode_record(two).request_id, b"+4930123456" in two) == ("r2", True)
    assert counts.of == {"written": 2}


def test_of_a_session_all_hooks_are_in_or_none_in_every_process(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    for _ in range(2):  # as two workers would
        recorder.configure(RecordSettings(str(path), sample=0.3, key=KEY))
        for number in range(500):
            for method in ("connect", "OnCallEvent"):
                made = decision(hook_body(sessionId=f"/8.8.8.8:{number}/46.101.108.90:8443"), method_name=method)
                recorder.record(made)
        recorder.configure(None)
    recorder.close(GIVEN_UP)
    sessions = Counter(json.loads(bytes(decode_record(line).hook))["sessionId"] for line in lines_of(path))
    assert set(sessions.values()) == {4}
    assert 90 < len(sessions) < 210


FAILED: Final = fallback_ruling(TIMED_OUT, Fallback(), b"")


@pytest.mark.parametrize(
    ("ruling", "is_failure"),
    [
        (None, False),
        (backend_reject(), False),
        (static_ruling(Verdict.ALLOW, b"{}"), False),
        (Ruling(Verdict.REJECT, Source.RULE, Reason.DENIED, 403, error="rule spam"), False),
        (FAILED, True),
        (duplicate_ruling(FAILED), True),
        (Ruling(Verdict.REJECT, Source.GATEWAY, Reason.INTERNAL, 403, error="a defect"), True),
    ],
)
def test_failures_only_are_those_that_nobody_decided_as_meant(
    recorder: Recorder, counts: Counts, tmp_path: Path, ruling: Ruling | None, is_failure: bool
) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl"), failures_only=True))
    recorder.record(decision(ruling=ruling))
    recorder.close(GIVEN_UP)
    assert counts.of["written"] == int(is_failure)


def test_adversarial_what_was_refused_at_the_door_fills_no_file(
    recorder: Recorder, counts: Counts, tmp_path: Path
) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    stranger = Ruling(Verdict.ERROR, Source.GATEWAY, Reason.UNAUTHORIZED, 401, error="who are you?")
    recorder.record(decision(ruling=stranger))
    recorder.record(decision(ruling=Ruling(Verdict.REJECT, Source.GATEWAY, Reason.UNKNOWN_APP, 403, error="no app")))
    recorder.record(msgspec.structs.replace(decision(), hook=None, body=b"no hook"))
    recorder.close(GIVEN_UP)
    assert counts.of == {}


def test_a_hook_that_is_too_large_or_whose_body_was_not_kept_is_counted_as_dropped(
    recorder: Recorder, counts: Counts, tmp_path: Path
) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    recorder.record(decision())
    recorder.record(msgspec.structs.replace(decision(), body=b""))
    recorder.record(decision(hook_body(sdp="x" * 300_000)))
    recorder.close(GIVEN_UP)
    assert counts.of == {"written": 1, "dropped": 2}


def test_adversarial_a_disk_that_hangs_costs_hooks_nothing_but_the_recording(
    recorder: Recorder, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, goes_on = threading.Event(), threading.Event()
    append = RecordFiles.append

    def hang(self: RecordFiles, lines: list[bytes]) -> Any:
        hung.set()
        assert goes_on.wait(GIVEN_UP)
        return append(self, lines)

    monkeypatch.setattr(RecordFiles, "append", hang)
    monkeypatch.setattr(recorder_module, "MAX_QUEUE", 100)
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    recorder.record(decision())
    assert hung.wait(GIVEN_UP)
    for _ in range(150):
        recorder.record(decision())
    assert counts.of == {"dropped": 50}
    goes_on.set()
    recorder.close(GIVEN_UP)
    assert counts.of == {"dropped": 50, "written": 101}


def test_adversarial_large_hooks_are_bounded_in_bytes(
    recorder: Recorder, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(
        RecordFiles, "append", lambda self, lines: goes_on.wait(GIVEN_UP) and files_module.AppendResult(0, None)
    )
    monkeypatch.setattr(recorder_module, "MAX_QUEUED", 1_000_000)
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    big = decision(hook_body(sdp="x" * 200_000))
    for _ in range(20):
        recorder.record(big)
    assert counts.of["dropped"] >= 10
    goes_on.set()


def test_what_has_been_written_makes_room_again(
    recorder: Recorder, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_QUEUED", 20_000)
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    for total in range(1, 6):
        recorder.record(decision(hook_body(sdp="x" * 15_000)))
        assert counts.wait(total) == {"written": total}


def test_a_directory_that_is_missing_is_told_once_and_recording_goes_on_when_it_is_there(
    recorder: Recorder, counts: Counts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "later" / "hooks.jsonl"
    recorder.configure(RecordSettings(str(path)))
    for total in (1, 2, 3):
        recorder.record(decision())
        assert counts.wait(total) == {"dropped": total}
    path.parent.mkdir()
    recorder.record(decision())
    recorder.close(GIVEN_UP)
    assert counts.of == {"dropped": 3, "written": 1}
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "record: hooks are not recorded: No such file or directory"),
        ("INFO", "record: hooks are recorded again"),
    ]
    assert len(lines_of(path)) == 1


def test_a_defect_costs_one_line_and_no_more(
    recorder: Recorder, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(made: Decision, *rest: Any) -> bytes:
        if made.request_id == "bad":
            raise ZeroDivisionError
        return encode_record(made, *rest)

    monkeypatch.setattr(recorder_module, "encode_record", fail)
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    for request_id in ("good", "bad", "good"):
        recorder.record(decision(request_id=request_id))
    recorder.close(GIVEN_UP)
    assert counts.of == {"written": 2, "dropped": 1}


def test_without_a_thread_hooks_go_on_unrecorded(
    counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def deny(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", deny)
    told: list[Any] = []
    recorder = Recorder(counts, told.append)
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    assert told == [None]
    recorder.record(decision())
    assert "no thread is to be had" in caplog.text


def test_the_same_number_has_the_same_pseudonym_in_every_line_of_a_file(recorder: Recorder, tmp_path: Path) -> None:
    recorder.configure(RecordSettings(str(tmp_path / "hooks.jsonl")))
    for number in range(200):
        recorder.record(decision(hook_body(caller=f"+49301234{number % 7}", callee=f"sip:+49301234{number % 7}@h")))
    recorder.close(GIVEN_UP)
    hooks = [json.loads(bytes(decode_record(line).hook)) for line in lines_of(tmp_path / "hooks.jsonl")]
    assert len({hook["caller"] for hook in hooks}) == 7
    assert all(hook["callee"] == f"sip:{hook['caller']}@h" for hook in hooks)
