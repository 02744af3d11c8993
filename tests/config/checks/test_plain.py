"""Parts of the plain data of a file, of any type."""

from __future__ import annotations

import pytest

from gateway.config.checks.plain import as_list, is_mapping, mappings, texts


@pytest.mark.parametrize("value", [None, "a", 1, {"a": 1}, True])
def test_what_is_no_list_has_no_items(value: object) -> None:
    assert as_list(value) == []
    assert mappings(value) == []


def test_items_of_the_wrong_type_are_passed_over() -> None:
    assert mappings([{"a": 1}, "b", None]) == [{"a": 1}]
    assert is_mapping({})
    assert not is_mapping([])


def test_one_text_and_a_list_of_texts_each_have_their_places() -> None:
    assert list(texts(("apps", "a"), "x")) == [(("apps", "a"), "x")]
    assert list(texts(("rules",), ["x", 1, "y"])) == [(("rules", 0), "x"), (("rules", 2), "y")]
    assert list(texts((), {"x": 1})) == []
