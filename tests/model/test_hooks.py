"""The catalogue, and how a hook's body is read: judged by the standard library's JSON reader."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.hooks import (
    CATALOGUE,
    KEEP_ALIVE,
    BadHookError,
    MethodType,
    field_text,
    is_json_object,
    method_type,
    parse_hook,
)

SHARED = Path(__file__).parent.parent.parent.parent / "shared"
WCS = SHARED / "WCS.md"
JSON_CORPUS = SHARED / "corpora" / "json.jsonl"


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
keys = st.text() | st.sampled_from(["appKey", "nodeId", "sessionId", "callId", "caller", "callee"])
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=8)
objects = st.dictionaries(keys, values, max_size=5)
app_keys = st.text(min_size=1)


# --- the catalogue ---


KEEP_ALIVE_NOTE = f"(`{KEEP_ALIVE}` is listed with the events by the vendor, and is a question: see above.)"


def documented_types() -> dict[str, MethodType]:
    """The methods as the chapter on the four types lists them."""
    types: dict[str, MethodType] = {}
    section = WCS.read_text("utf-8").split("## The four types of methods")[1].split("\n## ")[0]
    for item in section.split("\n- ")[1:]:
        heading, _, listed = item.partition(":")
        words = {"connect": "connect", "direct": "direct", "event": "event", "incoming": "incoming"}
        kind = words.get(heading.split()[0].strip("`"))
        if kind is not None:
            listed = listed.replace(KEEP_ALIVE_NOTE, "")
            types |= dict.fromkeys(re.findall(r"`(\w+)`", listed), MethodType(kind))
    types[KEEP_ALIVE] = MethodType.DIRECT
    return types


@pytest.mark.skipif(not WCS.exists(), reason="the shared folder with WCS.md is absent")
def test_the_catalogue_holds_the_documented_methods_with_their_types_and_no_others() -> None:
    documented = documented_types()
    assert set(documented.values()) == set(MethodType)
    assert dict(CATALOGUE) == documented


@pytest.mark.parametrize(("method", "kind"), CATALOGUE.items())
def test_a_method_of_the_catalogue_has_its_type(method: str, kind: MethodType) -> None:
    assert method_type(method) is kind


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,30}", fullmatch=True).filter(lambda name: name not in CATALOGUE))
def test_a_method_that_nobody_lists_is_an_event_if_it_says_so_and_else_a_direct_invocation(name: str) -> None:
    asks = name[:2] == "On" and not name[2:3].islower()
    assert method_type(f"{name}Event") is (MethodType.DIRECT if asks else MethodType.EVENT)
    if not name.endswith("Event"):
        assert method_type(name) is MethodType.DIRECT


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("OnNewEvent", MethodType.DIRECT),
        ("OnStatusEvent", MethodType.DIRECT),
        ("On2ndEvent", MethodType.DIRECT),
        ("OnEvent", MethodType.DIRECT),
        ("NewEvent", MethodType.EVENT),
        ("OngoingEvent", MethodType.EVENT),
        ("onNewEvent", MethodType.EVENT),
        ("Event", MethodType.EVENT),
        ("EventOfNew", MethodType.DIRECT),
        ("newevent", MethodType.DIRECT),
    ],
)
def test_on_asks_only_as_a_word_of_its_own(method: str, kind: MethodType) -> None:
    assert method_type(method) is kind


def test_the_question_whether_a_stream_may_go_on_is_no_event() -> None:
    assert method_type(KEEP_ALIVE) is MethodType.DIRECT


@pytest.mark.parametrize("method", ["OnCallEvent", "NewStatusEvent", "newInvocation"])
def test_the_configuration_s_hook_types_win(method: str) -> None:
    assert method_type(method, {method: MethodType.CONNECT}) is MethodType.CONNECT
    assert method_type(method, {"another": MethodType.CONNECT}) is method_type(method)


# --- reading a hook ---
@given(objects, app_keys, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_a_hook_is_read_as_the_standard_library_reads_it(
    fields: dict[str, Any], app_key: str, ascii_only: bool, indent: int | str | None
) -> None:
    body = json.dumps({**fields, "appKey": app_key}, ensure_ascii=ascii_only, indent=indent).encode()
    hook = parse_hook(body)
    whole = json.loads(body)
    assert hook.app_key == whole["appKey"]
    for name, raw in (
        ("nodeId", hook.node_id),
        ("sessionId", hook.session_id),
        ("callId", hook.call_id),
        ("caller", hook.caller),
        ("callee", hook.callee),
    ):
        if name in whole:
            assert json.loads(bytes(raw)) == whole[name]
        else:
            assert bytes(raw) == b""


def spellings_of(key: str) -> st.SearchStrategy[str]:
    """Every way to write the key in JSON: each letter plain or as an escape, its hex digits in either case."""

    def of(char: str) -> st.SearchStrategy[str]:
        code = f"{ord(char):04x}"
        return st.sampled_from([char, f"\\u{code}", f"\\u{code.upper()}"])

    return st.tuples(*map(of, key)).map("".join)


def member(key_source: str, value: object) -> str:
    return f'"{key_source}": {json.dumps(value)}'


@given(spellings_of("appKey"), app_keys)
def test_the_one_app_key_counts_however_it_is_spelt(spelling: str, app_key: str) -> None:
    assert parse_hook(f'{{"a": 1, {member(spelling, app_key)}}}'.encode()).app_key == app_key


@given(spellings_of("appKey"), spellings_of("appKey"), app_keys, values, objects, st.randoms(use_true_random=False))
def test_a_second_app_key_is_refused_however_it_is_spelt_and_wherever_it_stands(
    one: str, other: str, app_key: str, second: object, fields: dict[str, Any], random: Any
) -> None:
    members = [member(one, app_key), member(other, second)]
    members += [member(json.dumps(key)[1:-1], value) for key, value in fields.items() if key != "appKey"]
    random.shuffle(members)
    with pytest.raises(BadHookError):
        parse_hook(f"{{{', '.join(members)}}}".encode())


@given(spellings_of("appKey"), app_keys, values, app_keys)
def test_app_keys_deeper_in_the_body_are_nobody_s_concern(
    spelling: str, inner: str, value: object, app_key: str
) -> None:
    pair = f"{{{member(spelling, inner)}, {member('appKey', value)}}}"
    for body in (
        f'{{"first": {pair}, {member("appKey", app_key)}}}',
        f'{{{member("appKey", app_key)}, "last": [{pair}, {{"deeper": {pair}}}]}}',
    ):
        assert parse_hook(body.encode()).app_key == app_key


def test_an_app_key_quoted_in_a_text_is_no_second_one() -> None:
    body = json.dumps({"appKey": "a", "sdp": 'v=0 "appKey": "b" \\u0061', "appKeys": "c"}).encode()
    assert parse_hook(body).app_key == "a"


@given(st.binary(max_size=200))
def test_whatever_bytes_arrive_only_a_bad_hook_is_raised(body: bytes) -> None:
    with contextlib.suppress(BadHookError):
        assert parse_hook(body).app_key


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty; a hook is a JSON object with a string appKey"),
        (b" \r\n", "the body is empty; a hook is a JSON object with a string appKey"),
        (b"{}", "the body has no appKey"),
        (b'{"appkey": "a"}', "the body has no appKey"),
        (b'{"appKey": ""}', "appKey is empty"),
        (b'{"appKey": null}', "appKey is not a string"),
        (b'{"appKey": 7}', "appKey is not a string"),
        (b'{"appKey": {"appKey": "a"}}', "appKey is not a string"),
        (b'{"appKey": "a", "appKey": "a"}', "appKey appears more than once in the body"),
        (b'{"appKey": "a", "\\u0061ppKey": "b"}', "appKey appears more than once in the body"),
        (b'[{"appKey": "a"}]', "the body is JSON, but not an object"),
        (b'"appKey"', "the body is JSON, but not an object"),
        (b"null", "the body is JSON, but not an object"),
        (b'{"appKey": "a"} {}', "the body is not valid JSON (error at byte 17)"),
        (b'{"appKey": "a"', "the body is not valid JSON: it ends too early"),
        (b'{"appKey": "a", "x": NaN}', "the body is not valid JSON (error at byte 21)"),
        (b'\xef\xbb\xbf{"appKey": "a"}', "the body is not valid JSON: it begins with a byte-order mark"),
        (b'{"appKey": "\xff"}', "the body is not UTF-8 (byte 12)"),
        (b'{"appKey": "a", "x": "\xed\xa0\x80"}', "the body is not UTF-8 (byte 22)"),
        ('{"appKey": "a"}'.encode("utf-16"), "the body is not UTF-8 (byte 0)"),
        (b'{"appKey": "a", "x": ' + b"[" * 100_000, "the body is nested too deeply"),
        (b'{"appKey": "a", "x": ' + b'{"x":' * 100_000, "the body is nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_hook_is_said_in_plain_words(body: bytes, message: str) -> None:
    with pytest.raises(BadHookError) as caught:
        parse_hook(body)
    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b'{"appKey": "\\ud800"}', b'{"appKey": "a", "caller": "\\ud83d!"}'])
def test_half_a_character_in_a_whole_body_is_not_called_an_early_end(body: bytes) -> None:
    with pytest.raises(BadHookError) as caught:
        parse_hook(body)
    assert "too early" not in str(caught.value)


def test_a_hook_s_numbers_may_be_longer_than_any_machine_number() -> None:
    assert parse_hook(b'{"x": ' + b"9" * 5000 + b', "appKey": "a", "y": 1e99999}').app_key == "a"


@pytest.mark.parametrize("name", ["OnCallEvent.json", "OnCallEvent-sdp.json"])
def test_the_captured_hooks_are_read(name: str) -> None:
    path = SHARED / "wire" / name
    if not path.exists():
        pytest.skip("the shared folder with the captures is absent")
    body = path.read_bytes()
    hook, whole = parse_hook(body), json.loads(body)
    assert hook.app_key == whole["appKey"]
    assert field_text(hook.call_id) == whole["callId"]
    assert field_text(hook.caller) == whole["caller"]


# --- what a backend's yes must look like ---


def strictly_an_object(data: bytes) -> bool:
    """The standard library's reader, without its leniency: no NaN, no half of a surrogate pair."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def whole_characters(node: object) -> None:
        if isinstance(node, str):
            node.encode("utf-8")
        elif isinstance(node, list | tuple):
            for inner in node:
                whole_characters(inner)

    try:
        read = json.loads(
            data.decode("utf-8"), object_pairs_hook=tuple, parse_constant=refuse, parse_int=int_size, parse_float=float
        )
        whole_characters(read)
    except ValueError:
        return False
    return isinstance(read, tuple)


