"""Globs in time proportional to the text."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.policy.rules.globs import compile_glob, fold, is_glob, is_prefix

FEW = "abA+*?.\n"
"""Few characters, so that texts and globs often have to do with each other."""
GLOBS = st.text(FEW, max_size=12)
TEXTS = st.text(FEW, max_size=16)


def matches(glob: str, text: str) -> bool:
    return compile_glob(glob).fullmatch(text) is not None


@given(GLOBS, TEXTS)
def test_it_matches_what_the_shell_s_globs_match(glob: str, text: str) -> None:
    assert matches(glob, text) is fnmatchcase(text, glob)


@given(st.text(max_size=12), st.text(max_size=16))
def test_brackets_and_all_other_characters_stand_for_themselves(glob: str, text: str) -> None:
    assert matches(glob, text) is fnmatchcase(text, glob.replace("[", "[[]"))
    assert matches(glob.replace("*", "").replace("?", ""), text) is (glob.replace("*", "").replace("?", "") == text)


@given(st.text(), st.text(), st.text())
def test_a_text_matches_the_glob_that_was_cut_out_of_it(before: str, between: str, after: str) -> None:
    assert matches("*", before)
    assert matches("?" * len(before), before)
    if not is_glob(before + after):
        assert matches(f"{before}*{after}", before + between + after)


@pytest.mark.parametrize(
    ("text", "glob", "prefix"),
    [
        ("", False, False),
        ("110", False, False),
        ("*", True, True),
        ("+49*", True, True),
        ("+49**", True, False),
        ("+4?*", True, False),
        ("*49", True, False),
        ("+49?", True, False),
    ],
)
def test_what_is_a_glob_and_what_can_be_looked_up(text: str, glob: bool, prefix: bool) -> None:
    assert (is_glob(text), is_prefix(text)) == (glob, prefix)


@given(st.text(), st.text())
@example("\u0391", "\u03a3")
def test_folding_is_done_to_each_character_by_itself(first: str, second: str) -> None:
    assert fold(first) + fold(second) == fold(first + second)


@given(st.text())
def test_a_text_in_upper_or_lower_case_is_the_same_once_folded(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    if text.isascii():
        assert fold(text.upper()) == fold(text.lower())


@given(st.text(max_size=12), st.text(max_size=16))
def test_folding_adds_no_wildcard_and_takes_none_away(glob: str, text: str) -> None:
    assert [c for c in fold(glob) if c in "*?"] == [c for c in glob if c in "*?"]


BACKTRACKERS = [
    ("*a" * 20 + "*b", "a" * 5000),
    ("a*" * 40, "a" * 5000 + "b"),
    ("*?" * 30 + "b", "a" * 5000),
    ("*a?" * 20 + "*b*c", "ab" * 2500),
    ("*" * 40 + "b", "a" * 5000),
]


def test_adversarial_texts_that_would_have_a_usual_pattern_backtrack_for_years() -> None:
    # In a process of its own, and ended after 20 s: a pattern that backtracks cannot be interrupted from within.
    source = (
        "import sys\n"
        "from gateway.policy.rules.globs import compile_glob\n"
        f"for glob, text in {BACKTRACKERS!r}:\n"
        "    print(compile_glob(glob).fullmatch(text) is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["False", "True", "False", "False", "False"]


def test_adversarial_globs_are_compiled_without_a_choice_that_could_be_taken_back() -> None:
    # By construction: all but the last ``.*`` stand in an atomic group, so that nothing multiplies.
    pattern = compile_glob("*a" * 20 + "*b").pattern
    assert pattern.count(".*") == 21
    assert pattern.count("(?>.*?") == 20
