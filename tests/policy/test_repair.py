"""Answers that PHP polluted, cut down to the backend's own object; and how the judge tells of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client import Answer
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Annotations, Cause, Failure, Ruling, Verdict
from gateway.policy.repair import MAX_CUT, Repaired, RepairFailure, ResponseCheck, repair
from gateway.upstreams import Judge
from gateway.upstreams.answers import DENIED

HOOK = json.dumps(
    {
        "nodeId": "Hw47CFMBEchVOpBMDr29IxudnJ1sjOY@192.0.2.101",
        "appKey": "defaultApp",
        "sessionId": "/203.0.113.7:49783/192.0.2.101:8443",
        "callId": "pbx-8BD6EE910B71BE609010-3434@pbx.example.org",
        "caller": "+493012345678",
        "callee": "0800<1234>",
        "sdp": 'v=0\r\no=- 1988962254 "quoted" \\ IN IP4 127.0.0.1\r\n',
    }
).encode()
OWN = HOOK
BOM = b"\xef\xbb\xbf"
TEXT = b"\nNotice: Undefined index: x in /var/www/api/index.php on line 12\n"
OTHER_TEXT = (
    b"\nStrict Standards: Only variables should be passed by reference in /a b/c.php(3) : eval()'d code on line 3\n"
)
HTML = b"<br />\n<b>Deprecated</b>:  mysql_connect(): gone in <b>C:\\www\\db.php</b> on line <b>7</b><br />\n"
LOG = b"PHP Warning:  fopen(/none): failed to open stream in /var/www/api/index.php on line 2\n"
STAMPED = b"[23-Nov-2026 10:11:47 Europe/Berlin] PHP Notice:  old in Unknown on line 0\n"

POLLUTED = {
    "a byte-order mark": (BOM, b"", ("bom",)),
    "several byte-order marks, as of several files": (BOM + BOM, b"", ("bom",)),
    "a byte-order mark at the end, as of a file included last": (b"", BOM, ("bom",)),
    "text before": (TEXT, b"", ("before",)),
    "text after": (b"", TEXT, ("after",)),
    "text before and after": (TEXT, TEXT, ("before", "after")),
    "several": (TEXT + OTHER_TEXT + TEXT, b"", ("before",)),
    "several of several forms": (TEXT + HTML + LOG + STAMPED, HTML + TEXT, ("before", "after")),
    "HTML before": (HTML, b"", ("before",)),
    "HTML after": (b"", HTML + HTML, ("after",)),
    "the log's form": (LOG, LOG, ("before", "after")),
    "the log's form with its time": (STAMPED, STAMPED, ("before", "after")),
    "a mark, then text": (BOM + TEXT, b"", ("bom", "before")),
    "a mark, then HTML": (BOM + HTML, b"", ("bom", "before")),
    "text, then a mark, as of a file included later": (TEXT + BOM, b"", ("bom", "before")),
    "all of it": (BOM + HTML + BOM, HTML, ("bom", "before", "after")),
    "blank lines and margins": (b"\r\n  \n" + TEXT + b" \t", b" \r\n\n" + TEXT + b"\n", ("before", "after")),
    "the line ends of Windows": (TEXT.replace(b"\n", b"\r\n"), HTML.replace(b"\n", b"\r\n"), ("before", "after")),
    "no line end at the very end": (b"", TEXT.rstrip(), ("after",)),
    "a message that quotes bytes that are no UTF-8": (TEXT.replace(b"x", b"\xff\xe4"), b"", ("before",)),
}


@pytest.mark.parametrize(("before", "after", "kinds"), POLLUTED.values(), ids=POLLUTED)
def test_marks_and_messages_around_the_object_are_cut_away(before: bytes, after: bytes, kinds: tuple[str, ...]) -> None:
    found = repair(before + OWN + after, HOOK)
    assert isinstance(found, Repaired)
    assert (found.body, found.kinds) == (OWN, kinds)


@pytest.mark.parametrize("label", ["Notice", "Warning", "Deprecated", "Strict Standards"])
def test_every_message_after_which_php_goes_on_is_known(label: str) -> None:
    for text in (TEXT.replace(b"Notice", label.encode()), HTML.replace(b"Deprecated", label.encode())):
        assert isinstance(repair(text + OWN, HOOK), Repaired)


@pytest.mark.parametrize("label", ["Fatal error", "Parse error", "Recoverable fatal error", "Unknown error", "Info"])
def test_after_any_other_message_an_object_is_not_known_to_be_the_answer_that_was_meant(label: str) -> None:
    for text in (TEXT.replace(b"Notice", label.encode()), HTML.replace(b"Deprecated", label.encode())):
        assert repair(OWN + text, HOOK) is RepairFailure.FORM
        assert repair(text + OWN, HOOK) is RepairFailure.FORM


def test_the_object_may_be_laid_out_spelt_and_extended_as_the_backend_likes() -> None:
    own = json.dumps({**json.loads(HOOK), "restClientConfig": {"OnCallEvent": {"restOnError": "FAIL"}}}, indent=2)
    own = own.replace("/", "\\/")
    assert repair(TEXT + own.encode() + b"\n", HOOK) == Repaired(own.encode(), ("before",), TEXT.decode().strip())


def test_braces_within_the_strings_of_the_backend_s_own_object_are_its_own() -> None:
    own = json.dumps({**json.loads(HOOK), "note": '}{"a":1}{\n{'}).encode()
    found = repair(TEXT + own, HOOK)
    assert isinstance(found, Repaired)
    assert found.body == own


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        OWN,
        b" \n" + OWN + b"\n",
        TEXT,
        TEXT + b"[]",
        TEXT + b"[" + OWN + b"]",
        TEXT + OWN[:-1],
        TEXT + OWN[1:],
        TEXT + OWN + b"}",
        TEXT + OWN + OWN,
        b"x" + OWN + TEXT,
        b"Hello\n" + TEXT + OWN,
        OWN + b"x" + TEXT,
        OWN + b" bye",
        TEXT + b"x " + OWN,
        TEXT.rstrip() + OWN,
        b"<br />\n" + OWN,
        OWN + b"<br />\n",
        TEXT + OWN + b"<br />",
        HTML.replace(b"<br />\n<b>", b"<b>") + OWN,
        HTML.replace(b"</b><br />", b"</b>") + OWN,
        HTML.replace(b"<br />\n", b"<br>\n") + OWN,
        TEXT.replace(b" on line 12", b"") + OWN,
        TEXT.replace(b"12", b"12a") + OWN,
        TEXT.replace(b"12", b"\xc2\xb2") + OWN,
        TEXT.replace(b"12", b"") + OWN,
        TEXT.replace(b" in ", b" at ") + OWN,
        TEXT.replace(b"/var/www/api/index.php", b"") + OWN,
        TEXT.replace(b"index: x", b"index: {x}") + OWN,
        TEXT.replace(b"index: x", b"index: x}") + OWN,
        OWN + TEXT.replace(b"index: x", b"index: {x"),
        TEXT.replace(b"index: x", b"index:\nx") + OWN,
        b"'''" + OWN + b"'''",
        b"\xef\xbb" + OWN,
        b"\xbf\xbb\xef" + OWN,
        OWN + b"\xef\xbb",
        b"\x00" + OWN + TEXT,
        OWN + b"\x00" + TEXT,
        OWN.replace(b"{", b"{" + BOM, 1),
        TEXT + OWN.replace(b"defaultApp", b"default\xff"),
        TEXT + b"{'a': 1}",
        OWN.decode().encode("utf-16"),
    ],
)
def test_anything_else_is_left_alone(body: bytes) -> None:
    assert repair(body, HOOK) is RepairFailure.FORM


def without(*names: str, **changed: object) -> bytes:
    hook = {name: value for name, value in json.loads(HOOK).items() if name not in names}
    return json.dumps({**hook, **changed}).encode()


@pytest.mark.parametrize("name", ["nodeId", "appKey", "sessionId", "callId"])
def test_the_object_must_carry_every_identifier_that_the_hook_carries(name: str) -> None:
    assert repair(BOM + without(name), HOOK) is RepairFailure.IDENTITY
    for wrong in ("other", "", None, 1, True, ["other"]):
        assert repair(BOM + without(**{name: wrong}), HOOK) is RepairFailure.IDENTITY
    assert repair(BOM + without(name, other={name: json.loads(HOOK)[name]}), HOOK) is RepairFailure.IDENTITY


def test_what_the_hook_does_not_carry_the_object_need_not() -> None:
    for names in (["callId"], ["sessionId"], ["nodeId"], ["nodeId", "callId"]):
        hook = without(*names)
        assert isinstance(repair(BOM + hook, hook), Repaired)
    hook = without(callId=None)
    assert isinstance(repair(BOM + without("callId"), hook), Repaired)


@pytest.mark.parametrize(
    "text",
    [
        "https%3A%2F%2Fexample.org%2F%3Fq%3D100%2525",
        "Tom &amp;amp; Jerry &#233;&#x1F600; &gt; 1",
        "caf\\u00e9 C:\\temp\\x41\\101",
        "<b>in</b> <i",
        "100 % & \\ <",
        "\u200e\uff11\uff12\uff13 \x07",
        "offline 1",
    ],
)
def test_a_hook_with_encoded_text_in_it_costs_no_repair(text: str) -> None:
    hook = without(callee=text)
    assert isinstance(repair(TEXT + hook, hook), Repaired)


@pytest.mark.parametrize("nothing", [None, "", 0, 7])
def test_a_hook_that_names_neither_session_nor_call_has_no_answer_that_is_known_to_be_its_own(nothing: object) -> None:
    for hook in (without("sessionId", "callId"), without(sessionId=nothing, callId=nothing)):
        assert repair(BOM + hook, hook) is RepairFailure.IDENTITY


@pytest.mark.parametrize("one", [1, True, 1.0])
@pytest.mark.parametrize("other", [1, True, 1.0])
def test_identifiers_that_are_no_strings_are_compared_with_their_types(one: object, other: object) -> None:
    equal = type(one) is type(other)
    assert isinstance(repair(BOM + without(nodeId=one), without(nodeId=other)), Repaired) is equal


def test_what_is_no_hook_has_no_answer() -> None:
    for hook in (b"", b"[]", b"{", b"\xff"):
        assert repair(TEXT + OWN, hook) is RepairFailure.IDENTITY


def test_a_text_of_the_hook_that_could_have_made_the_answer_is_told_from_the_rest() -> None:
    hook = json.dumps({**json.loads(HOOK), "callee": 'x in /a.php on line 1\n{"a": 1}'}).encode()
    assert repair(TEXT + hook, hook) is RepairFailure.ORIGIN
    assert repair(TEXT + OWN, hook) is RepairFailure.ORIGIN
    assert repair(b"Fatal error: " + OWN, hook) is RepairFailure.FORM


def test_what_was_cut_is_told_without_the_marks_and_bounded() -> None:
    found = repair(BOM + TEXT + OWN + HTML, HOOK)
    assert isinstance(found, Repaired)
    assert found.cut == TEXT.decode().strip() + "\n" + HTML.decode().strip()
    found = repair(1000 * TEXT + OWN, HOOK)
    assert isinstance(found, Repaired)
    assert len(found.cut) == MAX_CUT


def test_an_answer_with_thousands_of_lines_of_messages_is_no_answer() -> None:
    assert isinstance(repair(4000 * b"\n" + TEXT + OWN, HOOK), Repaired)
    assert repair(5000 * b"\n" + TEXT + OWN, HOOK) is RepairFailure.FORM
    assert repair(OWN + 5000 * b"\n" + TEXT, HOOK) is RepairFailure.FORM


@given(
    st.lists(st.sampled_from([BOM, TEXT, HTML, LOG, STAMPED, b"\n", b" \r\n"]), max_size=6),
    st.lists(st.sampled_from([BOM, TEXT, HTML, b"\n", b" \r\n"]), max_size=6),
)
def test_any_pollution_is_cut_down_to_the_backend_s_own_bytes(before: list[bytes], after: list[bytes]) -> None:
    body = b"".join([*before, OWN, *after])
    found = repair(body, HOOK)
    if isinstance(found, RepairFailure):
        assert is_json_object(body)
    else:
        assert found.body == OWN


PIECES = st.sampled_from(
    [BOM, TEXT, HTML, LOG, OWN, b"{}", b"{", b"}", b"\n", b"<br />\n", b"\x00", b"\xff", b'"', b" on line 1", b"x"]
)


@given(st.lists(PIECES | st.binary(max_size=8), max_size=8).map(b"".join))
def test_what_is_repaired_is_a_whole_object_that_stands_in_the_answer(body: bytes) -> None:
    found = repair(body, HOOK)
    if isinstance(found, Repaired):
        assert is_json_object(found.body)
        assert not is_json_object(body)
        before, middle, after = body.partition(found.body)
        assert middle
        assert not set(b"{}") & set(before + after)


# --- the judge ---


def ok(body: bytes, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(200, headers, body)


def test_an_answer_repaired_is_the_backend_s_verdict_with_its_annotations() -> None:
    ruling = Judge().judge(ok(BOM + TEXT + OWN), HOOK, ResponseCheck.REPAIR)
    assert isinstance(ruling, Ruling)
    plain = Judge().judge(ok(OWN), HOOK)
    assert isinstance(plain, Ruling)
    assert ruling == plain.annotate(repaired="bom+before", cut=TEXT.decode().strip())
    assert ruling.content_type == b"application/json"


@pytest.mark.parametrize("check", ResponseCheck)
def test_answers_that_need_no_repair_are_judged_alike(check: ResponseCheck) -> None:
    for answer in (ok(OWN), ok(b"{}"), ok(b' {"a": 1}\n'), Answer(403, (), TEXT + OWN), Answer(500, (), TEXT + OWN)):
        assert Judge().judge(answer, HOOK, check) == Judge().judge(answer, HOOK)
    assert Judge().judge(Answer(403, (), BOM), HOOK, check) is DENIED


def test_without_repair_a_polluted_answer_is_none_and_says_what_it_was() -> None:
    assert Judge().judge(ok(BOM + OWN), HOOK) == Judge().judge(ok(BOM + OWN), HOOK, ResponseCheck.STRICT)
    failure = Judge().judge(ok(BOM + OWN), HOOK)
    assert isinstance(failure, Failure)
    assert failure.detail == "status 200 with a byte-order mark before the JSON in place of one JSON object"


def test_what_cannot_be_repaired_for_certain_stays_a_bad_answer_and_says_so() -> None:
    failure = Judge().judge(ok(TEXT + b"{}"), HOOK, ResponseCheck.REPAIR)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.BAD_ANSWER
    assert failure.detail == (
        "status 200 with a PHP message in place of one JSON object; "
        "not repaired: its object has not the hook's own identifiers"
    )


@pytest.mark.parametrize("body", [b"", b"<html>", TEXT, b"\xff\x00", b"[]", BOM + OWN])
def test_without_a_check_any_200_is_a_yes_with_the_body_as_it_came(body: bytes) -> None:
    ruling = Judge().judge(ok(body), HOOK, ResponseCheck.OFF)
    assert isinstance(ruling, Ruling)
    assert (ruling.verdict, ruling.status, ruling.body, ruling.annotations) == (Verdict.ALLOW, 200, body, None)


def annotations_after(cut: bytes, hook: bytes) -> Annotations:
    ruling = Judge().judge(ok(b"\nNotice: " + cut + b" in /a.php on line 1\n" + hook), hook, ResponseCheck.REPAIR)
    assert isinstance(ruling, Ruling)
    assert ruling.annotations is not None
    return ruling.annotations


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        (b"no route from +493012345678 here", "no route from ***********78 here"),
        (b"no route from 493012345678@sip", "no route from **********78@sip"),
        (b"sip:%2B493012345678;x", "sip:%2B**********78;x"),
        (b"0800<1234>", "********4>"),
        (b"0800&lt;1234&gt;", "**************t;"),
        (b"no route from 03012345678 here", "no route from *********78 here"),
        (b"no route from 3012345678, 004930-12345678", "no route from ********78, *************78"),
        (b"no route from +49 (30) 123 456 78 here", "no route from +****************78 here"),
        (b"08001234", "******34"),
        (b"12:34:56 2026-11-23 10.0.0.101 08001235", "12:34:56 2026-11-23 10.0.0.101 08001235"),
    ],
)
def test_the_call_s_numbers_are_masked_in_what_was_cut(quoted: bytes, shown: str) -> None:
    assert annotations_after(quoted, HOOK).cut == f"Notice: {shown} in /a.php on line 1"


@pytest.mark.parametrize("quoted", ["alice.smith", "sip:alice.smith@example.org", "alice.smith%40example.org"])
def test_a_caller_s_name_is_masked_in_what_was_cut(quoted: str) -> None:
    cut = annotations_after(quoted.encode(), without(caller="alice.smith@example.org")).cut
    assert "alice" not in cut
    assert cut.startswith("Notice: ")


def test_a_short_number_is_masked_where_it_stands_by_itself() -> None:
    cut = annotations_after(b"x110y: 110", without(callee="110")).cut
    assert cut == "Notice: x110y: *** in /a.php on line 1"


def test_what_was_cut_can_do_nothing_to_a_terminal_and_is_bounded() -> None:
    cut = annotations_after(b"\x1b[2J\x00\x07\x7f\xc2\x9b\xe2\x80\xae\r\xff", HOOK).cut
    assert cut == "Notice: \\x1b[2J\\x00\\x07\\x7f\\x9b\\u202e\\r\ufffd in /a.php on line 1"
    assert len(annotations_after(3000 * b"\x1b", HOOK).cut) == 2000
