"""Texts that are not YAML: what the message says, and where."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, loads

MISTAKES: Final = [
    ("log: {level: info\n", "1:6: a { is opened here and not closed, or a comma is missing: add } or ,"),
    ("log:\n\tlevel: info\n", "2:1: line 2 is indented with a tab; YAML allows spaces only"),
    ("log:\n  level: info\n\tformat: json\n", "3:1: line 3 is indented with a tab; YAML allows spaces only"),
    ("apps:\n  -\ta: 1\n    b: 2\n", "2:4: line 2 is indented with a tab; YAML allows spaces only"),
    ("log\n  level: info\n", "1:1: line 1 lacks a colon after its key: write KEY: VALUE"),
    ("log:\n  level: info\n  format json\n", "3:3: line 3 lacks a colon after its key: write KEY: VALUE"),
    ("log:\n  level info\n# why\n  format: json\n", "2:3: line 2 lacks a colon after its key: write KEY: VALUE"),
    ("log:\n  level:info\n  format: json\n", "2:3: line 2 lacks a space after the colon: write KEY: VALUE"),
    ("log: {}\napps", "2:1: line 2 lacks a colon after its key: write KEY: VALUE"),
    ('log: {level: "info}\napps: {}\n', '1:14: a quote (") is opened here and never closed'),
    ("a: 'b\nc: d\n", "1:4: a quote (') is opened here and never closed"),
    ('a: "b" c\n', "1:8: text after a closing quote: put the whole value in one pair of quotes"),
    ("a: 'it's'\n", "1:8: text after a closing quote: put the whole value in one pair of quotes"),
    ('a: "C:\\dir"\n', "1:7: in double quotes, a \\ begins an escape such as \\n: write \\\\, or use single quotes"),
    ("a: [1, 2\nb: 3\n", "1:4: a [ is opened here and not closed, or a comma is missing: add ] or ,"),
    ("a: {b: 1\n", "1:4: a { is opened here and not closed, or a comma is missing: add } or ,"),
    ("a: {b: 1 c: 2}\n", "1:11: a comma or } is missing here, before column 11"),
    ("a: [", "1:5: the text ends inside [ ] or { }: close it"),
    ("a: [1, 2}\n", "1:9: a comma or ] is missing here, before column 9"),
    ("a: {b: 1}}\n", "1:10: a } without a { before it: remove it, or put the value in quotes"),
    ("a: 1\nb: ]\n", "2:4: a ] without a [ before it: remove it, or put the value in quotes"),
    ("a: [${env:X}]\n", "1:6: a value with ${ must be in quotes inside [ ] and { }"),
    ("a:\n    b: 1\n  c: 2\n",
     "3:3: line 3 is indented unlike the lines above it: keys of one mapping begin in one column"),
    ("a:\n  b: 1\n    c: 2\n", "3:6: line 3 is indented more than line 2, which has a value: indent both alike"),
    ("a:\n  b: 1\n  - c\n", "3:3: line 3 begins a list where a key is expected: check how it is indented"),
    ("a:\n  - b\n  c: 1\n", "3:3: line 3 must begin with - like the list's items above it, or be indented otherwise"),
    ("a: b: c\n", "1:5: a second colon in a value: put the value in quotes"),
    ("a: @x\n", "1:4: a value cannot begin with @: put it in quotes"),
    ("a: `x`\n", "1:4: a value cannot begin with `: put it in quotes"),
    ("a: %x\n", "1:4: a value cannot begin with %: put it in quotes"),
    ("%x: 1\n", "1:1: a line cannot begin with %: put the key in quotes"),
    ("*: {}\n", '1:1: a value that begins with * must be in quotes, such as "*"'),
    ("methods: {*Event: {}}\n", "1:11: the alias *Event has no anchor before it; a glob must be in quotes"),
    ("a: | x\n  b\n", "1:6: text after |: begin it on the next line, or put the whole value in quotes"),
    ("a: 1\n...\nb: 2\n", "3:1: the YAML document has ended before this line: remove the line ..."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_explained_where_it_was_made(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


SECRET: Final = "hunter2"


@given(st.lists(st.sampled_from([*"\n\n  \t:-[]{},'\"\\|>&*%@`!?#", "a: ", SECRET]), max_size=30).map("".join))
def test_no_message_quotes_a_text_that_is_not_yaml(text: str) -> None:
    try:
        loads(text)
    except ConfigError as exc:
        unreadable = [problem for problem in exc.problems if not problem.path]
        assert not any(
            SECRET in problem.message
            for problem in unreadable
            if "alias" not in problem.message and "tag" not in problem.message
        )
        lines = max(1, len(text.splitlines()))
        assert all(1 <= problem.line <= lines + 1 and problem.column >= 1 for problem in unreadable)
