"""Two answers compared: verdicts first, then JSON values field by field, told in bounds and without secrets."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from decimal import Context, Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.verdicts import Verdict
from gateway.policy.comparison import (
    MAX_BODY,
    MAX_DIFFERENCES,
    MAX_PATH,
    MAX_SHOWN,
    Compare,
    ComparedAnswer,
    Comparison,
    Difference,
    Finding,
    compare,
)

REJECTED = ComparedAnswer(Verdict.REJECT, 403, b"", "")
FAILED = ComparedAnswer(None, 0, b"", "no connection")
PHONES = frozenset({"caller", "callee"})


def allowed(body: bytes | str) -> ComparedAnswer:
    return ComparedAnswer(Verdict.ALLOW, 200, body.encode() if isinstance(body, str) else body, "")


def compared(ours: bytes | str, theirs: bytes | str, *ignore: str, mask: frozenset[str] = frozenset()) -> Comparison:
    return compare(allowed(ours), allowed(theirs), Compare.BODY, frozenset(ignore), mask)


def places(ours: Any, theirs: Any, *ignore: str, mask: frozenset[str] = frozenset()) -> dict[str, tuple[Any, Any]]:
    """path → (ours, theirs) of two values' differences."""
    comparison = compared(json.dumps(ours), json.dumps(theirs), *ignore, mask=mask)
    assert (comparison.outcome is Finding.BODY_DIFFERS) == bool(comparison.differences)
    return {found.path: (found.ours, found.theirs) for found in comparison.differences}


# --- verdicts ---


@pytest.mark.parametrize("how", Compare)
@pytest.mark.parametrize(
    ("ours", "theirs", "outcome", "differences"),
    [
        (REJECTED, REJECTED, Finding.MATCH, ()),
        (allowed("{}"), allowed("{}"), Finding.MATCH, ()),
        (allowed("{}"), REJECTED, Finding.VERDICT_DIFFERS, (Difference("verdict", "allow", "reject"),)),
        (REJECTED, allowed("{}"), Finding.VERDICT_DIFFERS, (Difference("verdict", "reject", "allow"),)),
        (allowed("{}"), FAILED, Finding.CANDIDATE_FAILED, ()),
        (REJECTED, FAILED, Finding.CANDIDATE_FAILED, ()),
        (FAILED, FAILED, Finding.CANDIDATE_FAILED, ()),
        (FAILED, REJECTED, Finding.VERDICT_DIFFERS, (Difference("verdict", None, "reject"),)),
    ],
)
def test_verdicts_come_first(
    how: Compare, ours: ComparedAnswer, theirs: ComparedAnswer, outcome: Finding, differences: tuple[Difference, ...]
) -> None:
    assert compare(ours, theirs, how) == Comparison(outcome, differences)


def test_bodies_count_only_where_they_are_asked_for() -> None:
    one, other = allowed('{"a":1}'), allowed('{"a":2}')
    assert compare(one, other, Compare.VERDICT).outcome is Finding.MATCH
    assert compare(one, other, Compare.BODY).outcome is Finding.BODY_DIFFERS


def test_the_bodies_of_refusals_say_nothing() -> None:
    page = REJECTED._replace(body=b"<html>go away</html>")
    assert compare(REJECTED, page, Compare.BODY).outcome is Finding.MATCH


