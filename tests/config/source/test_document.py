"""YAML with positions: what it means, where it is, and what is too much."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import ConfigError, loads
from gateway.config.source.document import MAX_DEPTH, parse


def plain(text: str) -> Any:
    document = parse(text, "gateway.yaml")
    assert document.problems == []
    return document.plain()


def only_message(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "gateway.yaml")
    (problem,) = caught.value.problems
    return problem.message


REJECTED = [
    ("log: {}\nx\x00: 1\n", "2:2: not valid YAML: the character U+0000 is not allowed"),
    ("", "1:1: the file is empty; it needs at least upstreams and apps"),
    ("# only a comment\n", "1:1: the file is empty; it needs at least upstreams and apps"),
    ("---\n~\n", "2:1: the file is empty; it needs at least upstreams and apps"),
    ("- a\n", "1:1: the file must be a mapping of keys such as server, upstreams and apps"),
    ("just text\n", "1:1: the file must be a mapping of keys such as server, upstreams and apps"),
    ("{}\n---\n{}\n", "2:1: a second YAML document begins here; a configuration is one document"),
    ("log: {level: !!str info}\n", '1:14: log.level: the tag "!!str" is not allowed: remove it'),
    ("log: !!python/object:os.system {}\n", '1:6: log: the tag "!!python/object:os.system" is not allowed: remove it'),
    ("? [a]\n: b\n", "1:3: a key must be a single value, not a list or a mapping"),
    ("log: {level: info}\nserver: {}\nlog: {}\n", '3:1: log: duplicate key "log" (lines 1 and 3)'),
    ("log: *x\n", "1:6: the alias *x has no anchor before it; a glob must be in quotes"),
    ("log: &x {mask: *x}\n", "1:16: the alias *x is inside its own anchor"),
    ("log: {<<: info}\n", "1:7: log: << takes a mapping or a list of mappings, usually an alias such as *base"),
    ("log: {level: '${env:NO_SUCH_VARIABLE}'}\n", "1:14: log.level: the environment variable NO_SUCH_VARIABLE is not set"),
    ("log: {level: '${file:/no/such/file}'}\n", '1:14: log.level: the file "/no/such/file" cannot be read: no such file or directory'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("TRUE", True),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("tRue", "tRue"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("none", "none"),
        ("1", 1), ("-7", -7), ("+5", 5), ("0815", 815), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"),
        ("-.inf", float("-inf")), ("1.5", 1.5), ("-.5", -0.5), ("1e3", 1000.0), ("1.", 1.0),
        (".inf", float("inf")), ("e3", "e3"),
        ("12:30:45", "12:30:45"), ("2026-01-01", "2026-01-01"), ("=", "="), ("3s", "3s"),
        ("'1'", "1"), ('"true"', "true"), ("'~'", "~"), ("1" * 5000, "1" * 5000),
    ],
)  # fmt: skip
def test_scalars_resolve_by_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    result = plain(f"v: {text}")["v"]
    assert result == value
    assert type(result) is type(value)


def test_keys_are_taken_as_their_text() -> None:
    assert plain("0815: a\ntrue: b\n~: c\n1.50: d\n'': e\n") == {
        "0815": "a",
        "true": "b",
        "~": "c",
        "1.50": "d",
        "": "e",
    }


def test_an_alias_repeats_its_anchor_and_may_be_a_key() -> None:
    assert plain("a: &x {b: &y c}\nd: *x\n*y : e\n") == {"a": {"b": "c"}, "d": {"b": "c"}, "c": "e"}


def test_merged_keys_yield_to_the_own_ones_and_the_earlier_of_the_merged() -> None:
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nall: {<<: [*one, *two], a: 0}\n'quoted': {'<<': 1}\n"
    merged = plain(text)
    assert merged["all"] == {"a": 0, "b": 1, "c": 2}
    assert merged["quoted"] == {"<<": 1}


def test_a_position_is_that_of_the_key_the_item_or_what_should_hold_it() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: y}\n", "gateway.yaml")
    assert document.position(()) == (1, 1)
    assert document.position(("a",)) == (1, 1)
    assert document.position(("a", "b")) == (2, 3)
    assert document.position(("a", "c", 1)) == (5, 7)
    assert document.position(("a", "c", 1, "d")) == (5, 8)
    assert document.position(("a", "missing", "deeper")) == (1, 1)
    assert document.position(("a", "c", 7)) == (3, 3)


def test_columns_count_characters() -> None:
    assert parse("{é😀: 1, b: 2}", "gateway.yaml").position(("b",)) == (1, 9)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert plain("\ufeffa: 1") == {"a": 1}


def test_duplicate_keys_are_found_at_every_depth() -> None:
    document = parse("a:\n  - b: 1\n    b: 2\nc: 1\nc: 2\n", "gateway.yaml")
    assert [str(problem) for problem in document.problems] == [
        'gateway.yaml:3:5: a[0].b: duplicate key "b" (lines 2 and 3)',
        'gateway.yaml:5:1: c: duplicate key "c" (lines 4 and 5)',
    ]


def test_nesting_ends_at_the_limit() -> None:
    inside = MAX_DEPTH - 1
    plain("a: " + "[" * inside + "]" * inside)
    assert only_message("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH) == "nested more than 64 levels deep"


def test_nesting_counts_what_an_alias_stands_for() -> None:
    text = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30
    assert only_message(text) == "nested more than 64 levels deep"


def test_nesting_through_a_chain_of_aliases_is_counted_too() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 70))
    assert only_message(text) == "nested more than 64 levels deep"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_endless_nesting_is_given_up_early(opening: str) -> None:
    assert only_message(opening * 200_000) in {
        "nested more than 64 levels deep",
        "a key must be a single value, not a list or a mapping",
    }


def test_an_alias_bomb_is_defused() -> None:
    text = "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert only_message(text) == "more than 2,000,000 values, aliases counted as what they repeat"


def test_a_bomb_of_merge_keys_is_defused() -> None:
    text = "a0: &a0 {x: y}\n" + "".join(
        f"a{n}: &a{n} {{k{n}: 1, <<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
    )
    assert only_message(text) == "more than 2,000,000 values, aliases counted as what they repeat"


def test_more_values_than_the_limit_are_refused() -> None:
    message = "more than 2,000,000 values, aliases counted as what they repeat"
    assert only_message("a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 2000 + "]") == message
