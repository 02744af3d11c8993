"""Recordings: what is written of a hook and what never is, pseudonyms, bounded files, several writers, full disks."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import re
import resource
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import loads
from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import (
    Annotations,
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_allow,
    backend_reject,
    duplicate_ruling,
    fallback_ruling,
    static_ruling,
)
from gateway.recording import Record, Recorder, RecordError, RecordSettings
from gateway.recording import files as files_module
from gateway.recording import masking as masking_module
from gateway.recording import recorder as recorder_module
from gateway.recording.files import RecordFiles
from gateway.recording.format import read, written
from gateway.recording.masking import Mask, is_secret
from gateway.recording.pseudonyms import Key, Pseudonyms
from tests.support.gateways import ROOT, wait_until

KEY: Final = Key(b"k" * 32)
OTHER_KEY: Final = Key(b"o" * 32)
RUN: Final = KEY.run
TIMED_OUT: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer within 1.5 s")
WIRE: Final = ROOT.parent / "shared" / "wire" / "OnCallEvent-sdp.json"
GIVEN_UP: Final = 10.0


def hook_body(**fields: Any) -> bytes:
    return json.dumps({"appKey": "defaultApp", **fields}).encode()


def decision(body: bytes | None = None, ruling: Ruling | None = None, **changes: Any) -> Decision:
    body = hook_body(sessionId="s1", caller="+4930123456") if body is None else body
    ruling = backend_allow(body) if ruling is None else ruling
    made = Decision(
        ruling, 1_700_000_000.25, "0123456789abcdef", "defaultApp", "OnCallEvent", 1.5, 0.0125, "php", "php:80", 1,
        0.011, parse_hook(body), body=body, method_name="OnCallEvent", size=len(body),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def recorded(made: Decision, mask: tuple[str, ...] = ("caller", "callee"), key: Key = KEY) -> Record:
    line = written(made, Mask(mask, Pseudonyms(key)), key.run, mask)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return read(line)


def masked(document: Any, mask: tuple[str, ...] = ("caller", "callee")) -> Any:
    return json.loads(Mask(mask, Pseudonyms(KEY)).masked(json.dumps(document).encode()))


# --- pseudonyms ---

numbers = st.from_regex(r"(\+|00|0)?[1-9][0-9]{5,14}", fullmatch=True)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)


@given(names | numbers)
def test_a_pseudonym_is_the_same_every_time_and_has_the_same_length_and_shape(text: str) -> None:
    made = Pseudonyms(KEY).of(text)
    assert made == Pseudonyms(Key(b"k" * 32)).of(text)
    assert len(made) == len(text)
    assert re.sub("[0-9]", "0", made).count("0") == re.sub("[0-9]", "0", text).count("0")
    assert [c.isalnum() for c in made] == [c.isalnum() for c in text]


@given(st.lists(numbers, unique=True, min_size=2, max_size=40))
def test_different_numbers_never_become_one(written: list[str]) -> None:
    pseudonyms = Pseudonyms(KEY)
    assert len({pseudonyms.of(number) for number in written}) == len(written)


def test_all_extensions_of_three_digits_stay_apart() -> None:
    pseudonyms = Pseudonyms(KEY)
    made = [pseudonyms.of(f"{number:03}") for number in range(1000)]
    assert len(set(made)) == 1000


@given(st.from_regex(r"\+?[1-9][0-9]{13,14}", fullmatch=True) | st.from_regex(r"[a-z]{12,20}[0-9]{3}", fullmatch=True))
def test_another_run_has_other_pseudonyms(text: str) -> None:
    assert len({text, Pseudonyms(KEY).of(text), Pseudonyms(OTHER_KEY).of(text)}) == 3


@pytest.mark.parametrize(
    ("number", "begins"),
    [
        ("+4930123456", "+49"), ("+12125551234", "+1"), ("+35840123456", "+358"), ("004930123456", "0049"),
        ("030123456", "0"), ("sip:+4930123456@h", "sip:+49"), ("tel:+7495123456", "tel:+7"),
    ],
)  # fmt: skip
def test_a_number_plan_s_prefixes_stay(number: str, begins: str) -> None:
    made = Pseudonyms(KEY).of(number)
    assert made.startswith(begins)
    assert made != number


@pytest.mark.parametrize("number", ["110", "112", "911", "999"])
def test_emergency_numbers_stay(number: str) -> None:
    assert Pseudonyms(KEY).of(number) == number


def test_a_number_is_the_same_however_it_is_written() -> None:
    of = Pseudonyms(KEY).of
    digits = [
        re.sub(r"\D", "", of(number)).removeprefix("0049").removeprefix("49").removeprefix("0")
        for number in ("+4930123456", "+49 (0)30 12 34-56", "004930123456", "030123456", "<sip:+4930123456@h>")
    ]
    assert len(set(digits)) == 1


def test_a_sip_address_keeps_its_scheme_and_domain() -> None:
    made = Pseudonyms(KEY).of('"Alice Smith" <sip:alice99@pbx.example.com:5060;user=phone>')
    assert re.fullmatch(r'"[A-Z][a-z]{4} [A-Z][a-z]{4}" <sip:[a-z]{5}\d\d@pbx.example.com:5060;user=phone>', made)
    assert "lice" not in made
    assert "mith" not in made


def test_adversarial_a_number_in_the_place_of_a_domain_does_not_stay() -> None:
    of = Pseudonyms(KEY).of
    assert "123456" not in of("x@4930123456")
    assert "123456" not in of("x@4930123456.example.com")


def test_a_text_too_long_for_a_number_or_a_name_gets_a_name_of_its_own() -> None:
    of = Pseudonyms(KEY).of
    assert len({of("v=0 " * 1000), of("v=0 " * 1001)}) == 2
    assert of("v=0 " * 1000) == of("v=0 " * 1000)
    assert re.fullmatch("masked-[0-9a-f]{32}", of("v=0 " * 1000))


@pytest.mark.parametrize("text", ["1 ", "1", "x@", "@", "sip:", "+", "a1", "\u00fc", "@1234567"])
def test_adversarial_a_text_of_beginnings_of_numbers_has_its_pseudonym_in_the_end(text: str) -> None:
    made = Pseudonyms(KEY).of(text * (256 // len(text)))
    assert len(made) == 256 // len(text) * len(text)
    assert len(Pseudonyms(KEY).of(text * 500_000)) < 50


def test_a_key_never_shows_itself_and_travels_with_the_configuration() -> None:
    settings = RecordSettings("/x", key=KEY)
    assert "kkkk" not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_configuration_is_written_without_the_key(tmp_path: Path) -> None:
    config = loads(f"apps: {{a: {{static: allow}}}}\nrecord: {{path: {tmp_path}/hooks.jsonl}}", "gateway.yaml").config
    assert config.record is not None
    assert set(json.loads(config.model_dump_json())["record"]) == set(RecordSettings._fields) - {"key"}


# --- masking ---

SECRET_NAMES: Final = [
    "password", "restPassword", "sip_password", "PASSWD", "secret", "rest_hook_secret_key", "authToken", "token",
    "Authorization", "Proxy-Authorization", "hash", "passwordHash", "apiKey", "cookie", "pwd", "credentials",
]  # fmt: skip
PLAIN_NAMES: Final = [
    "hasAudio", "hasHold", "caller", "sdp", "status", "holdForTransfer", "mediaProvider", "hashtag", "sessionId", "a",
]  # fmt: skip
SECRET: Final = "S3cr3t-Value"
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    scalars,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(SECRET_NAMES + PLAIN_NAMES) | st.text(max_size=8), children, max_size=5)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_these_fields_hold_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_these_fields_do_not(name: str) -> None:
    assert not is_secret(name)


def without_secrets(tree: Any) -> Any:
    """What masking has to leave of a tree, as to secrets."""
    if isinstance(tree, dict):
        return {
            name: ("***" if value is not None else None) if is_secret(name) else without_secrets(value)
            for name, value in tree.items()
        }
    return [without_secrets(value) for value in tree] if isinstance(tree, list) else tree


@given(trees, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_secrets_are_starred_at_any_depth_and_nothing_else_is_touched(tree: Any, indent: Any, ascii_only: bool) -> None:
    document = json.dumps({"x": tree}, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    made = Mask((), Pseudonyms(KEY)).masked(document)
    assert b"\n" not in made
    expected = without_secrets(json.loads(document))
    if not re.search(rb"[:=]", re.sub(rb'"[ \t\r\n]*:', b"", document)):  # a text that may look like an assignment
        assert json.loads(made) == expected
    else:
        json.loads(made)


def planted(tree: Any, secret: Any) -> Iterator[Any]:
    yield {"password": secret}
    yield {"a": [{"b": {"authToken": [secret, {"c": secret}]}}]}
    yield {"caller": {"secret": {"x": secret}}, "tree": tree}
    yield {"p\u0061ssword": secret, "Hash": secret}


@given(trees)
def test_adversarial_a_secret_is_never_written_however_deep_it_stands(tree: Any) -> None:
    for document in planted(tree, SECRET):
        assert SECRET not in json.dumps(masked(document))


def test_adversarial_a_name_in_escapes_hides_no_secret_and_no_number() -> None:
    document = b'{"p\\u0061ssword":"S3cr3t","c\\u0061ller":"+4930123456","caller" \t:"+4930123456"}'
    made = Mask(("caller",), Pseudonyms(KEY)).masked(document)
    assert b"S3cr3t" not in made
    assert b"30123456" not in made


def test_adversarial_a_name_in_compatibility_characters_hides_no_secret_and_no_number() -> None:
    made = masked({"\uff50assword": "S3cr3t", "\U0001d41caller": "+4930123456"})
    assert "S3cr3t" not in json.dumps(made)
    assert "30123456" not in json.dumps(made)


def test_adversarial_a_doubled_field_is_masked_both_times() -> None:
    made = Mask(("caller",), Pseudonyms(KEY)).masked(b'{"caller":"+4930111111","caller":"+4930222222"}')
    assert b"111111" not in made
    assert b"222222" not in made


@pytest.mark.parametrize(
    "text",
    [
        'Authorization: Digest username="u", response="S3cr3t"\r\nCSeq: 1',
        "rtmp://host/app?token=S3cr3t&x=1",
        "https://user:S3cr3t@host/x",
        '{"password":"S3cr3t"}',
        '{"password":"a\\"S3cr3t"}',
        '{"inner":"{\\"password\\":\\"S3cr3t\\"}"}',
        "password = S3cr3t;",
        "'secret' => 'a S3cr3t'",
        "a=ice-pwd:S3cr3t\r\na=x",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:S3cr3t|2^20",
        "Cookie: a=1; PHPSESSID=S3cr3t\r\n",
        "PASSWORD:S3cr3t",
        'Authorization: Digest username="u",\r\n response="S3cr3t",\n\tnc=S3cr3t\r\nCSeq: 1',
        "Bearer S3cr3t-12345",
        "Basic dTpTM2NyM3Q=",
        "https://host/x?auth=S3cr3t&x=1",
        "https://host/x?pass=S3cr3t",
        '{"pin":"S3cr3t"}',
        '{"userPin":"S3cr3t", "fileHash": "S3cr3t"}',
        "my_pass: S3cr3t",
        "api-key=S3cr3t",
    ],
)
def test_adversarial_a_secret_in_the_midst_of_a_text_is_starred(text: str) -> None:
    made = masked({"data": text})["data"]
    assert "S3cr3t" not in made
    assert "dTpTM2NyM3Q" not in made
    assert "***" in made


@pytest.mark.parametrize(
    "text",
    [
        "a=setup:passive",
        "spin: 3",
        "basic subscription: 1",
        "basic x",
        "a bearer of news: good",
        "passport: 1",
        "author=me",
    ],
)
def test_a_text_that_only_resembles_one_with_a_secret_stays(text: str) -> None:
    assert masked({"data": text})["data"] == text


BEGINNINGS: Final = [
    'secret=\\"', "password:", "token='", "://a:", "@", "inline:", "cookie", "\\\\",
    "basic ", "bearer  ", "cookie: a\n ", "pass_", "hash",
]  # fmt: skip


@pytest.mark.parametrize("text", BEGINNINGS)
def test_adversarial_a_text_made_of_beginnings_is_gone_through_once(text: str) -> None:
    document = json.dumps({"data": text * 30_000, "caller": text * 30_000}).encode()
    json.loads(Mask(("caller",), Pseudonyms(KEY)).masked(document))


def test_adversarial_a_secret_that_never_ends_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, patterns = Counter[str](), masking_module._PATTERNS
    (assigned,) = patterns[b"secret"]

    def count(data: bytes, at: int) -> Any:
        looked["at"] += 1
        return assigned(data, at)

    monkeypatch.setattr(masking_module, "_PATTERNS", {**patterns, b"secret": (count,)})
    masked({"data": BEGINNINGS[0] * 1000})
    assert 1 <= looked["at"] < 10


def test_masked_fields_at_any_depth_whatever_their_case() -> None:
    made = masked({"CALLER": "+4930123456", "a": [{"Callee": {"user": "+4930123456", "n": 4930123456, "ok": True}}]})
    assert "123456" not in json.dumps(made)
    assert made["CALLER"] == made["a"][0]["Callee"]["user"]
    assert made["a"][0]["Callee"]["ok"] is True
    assert isinstance(made["a"][0]["Callee"]["n"], int)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_masked_number_stays_a_number(number: float) -> None:
    assert isinstance(masked({"caller": number})["caller"], int | float)


def test_the_number_of_a_masked_field_is_replaced_in_other_texts_of_its_hook_too() -> None:
    made = masked(
        {"sip": "From: <sip:+4930123456@h>;tag=4930123456", "caller": "+4930123456", "sessionId": "4930123456"}
    )
    assert "30123456" not in made["sip"]
    assert made["caller"] in made["sip"]
    assert made["sessionId"] == "4930123456"  # hooks are matched up by it


def test_the_number_of_a_masked_field_is_replaced_where_it_names_a_field_or_is_a_json_number() -> None:
    made = masked(
        {
            "contacts": {"+4930123456": {"4930123456": 4930123456}, "line1": 1234567},
            "token": {"4930123456": 1},
            "caller": "+4930123456",
            "sessionId": 4930123456,
        }
    )
    assert "30123456" not in json.dumps({**made, "sessionId": None})
    assert made["caller"] in made["contacts"]
    assert made["contacts"]["line1"] == 1234567
    assert made["sessionId"] == 4930123456


def test_only_what_is_configured_is_masked() -> None:
    document = {"caller": "+4930123456", "x": "+4930123456"}
    assert masked(document, ()) == document
    assert masked({"x": "abcdef"}, ("X",))["x"] != "abcdef"


def test_what_is_not_masked_stays_byte_for_byte_but_for_line_breaks() -> None:
    document = b'{ "b":1.0,\t"a" : 1E5,\r\n "a":"\\u00fc\\/\xc3\xbc", "n":12345678901234567890123 }'
    made = Mask(("caller",), Pseudonyms(KEY)).masked(document)
    assert made == document.replace(b"\r\n", b"  ")


# --- lines ---


def test_a_line_tells_the_hook_and_its_decision() -> None:
    body = hook_body(sessionId="s1", caller="PPP009")
    line = written(decision(body), Mask((), Pseudonyms(KEY)), RUN, ())
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
        read(line)


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
        read(json.dumps({**line, **changes}).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_line_or_refused(line: bytes) -> None:
    with pytest.raises(RecordError):
        read(line)


# --- files ---


def lines_of(*paths: Path) -> list[bytes]:
    return [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def line(number: int, size: int = 100, run: str = RUN) -> bytes:
    text = f'{{"v":1,"run":"{run}","n":{number},"x":"'
    return (text + "x" * (size - len(text) - 3) + '"}\n').encode()


def numbers_in(*paths: Path) -> list[int]:
    return [json.loads(line)["n"] for line in lines_of(*paths)]


def test_files_are_private_whatever_the_umask_and_their_mode_was(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.touch(0o644)
    before = os.umask(0)
    try:
        files = RecordFiles(str(path), 1000, 3, RUN)
        for number in range(15):
            files.append([line(number)])
    finally:
        os.umask(before)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
        "hooks.jsonl": 0o600,
        "hooks.jsonl.1": 0o600,
    }


def test_no_file_grows_past_its_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1001, 3, RUN)
    deleted = 0
    for number in range(0, 100, 4):
        written, error, gone = files.append([line(n) for n in range(number, number + 4)])
        assert (written, error) == (4, None)
        deleted += gone
    newest = path.with_suffix(f".jsonl.{last_number(tmp_path)}")
    assert len(list(tmp_path.iterdir())) == 3
    assert all(file.stat().st_size <= 1001 for file in tmp_path.iterdir())
    kept = numbers_in(path.with_suffix(f".jsonl.{last_number(tmp_path) - 1}"), newest, path)
    assert kept == list(range(100 - len(kept), 100))
    assert len(kept) >= 20
    assert deleted == 100 - len(kept)


def last_number(directory: Path) -> int:
    return max(int(file.suffix[1:]) for file in directory.iterdir() if file.suffix != ".jsonl")


def test_each_file_is_renamed_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each made room for the next, two workers with hundreds of files lost a third of the hooks under load."""
    renamed: list[str] = []

    def rename(old: str, new: str, rename: Any = os.rename) -> None:
        renamed.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename)
    files = RecordFiles(str(tmp_path / "hooks.jsonl"), 501, 1000, RUN)
    for number in range(0, 400, 4):
        files.append([line(n) for n in range(number, number + 4)])
    assert len(renamed) == len(set(renamed)) == len(list(tmp_path.iterdir())) - 1
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(400))