# --- values ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ('{"a":1,"b":[true,null]}', ' {\n"b" : [ true , null ],"a":1}\n'),
        ('{"a":"ü/"}', '{"a":"\\u00fc\\/"}'),
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":1e0}'),
        ('{"a":1200}', '{"a":12E+2}'),
        ('{"a":0.5}', '{"a":5e-1}'),
        ('{"a":0}', '{"a":-0.0e7}'),
        ('{"a":100000000000000000000000000000}', '{"a":1e29}'),
        ('{"a":1000000000000000000000000000000}', '{"a":1.0e30}'),
        ('{"a":-0.00000012300}', '{"a":-123e-9}'),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_the_same_values_match_however_they_are_written(ours: str, theirs: str) -> None:
    assert compared(ours, theirs) == Comparison(Finding.MATCH)
    assert compared(theirs, ours) == Comparison(Finding.MATCH)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("1", '"1"'),
        ("1", "true"),
        ("0", "false"),
        ("0", "null"),
        ('""', "null"),
        ("[]", "{}"),
        ("1", "10"),
        ("-1", "1"),
        ("0.1", "0.1000000000000000055"),
        ("9007199254740993", "9007199254740992"),
        ("1e400", "1e401"),
        ("-0.05", "0.05"),
        ("100000000000000000000000000000", "1e30"),
    ],
)
def test_values_that_only_look_alike_differ(ours: str, theirs: str) -> None:
    assert compared(f'{{"a":{ours}}}', f'{{"a":{theirs}}}') == Comparison(
        Finding.BODY_DIFFERS, (Difference("a", ours, theirs),)
    )


def test_a_difference_is_told_by_its_path_with_both_values() -> None:
    ours = {"restClientConfig": {"OnCallEvent": {"restOnError": "FAIL", "n": 1}}, "calls": [{"id": 1}, {"id": 2}]}
    theirs = {"restClientConfig": {"OnCallEvent": {"restOnError": "LOG", "n": 1}}, "calls": [{"id": 1}, {"id": 3}]}
    assert places(ours, theirs) == {
        "restClientConfig.OnCallEvent.restOnError": ('"FAIL"', '"LOG"'),
        "calls[1].id": ("2", "3"),
    }


def test_what_one_side_lacks_differs_from_null() -> None:
    assert places({"a": None, "b": [1]}, {"b": [1, None]}) == {"a": ("null", None), "b[1]": (None, "null")}


def test_a_whole_body_of_another_kind_is_told_at_the_root() -> None:
    assert places([1], {"a": 1}) == {"$": ("[1]", '{"a":1}')}


def test_a_body_that_is_no_json_is_told_of_and_never_quoted() -> None:
    (found,) = compared('{"a":1}', "password=hunter2").differences
    assert found == Difference("$", "7 bytes, JSON", "16 bytes, not JSON")
    assert compared("the same", "the same").outcome is Finding.MATCH


@pytest.mark.parametrize("body", ["\ufeff{}", '{"a":NaN}', "{} {}", "", b"\xff{}"])
def test_what_is_almost_json_is_none(body: str | bytes) -> None:
    (found,) = compared("{}", body).differences
    assert found.theirs is not None
    assert found.theirs.endswith("not JSON")


# --- ignored fields ---


def test_a_field_is_ignored_by_its_name_at_any_depth() -> None:
    assert places({"ts": 1, "a": [{"ts": 1}]}, {"a": [{"ts": 2}]}, "ts") == {}


def test_a_field_is_ignored_by_its_path_and_there_only() -> None:
    assert places({"a": {"id": 1}, "id": 1}, {"a": {"id": 2}, "id": 2}, "a.id") == {"id": ("1", "2")}


def test_a_path_leaves_the_indexes_out() -> None:
    assert places({"calls": [{"id": 1}, {"id": 2}]}, {"calls": [{"id": 3}, {"id": 4}]}, "calls.id") == {}


def test_an_ignored_field_counts_neither_where_it_is_missing() -> None:
    assert places({"a": 1}, {}, "a") == {}


# --- what is reported is bounded and discreet ---


@pytest.mark.parametrize(
    "name",
    ["password", "sipPassword", "PASSWD", "db_pwd", "clientSecret", "authToken", "Authorization", "restHash", "sdp"],
)
def test_values_of_fields_that_look_secret_are_never_told(name: str) -> None:
    found = places({name: "hunter2", "x": {name: "hunter2"}}, {name: "hunter3", "x": {"y": {name: "hunter2"}}})
    assert "hunter" not in str(found)
    assert found[name] == ("***", "***")


def test_phone_numbers_are_told_where_nobody_minds_and_masked_where_they_do() -> None:
    one, other = {"caller": "+49301234567", "x": "sip:+49301234567@a"}, {"caller": "100200", "x": "sip:100200@b"}
    assert places(one, other)["caller"] == ('"+49301234567"', '"100200"')
    assert places(one, other, mask=PHONES) == {
        "caller": ('"**********67"', '"****00"'),
        "x": ('"sip:**********67@a"', '"sip:****00@b"'),
    }


