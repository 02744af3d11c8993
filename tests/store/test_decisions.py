"""A decision that was kept is shown as the original is; nothing of it can be seen that is to be hidden."""

from __future__ import annotations

import json
import zlib
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import Decision
from gateway.model.hooks import field_text
from gateway.model.verdicts import backend_allow
from gateway.policy.history import MAX_BODIES, Bodies, is_ordinary
from gateway.policy.shadow import ShadowResult
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Key, Pseudonyms
from gateway.store.decisions import (
    ID_STEP,
    DecodedDecision,
    KeptDecision,
    Prepared,
    Preparer,
    call_term,
    callee_term,
    caller_term,
    decode_decision,
    decode_shadow,
    encode_kept,
    encode_sent,
    encode_shadow,
    is_ordinary_shadow,
    request_term,
    session_term,
    with_bodies,
)
from gateway.store.numbers import NumberHasher
from gateway.telemetry.decision_view import DecisionFormatter
from tests.store.decided import NOW, TIMED_OUT, decided, decisions

masks = st.sets(st.sampled_from(["caller", "callee"]))
HASHER: Final = NumberHasher("key")
BODY_MASK: Final = Mask(("caller", "callee"), Pseudonyms(Key(b"k")))


def preparer(mask: set[str] | tuple[str, ...] = ("caller", "callee"), hasher: NumberHasher | None = HASHER) -> Preparer:
    return Preparer(mask, hasher, BODY_MASK)


def kept(prepared: Prepared) -> KeptDecision:
    read = msgspec.msgpack.decode(prepared.encoded, type=KeptDecision)
    return read if prepared.bodies is None else with_bodies(read, prepared.bodies)


def there_and_back(decision: Decision, by: Preparer | None = None, bodies: Bodies = Bodies.OFF) -> DecodedDecision:
    prepared = (by or preparer()).prepare(encode_sent(decision, bodies, 77, "r1"))
    return decode_decision(encode_kept(kept(prepared)))


@given(decisions(), masks, masks, st.sampled_from(Bodies), st.booleans())
def test_it_is_shown_as_the_journal_shows_the_original(
    decision: Decision, mask: set[str], shown: set[str], bodies: Bodies, has_key: bool
) -> None:
    formatter = DecisionFormatter(77, mask | shown)
    decoded = there_and_back(decision, preparer(mask, HASHER if has_key else None), bodies)
    assert formatter.format(decoded.decision) == formatter.format(decision)
    assert (decoded.worker, decoded.revision) == (77, "r1")
    assert is_ordinary(decoded.decision) == is_ordinary(decision)


@given(decisions())
def test_it_is_found_by_all_that_it_is_searched_by(decision: Decision) -> None:
    terms = preparer().prepare(encode_sent(decision, Bodies.OFF, 1, "")).terms
    assert request_term(decision.request_id) in terms
    hook = decision.hook
    if hook is None:
        assert len(terms) == 1
        return
    for raw, make in ((hook.call_id, call_term), (hook.session_id, session_term)):
        text = field_text(raw)
        assert not text or make(text) in terms
    for raw, of_hash in ((hook.caller, caller_term), (hook.callee, callee_term)):
        hashed = HASHER.hash(field_text(raw) or "")
        assert hashed is None or of_hash(hashed) in terms


@given(st.text(alphabet="0123456789", min_size=7, max_size=14), st.sampled_from(["+{}", "sip:+{}@h", "<tel:+{}>"]))
def test_nothing_that_is_kept_has_a_masked_number(digits: str, form: str) -> None:
    decision = decided(fields={"caller": form.format(digits), "callee": f"0{digits}"})
    prepared = preparer().prepare(encode_sent(decision, Bodies.ALL, 1, ""))
    assert digits.encode() not in prepared.encoded
    assert prepared.bodies is not None
    assert digits.encode() not in zlib.decompress(prepared.bodies)
    assert decoded_hash(prepared) == HASHER.hash("+" + digits)


def decoded_hash(prepared: Prepared) -> bytes | None:
    return kept(prepared).caller_hash


def test_hashes_do_not_leave_the_store() -> None:
    prepared = preparer().prepare(encode_sent(decided(fields={"caller": "+493012345"}), Bodies.OFF, 1, ""))
    hashed = HASHER.hash("+493012345")
    assert hashed is not None
    assert hashed in prepared.encoded
    assert hashed not in encode_kept(kept(prepared))