def test_the_numbers_of_files_begin_again_once_there_is_none_left(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.with_suffix(".jsonl.9999998").write_bytes(line(1))
    path.with_suffix(".jsonl.20261130").write_bytes(line(0))  # another's: a date
    RecordFiles(str(path), 501, 30, RUN).append([line(number) for number in range(2, 14)])
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(14))
    assert sorted(file.name for file in tmp_path.iterdir() if file != path) == [
        f"hooks.jsonl.{number}" for number in (1, 2, 20261130, 3)
    ]
    RecordFiles(str(path), 501, 2, RUN).append([line(number) for number in range(14, 18)])
    assert sorted(file.name for file in tmp_path.iterdir() if file != path) == ["hooks.jsonl.20261130", "hooks.jsonl.4"]


def test_lines_of_a_huge_file_that_goes_are_counted_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_COUNTED", 1000)
    monkeypatch.setattr(files_module, "_PIECE", 500)
    files = RecordFiles(str(tmp_path / "hooks.jsonl"), 10_001, 1, RUN)
    assert files.append([line(number) for number in range(101)]).deleted == 100


def test_with_one_file_the_recording_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 501, 1, RUN)
    files.append([line(number) for number in range(12)])
    assert [file.name for file in tmp_path.iterdir()] == ["hooks.jsonl"]
    assert numbers_in(path) == [10, 11]