def test_a_phone_number_is_masked_in_keys_numbers_and_whole_objects_too() -> None:
    one = {"callee": 4930123, "a": {"4930123": {"callee": 4930123, "n": 4930123}}}
    assert "4930123" not in str(places(one, {"a": {"b": 1}}, mask=PHONES))
    assert "4930123" not in str(places({"callee": {"n": "4930123"}}, {}, mask=PHONES))


def test_of_two_numbers_one_of_which_is_part_of_the_other_both_are_masked() -> None:
    one = {"caller": "4930", "callee": "+493012345", "x": "4930, +493012345, 84930"}
    assert places(one, {**one, "x": ""}, mask=PHONES) == {"x": ('"****, ********45, 8****"', '""')}


def test_long_texts_are_told_where_they_begin_to_differ() -> None:
    ((ours, theirs),) = places({"a": "x" * 5000 + "ours"}, {"a": "x" * 5000 + "theirs"}).values()
    assert ours.endswith('xours"')
    assert theirs.endswith('xtheirs"')
    assert len(ours) < MAX_SHOWN


def test_only_so_many_differences_are_told_and_that_there_are_more() -> None:
    comparison = compared(json.dumps(list(range(1000))), json.dumps([None] * 1000))
    assert len(comparison.differences) == MAX_DIFFERENCES
    assert comparison.more


def test_a_body_that_is_too_large_for_fields_is_compared_as_bytes() -> None:
    large = '{"a":"' + "x" * MAX_BODY + '"}'
    assert compared(large, large).outcome is Finding.MATCH
    (found,) = compared(large, large + " ").differences
    assert found.path == "$"
    assert found.ours == f"{len(large)} bytes, too large to be compared by fields"


