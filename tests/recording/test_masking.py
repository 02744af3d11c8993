"""Masking: no secret and no number of a masked field is ever written, and nothing else is touched."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.secret_names import is_secret_name
from gateway.recording import masking as masking_module
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Pseudonyms
from tests.model.test_secret_names import PLAIN_NAMES, SECRET_NAMES
from tests.recording.records import KEY, masked

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


def without_secrets(tree: Any) -> Any:
    """What masking has to leave of a tree, as to secrets."""
    if isinstance(tree, dict):
        return {
            name: ("***" if value is not None else None) if is_secret_name(name) else without_secrets(value)
            for name, value in tree.items()
        }
    return [without_secrets(value) for value in tree] if isinstance(tree, list) else tree


@given(trees, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_secrets_are_starred_at_any_depth_and_nothing_else_is_touched(tree: Any, indent: Any, ascii_only: bool) -> None:
    document = json.dumps({"x": tree}, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    made = Mask((), Pseudonyms(KEY)).apply(document)
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
    made = Mask(("caller",), Pseudonyms(KEY)).apply(document)
    assert b"S3cr3t" not in made
    assert b"30123456" not in made


def test_adversarial_a_name_in_compatibility_characters_hides_no_secret_and_no_number() -> None:
    made = masked({"\uff50assword": "S3cr3t", "\U0001d41caller": "+4930123456"})
    assert "S3cr3t" not in json.dumps(made)
    assert "30123456" not in json.dumps(made)


def test_adversarial_a_doubled_field_is_masked_both_times() -> None:
    made = Mask(("caller",), Pseudonyms(KEY)).apply(b'{"caller":"+4930111111","caller":"+4930222222"}')
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
    json.loads(Mask(("caller",), Pseudonyms(KEY)).apply(document))


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
    made = Mask(("caller",), Pseudonyms(KEY)).apply(document)
    assert made == document.replace(b"\r\n", b"  ")