def int_size(digits: str) -> int:
    return len(digits)


@given(values, st.booleans(), st.sampled_from([None, 2]))
def test_of_all_json_only_objects_are_objects(value: object, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert is_json_object(data) is isinstance(value, dict)
    assert is_json_object(b" \t\r\n" + data + b"\n") is isinstance(value, dict)


SPLINTERS = [bytes([byte]) for byte in b'{}[]",:\\ \t\r\n0123456789.+-eEtrufalsn\x00\x0b\x0c\x1f\x7f\xc3\xa9\xed\xff']
SPLINTERS += [
    b"\\u00",
    b"\\ud800",
    b"\\udc00",
    b"\\/",
    b"\\x",
    b"NaN",
    b"-Infinity",
    b"\xef\xbb\xbf",
    b"//",
    b"'",
    b"{}",
]


@given(
    st.sampled_from(
        [{}, {"a": ["é", {"b": -1.5e3}], "c": {"d": None}}, {"k\\n": '\\"', "x": [True, 0, [[]]], "y": "😀"}]
    ).map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(SPLINTERS)), min_size=1, max_size=4),
)
def test_broken_json_is_judged_as_a_strict_reader_judges_it(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for place, cut, put in edits:
        at = place % (len(data) + 1)
        data = data[:at] + put + data[at + cut :]
    assert is_json_object(data) is strictly_an_object(data)


@given(st.lists(st.sampled_from([*SPLINTERS, b'"a":', b'"b"', b"null"]), max_size=8).map(b"".join))
def test_json_put_together_from_splinters_is_judged_as_a_strict_reader_judges_it(data: bytes) -> None:
    assert is_json_object(b"{" + data + b"}") is strictly_an_object(b"{" + data + b"}")


@pytest.mark.skipif(not JSON_CORPUS.exists(), reason="the shared folder with the JSON test suite is absent")
def test_the_public_suite_s_objects_are_judged_as_it_says() -> None:
    wrong = []
    for line in JSON_CORPUS.read_text("utf-8").splitlines():
        case = json.loads(line)
        data = base64.b64decode(case["b64"])
        expected = strictly_an_object(data) if case["expect"] != "reject" and len(data) < 10_000 else False
        if is_json_object(data) is not expected:
            wrong.append((case["expect"], data[:60]))
    assert wrong == []


# --- fields for the log ---
@given(values, st.integers(2, 300))
def test_a_field_as_text_is_bounded_and_begins_as_the_field_does(value: object, limit: int) -> None:
    text = field_text(msgspec.Raw(json.dumps(value).encode()), limit)
    if value is None:
        assert text is None
        return
    assert text is not None
    assert len(text) <= limit
    whole = value if isinstance(value, str) else json.dumps(value)
    assert text == whole or (len(whole) > limit and text == whole[: limit - 1] + "…")


def test_an_absent_field_is_no_text() -> None:
    assert field_text(msgspec.Raw()) is None


@given(st.binary(min_size=1, max_size=100))
def test_even_bytes_that_are_no_json_make_a_text(data: bytes) -> None:
    text = field_text(msgspec.Raw(data))
    assert text is None or text.encode("utf-8").decode("utf-8") == text