def test_what_differs_far_down_is_told_as_a_whole() -> None:
    deep = '{"a":' * 100 + "%d" + "}" * 100
    (found,) = compared(deep % 1, deep % 2).differences
    assert found.path == ".".join("a" * 12)


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_adversarial_nesting_is_no_way_to_break_a_comparison(opening: str) -> None:
    closing = "}" if opening[0] == "{" else "]"
    for depth in range(100, 1200, 20):
        ours, theirs = (opening * depth + text + closing * depth for text in ("1", "2"))
        assert compared(ours, theirs).outcome is Finding.BODY_DIFFERS
    endless = opening * (MAX_BODY // len(opening))
    assert compared(endless, endless + " ").outcome is Finding.BODY_DIFFERS


@pytest.mark.parametrize(
    "number", ["1e999999999999", "1e-999999999999999999999999", "9" * 30_000, "0." + "0" * 30_000 + "1"]
)
def test_adversarial_numbers_are_compared_without_being_worked_out(number: str) -> None:
    assert compared(f'{{"a":{number}}}', f'{{ "a":{number}}}').outcome is Finding.MATCH
    (found,) = compared(f'{{"a":{number}}}', '{"a":1}').differences
    assert len(found.ours or "") <= MAX_SHOWN


def test_adversarial_number_that_begins_like_the_text_it_is_looked_for_in_costs_no_square_of_the_time() -> None:
    # A caller chooses both, and nothing else runs meanwhile. At this size a square takes hours; a process can be ended.
    code = """
from gateway.policy import comparison
from gateway.model.verdicts import Verdict
comparison.MAX_BODY = 1 << 30
body = b'{"caller":"%b","callee":"caller","x":"%b' % (b"a" * 10**6 + b"b", b"a" * 2 * 10**6)
ours, theirs = (comparison.ComparedAnswer(Verdict.ALLOW, 200, body + end, "") for end in (b'1"}', b'2"}'))
print(comparison.compare(ours, theirs, comparison.Compare.BODY, mask=frozenset({"caller", "callee"})).outcome)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "body_differs\n"


def test_adversarial_keys_stay_within_bounds_and_can_be_sent_on() -> None:
    ours = '{"\\ud800":{"' + "k" * 20_000 + '":{"":"\\udfff","\\n\\u001b[31m":"' + "v" * 20_000 + '"}}}'
    comparison = compared(ours, ours.replace("v", "w").replace("udfff", "udffe"))
    assert [found.path.count("k") < 100 for found in comparison.differences] == [True, True]
    msgspec.json.encode(comparison)


# --- properties ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdef") | st.text(), inner),
    max_leaves=20,
)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same value with its keys in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffled(inner, chance) for key, inner in items}
    return [shuffled(inner, chance) for inner in value] if isinstance(value, list) else value


def followed(value: Any, path: str) -> Any:
    """What a value has at a path of plain names and indexes."""
    for part in path.replace("[", ".[").split("."):
        if part.startswith("["):
            index = int(part[1:-1])
            value = value[index] if index < len(value) else KeyError
        elif part not in ("$", ""):
            value = value.get(part, KeyError)
    return value


@given(VALUES, st.randoms(use_true_random=False), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_value_matches_itself_in_any_formatting(
    value: Any, chance: random.Random, indent: Any, ensure_ascii: bool
) -> None:
    other = json.dumps(shuffled(value, chance), indent=indent, ensure_ascii=ensure_ascii)
    assert compared(json.dumps(value), other) == Comparison(Finding.MATCH)


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(-10, 10, places=2)


@given(DECIMALS, DECIMALS)
def test_numbers_match_exactly_where_they_are_the_same_number(one: Decimal, other: Decimal) -> None:
    for mine, theirs in ((one, other), (one, one.normalize(Context(prec=1000, Emin=-(10**9), Emax=10**9)))):
        outcome = compared(f'{{"a":{mine:E}}}', f'{{"a":{theirs}}}').outcome
        assert (outcome is Finding.MATCH) == (mine == theirs)


@given(VALUES, VALUES, st.frozensets(st.sampled_from("abc")), st.sampled_from([frozenset[str](), frozenset("def")]))
def test_a_comparison_is_the_same_from_either_side(
    ours: Any, theirs: Any, ignore: frozenset[str], mask: frozenset[str]
) -> None:
    forth = compared(json.dumps(ours), json.dumps(theirs), *ignore, mask=mask)
    back = compared(json.dumps(theirs), json.dumps(ours), *ignore, mask=mask)
    assert back.outcome is forth.outcome
    assert back.more is forth.more
    assert back.differences == tuple(Difference(found.path, found.theirs, found.ours) for found in forth.differences)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdef"), inner),
    max_leaves=20,
)


@given(PLAIN, PLAIN)
def test_every_path_that_is_told_really_differs(ours: Any, theirs: Any) -> None:
    comparison = compared(json.dumps(ours), json.dumps(theirs))
    for found in comparison.differences:
        mine, other = followed(ours, found.path), followed(theirs, found.path)
        assert mine is KeyError or other is KeyError or json.dumps(mine) != json.dumps(other)
        assert (mine is KeyError) == (found.ours is None)
        assert (other is KeyError) == (found.theirs is None)
    if not comparison.differences:
        assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


@given(VALUES | st.text(), VALUES | st.text(), st.booleans(), st.booleans())
def test_nothing_that_is_told_is_unbounded(ours: Any, theirs: Any, plain: bool, masked: bool) -> None:
    one = json.dumps(ours) if plain else str(ours)
    mask = frozenset("abc") if masked else frozenset[str]()
    comparison = compared(one.encode("utf-8", "replace"), json.dumps(theirs), mask=mask)
    assert len(comparison.differences) <= MAX_DIFFERENCES
    for found in comparison.differences:
        assert len(found.path) <= MAX_PATH
        assert max(len(found.ours or ""), len(found.theirs or "")) <= MAX_SHOWN
    msgspec.json.encode(comparison)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_adversarial_bytes_are_compared_without_raising(ours: bytes, theirs: bytes) -> None:
    assert (compared(ours, theirs).outcome is Finding.MATCH) >= (ours == theirs)