def test_a_line_larger_than_a_file_is_given_up_alone(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1000, 2, RUN)
    assert files.append([line(1), line(2, 5000), line(3)]).written == 2
    assert numbers_in(tmp_path / "hooks.jsonl.1", path) == [1, 3] or numbers_in(path) == [1, 3]


def test_a_restart_begins_a_new_file_for_its_pseudonyms_are_others(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    RecordFiles(str(path), 1000, 3, OTHER_KEY.run).append([line(1, run=OTHER_KEY.run)])
    one, other = (RecordFiles(str(path), 1000, 3, RUN) for _ in range(2))
    one.append([line(2)])
    other.append([line(3)])
    assert numbers_in(tmp_path / "hooks.jsonl.1") == [1]
    assert numbers_in(path) == [2, 3]


def test_many_restarts_lose_nothing_that_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    for number in range(20):
        run = Key(bytes([number]) * 32).run
        RecordFiles(str(path), 10_000, 2, run).append([line(number, run=run)])
    assert len(list(tmp_path.iterdir())) == 20
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(20))


def test_two_gateways_on_one_path_do_not_turn_it_over_without_end(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    one = RecordFiles(str(path), 100_000, 3, RUN)
    other = RecordFiles(str(path), 100_000, 3, OTHER_KEY.run)
    for number in range(50):
        one.append([line(number)])
        other.append([line(number, run=OTHER_KEY.run)])
    assert len(list(tmp_path.iterdir())) <= 3
    assert sum(Counter(numbers_in(*tmp_path.iterdir())).values()) == 100


def test_a_torn_line_of_a_writer_that_died_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.write_bytes(line(1) + line(2)[:50])
    RecordFiles(str(path), 10_000, 3, RUN).append([line(3)])
    assert lines_of(path)[2] == line(3)


def test_a_file_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 10_000, 3, RUN)
    files.append([line(1)])
    path.rename(tmp_path / "moved")
    files.append([line(2)])
    assert numbers_in(path) == [2]


