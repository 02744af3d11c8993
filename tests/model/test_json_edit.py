"""Fields put into a JSON text: it says what it said, with the fields set, and no other byte has changed."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.hooks import is_json_object
from gateway.model.json_edit import Fields, Members
from gateway.model.verdicts import Cause, Failure, Fallback, ProxyError, duplicate_ruling, fallback_ruling

NAMES: Final = ["callee", "caller", "x", "restClientConfig", "Callee"]

# --- texts of every spelling: white space, escapes, numbers as they come, names that stand twice ---

spaces = st.text(" \t\r\n", max_size=2)


@st.composite
def strings(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A JSON string, some of its characters escaped though they need not be."""
    parts = []
    for character in draw(texts):
        if draw(st.booleans()) and ord(character) < 0x10000 and not 0xD800 <= ord(character) < 0xE000:
            parts.append(f"\\u{ord(character):04{draw(st.sampled_from('xX'))}}")
        else:
            parts.append(json.dumps(character, ensure_ascii=False)[1:-1])
    return f'"{"".join(parts)}"'


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.sampled_from(["0", "-0", "1.50", "1E+2", "9" * 40, "-1.0e-7"])
scalars = st.one_of(st.sampled_from(["true", "false", "null"]), numbers, strings(texts))


def containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arrays = st.tuples(spaces, st.lists(values, max_size=3)).map(lambda it: f"[{it[0]}{f',{it[0]}'.join(it[1])}]")
    return st.one_of(arrays, objects(values))


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    names = strings(st.one_of(st.sampled_from(NAMES), texts))
    members = draw(st.lists(st.tuples(names, values), max_size=6))
    written = (f"{draw(spaces)}{name}{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}" for name, value in members)
    return f"{{{','.join(written) or draw(spaces)}}}"


documents = st.tuples(spaces, objects(st.recursive(scalars, containers, max_leaves=8)), spaces).map("".join)
values = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), texts)
fields = st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=4)


def members(text: str) -> list[tuple[str, Any]]:
    """Names and values in their order, twice where they stand twice."""
    found: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    return found


@given(documents, fields)
def test_the_text_says_what_it_said_with_the_fields_set(text: str, changes: dict[str, Any]) -> None:
    body = text.encode()
    changed = Fields(changes).put_into(body)
    assert is_json_object(changed)
    assert json.loads(changed) == {**json.loads(text), **changes}
    assert Fields(changes).put_into(changed) == changed, "once is enough"


@given(documents, fields)
def test_every_other_byte_stays(text: str, changes: dict[str, Any]) -> None:
    """The members are the same in the same order, the last of each changed name apart; so is all between the values."""
    changed = Fields(changes).put_into(text.encode()).decode()
    before, after = members(text), members(changed)
    present = {name for name, _ in before}
    expected = list(before)
    for name in changes:
        if name in present:
            last = max(place for place, (other, _) in enumerate(before) if other == name)
            expected[last] = name, changes[name]
    expected += [(name, value) for name, value in changes.items() if name not in present]
    assert after == expected
    kept = text.encode()
    spans = Members.parse(kept).spans
    for start, end in sorted((spans[name] for name in changes if name in present), reverse=True):
        kept = kept[:start] + b"\0" + kept[end:]
    tail = "".join(f",{json.dumps(name)}:" for name in changes if name not in present)
    blank = changed.encode()
    spans = Members.parse(blank).spans
    for start, end in sorted((spans[name] for name in changes), reverse=True):
        blank = blank[:start] + b"\0" + blank[end:]
    added = b"".join(b"%b\0" % part.encode() for part in re.findall(r",[^,]+:", tail))
    inner = added if present else added[1:]
    assert blank.replace(inner, b"", 1) == kept if inner else blank == kept


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"callee":"1","x":1}', b'{"callee":"1000","x":1}'),
        (b'{ "callee" : "1" , "x":1.50 }', b'{ "callee" : "1000" , "x":1.50 }'),
        (b'{"callee":"1","callee":"2"}', b'{"callee":"1","callee":"1000"}'),
        (b'{"\\u0063allee":"1"}', b'{"\\u0063allee":"1000"}'),
        (b'{"callee":{"callee":[1,{}]},"x":2}', b'{"callee":"1000","x":2}'),
        (b'{"x":{"callee":"1"}}', b'{"x":{"callee":"1"},"callee":"1000"}'),
        (b'{"x":1 }\n', b'{"x":1,"callee":"1000" }\n'),
        (b" { } ", b' {"callee":"1000" } '),
        (b'{"x":"}\\"{,\\\\"}', b'{"x":"}\\"{,\\\\","callee":"1000"}'),
        ('{"callée":"1"}'.encode(), '{"callée":"1","callee":"1000"}'.encode()),
    ],
)
def test_what_changes_is_the_last_of_the_name_however_it_is_spelt(body: bytes, changed: bytes) -> None:
    assert Fields({"callee": "1000"}).put_into(body) == changed


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_costs_no_recursion(opening: bytes) -> None:
    depth = 100_000
    nested = opening * depth + b"1" + (b"]" if opening == b"[" else b"}") * depth
    body = b'{"deep":%b,"callee":"1"}' % nested
    assert Fields({"callee": "1000"}).put_into(body) == b'{"deep":%b,"callee":"1000"}' % nested
    assert Fields({"x": True}).put_into(body) == b'{"deep":%b,"callee":"1","x":true}' % nested


def test_a_fallback_changes_fields_for_its_cause_alone_and_a_repeat_gets_the_same_answer() -> None:
    fallback = Fallback(
        frozenset({Cause.UNREACHABLE, Cause.TIMEOUT}), {Cause.UNREACHABLE: Fields({"callee": "1000", "x": 1})}
    )

    def told(cause: Cause) -> tuple[int, bytes, str | None]:
        ruling = fallback_ruling(Failure(cause, ProxyError.CONNECTION_REFUSED, "no"), fallback, b'{"callee":"1"}')
        repeat = duplicate_ruling(ruling)
        assert (repeat.status, repeat.body) == (ruling.status, ruling.body)
        changed = None if ruling.annotations is None else ruling.annotations.changed_fields
        assert changed == (None if repeat.annotations is None else repeat.annotations.changed_fields)
        return ruling.status, ruling.body, changed

    assert told(Cause.UNREACHABLE) == (200, b'{"callee":"1000","x":1}', "callee,x")
    assert told(Cause.TIMEOUT) == (200, b'{"callee":"1"}', None)
    assert told(Cause.ERROR_STATUS) == (403, b"", None)
    assert fallback != Fallback(frozenset({Cause.UNREACHABLE, Cause.TIMEOUT}))
