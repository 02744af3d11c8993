"""Lines of a recording: what they say of a hook, and that any other line is rejected with a reason."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.verdicts import (
    Annotations,
    backend_allow,
    backend_reject,
)
from gateway.recording import RecordError
from gateway.recording.format import decode_record, encode_record
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Pseudonyms
from tests.recording.records import KEY, RUN, WIRE, decision, hook_body, recorded


def test_a_line_tells_the_hook_and_its_decision() -> None:
    body = hook_body(sessionId="s1", caller="PPP009")
    line = encode_record(decision(body), Mask((), Pseudonyms(KEY)), RUN, ())
    assert json.loads(line) == {
        "v": 1, "run": RUN, "time": "2023-11-14T22:13:20.250Z", "request_id": "0123456789abcdef",
        "app": "defaultApp", "appKey": "defaultApp", "method": "OnCallEvent", "hook": json.loads(body),
        "verdict": "allow", "source": "backend", "reason": "ok", "error": "", "status": 200, "answer": "same",
        "upstream": "php", "target": "php:80", "duration_ms": 12.5, "upstream_ms": 11.0, "masked": [], "remarks": None,
    }  # fmt: skip


def test_an_answer_of_its_own_is_written_masked_by_the_same_pseudonyms() -> None:
    answer = {"callee": "+4930123456", "token": "S3cr3t", "x": 1}
    made = recorded(decision(ruling=backend_allow(json.dumps(answer).encode())))
    got = json.loads(made.answer_body or b"")
    assert got == {"callee": json.loads(bytes(made.hook))["caller"], "token": "***", "x": 1}


def test_a_refusal_has_no_answer_and_what_is_no_json_is_not_written() -> None:
    assert recorded(decision(ruling=backend_reject())).answer_body == b""
    polluted = recorded(decision(ruling=backend_allow(b"Notice: password=S3cr3t {}")))
    assert polluted.answer_body is None
    assert b"S3cr3t" not in msgspec.json.encode(polluted)


def test_annotations_are_written_without_what_was_cut_away() -> None:
    annotations = Annotations(rule="spam", repaired="bom+before", cut="Notice: caller +4930123456", ineffective=True)
    made = recorded(decision(ruling=backend_reject().annotate(**msgspec.structs.asdict(annotations))))
    assert msgspec.json.encode(made.annotations) == b'{"rule":"spam","repaired":"bom+before","ineffective":true}'


def test_the_real_method_is_written_not_its_label() -> None:
    assert recorded(decision(method="_other", method_name="OnNewThing")).method == "OnNewThing"


@pytest.mark.skipif(not WIRE.exists(), reason="the shared folder with the wire captures is not here")
def test_a_hook_from_the_wire_keeps_its_sdp() -> None:
    body = WIRE.read_bytes()
    made = json.loads(bytes(recorded(decision(body)).hook))
    sent = json.loads(body)
    assert {name for name in sent if made[name] != sent[name]} == {"caller", "callee"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "it is empty"),
        (b"{", "truncated"),
        (b"[]", "object"),
        (b'{"v":2}', "version 2"),
        (b'{"v":1}', "missing required field"),
        (b'{"v":"1"}', "v"),
        (b'{"v":1,"hook":' + b"[" * 100_000, "too deeply"),
    ],
)
def test_a_broken_line_is_told_in_words(line: bytes, why: str) -> None:
    with pytest.raises(RecordError, match=re.escape(why)):
        decode_record(line)


@pytest.mark.parametrize(
    "changes",
    [
        {"hook": [1]},
        {"answer": "other"},
        {"answer": 5},
        {"time": "yesterday"},
        {"time": "2023-11-14T22:13:20"},
        {"v": 1.5},
    ],
)
def test_a_line_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    line = json.loads(msgspec.json.encode(recorded(decision())))
    with pytest.raises(RecordError):
        decode_record(json.dumps({**line, **changes}).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_line_or_refused(line: bytes) -> None:
    with pytest.raises(RecordError):
        decode_record(line)