@pytest.mark.parametrize("kind", ["directory", "symlink", "pipe", "device", "missing"])
def test_what_is_no_file_of_ours_is_not_written_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hooks.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/full")
    else:
        path = tmp_path / "missing" / "hooks.jsonl"
    mode = path.lstat().st_mode if path.exists() else None
    done = RecordFiles(str(path), 1000, 3, RUN).append([line(1)])
    assert done.written == 0
    assert done.error is not None
    assert not (tmp_path / "elsewhere").exists()
    assert (path.lstat().st_mode if path.exists() else None) == mode


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("content", [b"server: {listen: 127.0.0.1:8080}\n", b'{"a":1}\n', b"\0" * 100])
def test_adversarial_a_file_that_is_no_recording_is_left_as_it_is(tmp_path: Path, content: bytes, files: int) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(content)
    path.chmod(0o644)
    done = RecordFiles(str(path), 1000, files, RUN).append([line(1)])
    assert done.written == 0
    assert "something else" in str(done.error)
    assert [(file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) for file in tmp_path.iterdir()] == [(content, 0o644)]


def test_a_file_of_which_only_a_beginning_was_written_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.write_bytes(b'{"v')
    assert RecordFiles(str(path), 1000, 3, RUN).append([line(1)]) == (1, None, 0)


