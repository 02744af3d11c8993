"""Verdicts and sessions as bytes: what was written is read, and anything else is unknown, whatever it is."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.fleet.encoding import (
    MAX_SESSION,
    MAX_VERDICT,
    FoundSession,
    decode_session,
    decode_verdict,
    encode_session,
    encode_verdict,
    hook_digest,
    session_digest,
)
from gateway.model.json_edit import Fields
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    Verdict,
    backend_allow,
    backend_reject,
    duplicate_ruling,
    fallback_ruling,
    static_ruling,
)
from gateway.policy.rest_client_config import MethodSettings
from gateway.proxy.refusals import problem

BODY = b'{"appKey": "a", "callee": "1"}'
DIGEST = hook_digest("OnCallEvent", BODY)
FAILURE = Failure(Cause.ERROR_STATUS, ProxyError.HTTP_RESPONSE_INCOMPLETE, "it answered 500", 500)
RULINGS = [
    backend_allow(BODY),
    backend_allow(b'{"callee": "2"}'),
    backend_reject(),
    fallback_ruling(FAILURE, Fallback(), BODY),
    fallback_ruling(FAILURE, Fallback(frozenset({Cause.ERROR_STATUS})), BODY),
    fallback_ruling(
        FAILURE, Fallback(frozenset({Cause.ERROR_STATUS}), {Cause.ERROR_STATUS: Fields({"callee": "7"})}), BODY
    ),
    static_ruling(Verdict.REJECT, BODY),
]


def sealed(digest: bytes, content: object, version: bytes = b"\x01") -> bytes:
    """What a newer version, or a broken one, could have written."""
    packed = msgspec.msgpack.encode(content)
    return version + crc32(packed, crc32(digest)).to_bytes(4, "big") + packed


@pytest.mark.parametrize("ruling", RULINGS, ids=str)
def test_a_verdict_is_read_as_it_was_given_as_far_as_a_duplicate_gets_it(ruling: Ruling) -> None:
    data = encode_verdict(DIGEST, BODY, ruling)
    assert data is not None
    read = decode_verdict(DIGEST, BODY, data)
    assert read is not None
    assert duplicate_ruling(read) == duplicate_ruling(ruling)
    assert read.source is ruling.source


def test_a_verdict_that_echoes_the_hook_holds_no_body_and_no_verdict_holds_headers() -> None:
    data = encode_verdict(DIGEST, BODY, backend_allow(BODY))
    assert data is not None
    assert b"callee" not in data
    assert len(data) < 64


@given(st.text(), st.text(), st.binary(max_size=200), st.binary(max_size=200))
def test_a_digest_is_of_the_method_and_every_byte_of_the_body(one: str, other: str, body: bytes, more: bytes) -> None:
    assert hook_digest(one, body) == hook_digest(one, bytes(body))
    assert (hook_digest(one, body) == hook_digest(other, more)) == ((one, body) == (other, more))
    if one != other:
        assert session_digest(one) != session_digest(other)
        assert session_digest(one) != hook_digest(one, b"")


@pytest.mark.parametrize(
    ("ruling", "reason"),
    [
        (problem(400, "no hook"), "a refusal is no verdict of a hook"),
        (backend_allow(b'{"a": "%b"}' % (b"x" * MAX_VERDICT)), "too large"),
        (backend_allow(b"no object"), "the media server would not take it"),
        (msgspec.structs.replace(backend_reject(), body=b"x"), "a rejection has no body"),
        (msgspec.structs.replace(backend_reject(), proxy_status=b"a\r\nb: c"), "that is two headers"),
        (msgspec.structs.replace(backend_reject(), error="\ud800"), "half of a surrogate pair"),
    ],
)
def test_what_is_no_verdict_of_a_hook_is_not_stored(ruling: Ruling, reason: str) -> None:
    assert encode_verdict(DIGEST, BODY, ruling) is None, reason


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x01")
@example(b"\x01\0\0\0\0")
def test_bytes_of_chance_are_unknown(data: bytes) -> None:
    assert decode_verdict(DIGEST, BODY, data) is None
    assert decode_session("s", data) is None


@given(st.data(), st.sampled_from(RULINGS))
def test_a_verdict_with_a_changed_byte_or_cut_short_is_unknown(data: st.DataObject, ruling: Ruling) -> None:
    whole = encode_verdict(DIGEST, BODY, ruling)
    assert whole is not None
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert decode_verdict(DIGEST, BODY, bytes(changed)) is None
    assert decode_verdict(DIGEST, BODY, whole[:at]) is None


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
                    lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8))  # fmt: skip
def test_anything_else_that_is_whole_is_unknown_and_no_error(content: Any) -> None:
    assert decode_verdict(DIGEST, BODY, sealed(DIGEST, content)) is None
    found = decode_session("s", sealed(session_digest("s"), content))
    assert found is None or isinstance(content, dict)


def test_a_verdict_of_another_hook_is_unknown() -> None:
    for method, body in (("connect", BODY), ("OnCallEvent", BODY + b" ")):
        data = encode_verdict(hook_digest(method, body), body, backend_reject())
        assert data is not None
        assert decode_verdict(DIGEST, BODY, data) is None


REJECT = {"verdict": "reject", "source": "backend", "reason": "denied"}


@pytest.mark.parametrize(
    ("content", "is_known"),
    [
        (REJECT, True),
        ({**REJECT, "replica": "b", "colour": [1, {"x": None}]}, True),
        ({**REJECT, "reason": "of a newer version"}, False),
        ({**REJECT, "verdict": "perhaps"}, False),
        ({**REJECT, "verdict": "error"}, False),
        ({**REJECT, "body": b"{}"}, False),
        ({**REJECT, "proxy_status": b"gateway\r\nset-cookie: x"}, False),
        ({**REJECT, "verdict": "allow", "body": b"not json"}, False),
        ({**REJECT, "verdict": "allow", "reason": "ok"}, True),
        ({"verdict": "reject"}, False),
        ([], False),
    ],
)
def test_fields_that_a_newer_version_adds_are_skipped_and_values_that_it_adds_are_unknown(
    content: object, is_known: bool
) -> None:
    assert (decode_verdict(DIGEST, BODY, sealed(DIGEST, content)) is not None) is is_known


def test_another_format_is_unknown() -> None:
    assert decode_verdict(DIGEST, BODY, sealed(DIGEST, REJECT)) is not None
    assert decode_verdict(DIGEST, BODY, sealed(DIGEST, REJECT, b"\x02")) is None
    assert decode_session("s", sealed(session_digest("s"), {})) == FoundSession(frozenset(), None)
    assert decode_session("s", sealed(session_digest("s"), {}, b"\x02")) is None


# --- sessions ---

names = st.text(min_size=1, max_size=12)
settings = st.dictionaries(
    names,
    st.builds(
        MethodSettings,
        fails=st.booleans(),
        policy=st.sampled_from(["NOTIFY", "OVERWRITE", "DISABLE"]),
        overwrite=st.lists(names, max_size=3).map(tuple),
        exclude=st.lists(names, max_size=3).map(tuple),
    ),
    max_size=4,
)


@given(st.text(), st.frozensets(names, max_size=5), st.none() | settings)
def test_a_session_is_read_as_it_was_written(
    session: str, failing: frozenset[str], given_settings: dict[str, MethodSettings] | None
) -> None:
    data = encode_session(session, failing, given_settings)
    assert data is not None
    assert decode_session(session, data) == FoundSession(failing, given_settings)
    assert decode_session(session + "x", data) is None


def test_a_session_of_a_newer_version_is_read_and_one_with_unreadable_settings_is_unknown() -> None:
    digest = session_digest("s")
    newer = {"failing": ["call"], "settings": json.dumps({"call": {"fails": True, "new": 1}}).encode(), "more": 1}
    assert decode_session("s", sealed(digest, newer)) == FoundSession(
        frozenset({"call"}), {"call": MethodSettings(fails=True)}
    )
    assert decode_session("s", sealed(digest, {"settings": b"{"})) is None
    assert decode_session("s", sealed(digest, {"failing": [1]})) is None


def test_what_is_too_large_of_a_session_is_not_stored() -> None:
    large = {"call": MethodSettings(exclude=("x" * MAX_SESSION,))}
    assert encode_session("s", frozenset(), large) is None
    assert encode_session("s", frozenset({"\ud800"}), None) is None