def test_without_a_key_there_is_no_hash() -> None:
    prepared = preparer(hasher=None).prepare(
        encode_sent(decided(fields={"caller": "1", "callee": "2"}), Bodies.OFF, 1, "")
    )
    assert (kept(prepared).caller_hash, kept(prepared).callee_hash) == (None, None)
    assert prepared.terms == [request_term("request-0")]


@pytest.mark.parametrize(
    ("decision", "bodies", "are_kept"),
    [
        (decided(), Bodies.OFF, False),
        (decided(), Bodies.FAILURES, False),
        (decided(ruling=TIMED_OUT), Bodies.FAILURES, True),
        (decided(), Bodies.ALL, True),
        (decided(size=MAX_BODIES + 1), Bodies.ALL, False),
    ],
)
def test_bodies_are_kept_of_those_that_are_wanted(decision: Decision, bodies: Bodies, are_kept: bool) -> None:
    prepared = preparer().prepare(encode_sent(decision, bodies, 1, ""))
    assert (prepared.bodies is not None) is are_kept
    assert kept(prepared).has_bodies is are_kept


def test_hook_and_answer_come_back_masked() -> None:
    fields = {"caller": "+493012345", "password": "geheim", "callId": "c1"}
    decision = decided(fields=fields, ruling=backend_allow(b'{"callee":"+493012345","x":1}'))
    decoded = there_and_back(decision, bodies=Bodies.ALL).decision
    body, answer = json.loads(decoded.body), json.loads(decoded.ruling.body)
    assert body["callId"] == "c1"
    assert body["password"] == "***"
    assert body["caller"] == answer["callee"]  # a pseudonym, the same for the same number
    assert "3012345" not in body["caller"]
    assert answer["x"] == 1


@pytest.mark.parametrize(("answer", "expected"), [(b"", b""), (b"<b>+493012345</b>", b"")])
def test_an_answer_that_is_no_object_is_left_out(answer: bytes, expected: bytes) -> None:
    assert there_and_back(decided(ruling=backend_allow(answer)), bodies=Bodies.ALL).decision.ruling.body == expected


def test_an_answer_that_is_the_hook_is_kept_once() -> None:
    decision = decided(fields={"sdp": "v=0" * 1000})
    decision = msgspec.structs.replace(decision, ruling=backend_allow(bytes(decision.body)))
    decoded = there_and_back(decision, bodies=Bodies.ALL).decision
    assert decoded.ruling.body is decoded.body
    assert len(encode_sent(decision, Bodies.ALL, 1, "")) < 1.2 * len(decision.body)


def test_absurdly_long_fields_are_cut_before_they_are_sent() -> None:
    decision = decided(fields={"callId": "c" * 1_000_000, "caller": "4" * 100_000, "sessionId": {"a": "b" * 5000}})
    assert len(encode_sent(decision, Bodies.OFF, 1, "")) < 2000


def test_ids_are_in_the_order_of_time_and_differ_within_a_microsecond() -> None:
    by = preparer()
    ids = [by.prepare(encode_sent(decided(), Bodies.OFF, 1, "")).id for _ in range(ID_STEP)]
    assert len(set(ids)) == ID_STEP
    later = by.prepare(encode_sent(decided(time=NOW + 1e-5), Bodies.OFF, 1, "")).id
    assert later > max(ids)


@given(st.binary(max_size=40))
def test_what_is_no_decision_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's, of any message
        preparer().prepare(data)


def test_damaged_bodies_are_a_value_error() -> None:
    read = kept(preparer().prepare(encode_sent(decided(), Bodies.OFF, 1, "")))
    with pytest.raises(ValueError, match="damaged"):
        with_bodies(read, b"nothing")


@pytest.mark.parametrize(("decision", "ordinary"), [(decided(), True), (decided(ruling=TIMED_OUT), False)])
def test_the_result_of_a_shadow_copy_comes_back_with_the_kind_of_its_hook(decision: Decision, ordinary: bool) -> None:
    result = ShadowResult("new", "match", 200, "", 1.5, ())
    encoded = encode_shadow(result, decision)
    assert decode_shadow(encoded) == result
    assert is_ordinary_shadow(encoded) is ordinary