def test_a_file_that_cannot_be_put_aside_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(old: str, new: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1000, 2, RUN)
    files.append([line(n) for n in range(9)])
    with monkeypatch.context() as denied:
        denied.setattr(os, "rename", rename)
        full = files.append([line(9)])
    assert full.written == 0
    assert "cannot be put aside" in str(full.error)
    assert files.append([line(10)]) == (1, None, 0)


def test_a_symbolic_link_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in str(RecordFiles(str(path), 1000, 3, RUN).append([line(1)]).error)


def test_adversarial_a_file_that_another_process_keeps_locked_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_PATIENCE", 0.05)
    path = tmp_path / "hooks.jsonl"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        files = RecordFiles(str(path), 1000, 3, RUN)
        assert files.append([line(1)]).error is not None
    assert files.append([line(2)]) == (1, None, 0)
    assert numbers_in(path) == [2]


def _write_many(path: str, first: int, count: int, begin: Any) -> None:
    files = RecordFiles(path, 20_000, 200, RUN)
    begin.wait(GIVEN_UP)
    for number in range(first, first + count, 5):
        assert files.append([line(n, 100 + n % 400) for n in range(number, number + 5)]) == (5, None, 0)


def test_several_processes_share_the_files_without_a_line_torn_or_lost(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(3)
    writers = [context.Process(target=_write_many, args=(str(path), n * 1000, 1000, begin)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(GIVEN_UP * 2)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 10
    assert all(file.stat().st_size <= 20_000 for file in paths)
    assert sorted(numbers_in(*paths)) == list(range(3000))


def _write_on_a_full_disk(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1050, resource.RLIM_INFINITY))
    files = RecordFiles(path, 10_000, 3, RUN)
    full = files.append([line(n) for n in range(15)])
    assert full.written == 0
    assert full.error is not None
    for number in range(12):
        files.append([line(number)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert files.append([line(99)]) == (1, None, 0)


def test_a_full_disk_leaves_whole_lines_and_is_written_again_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    writer = multiprocessing.get_context("spawn").Process(target=_write_on_a_full_disk, args=(str(path),))
    writer.start()
    writer.join(GIVEN_UP)
    assert writer.exitcode == 0
    assert numbers_in(path) == [*range(10), 99]


# --- the recorder ---


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
    assert [read(line).request_id for line in lines_of(tmp_path / "hooks.jsonl")] == [f"r{n}" for n in range(1000)]
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
    assert (read(one).request_id, read(one).masked) == ("r1", ("caller", "callee"))
    assert (read(two).request_id, b"+4930123456" in two) == ("r2", True)
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
    sessions = Counter(json.loads(bytes(read(line).hook))["sessionId"] for line in lines_of(path))
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
        RecordFiles, "append", lambda self, lines: goes_on.wait(GIVEN_UP) and files_module.Appended(0, None)
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
        return written(made, *rest)

    monkeypatch.setattr(recorder_module, "written", fail)
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
    hooks = [json.loads(bytes(read(line).hook)) for line in lines_of(tmp_path / "hooks.jsonl")]
    assert len({hook["caller"] for hook in hooks}) == 7
    assert all(hook["callee"] == f"sip:{hook['caller']}@h" for hook in hooks)
