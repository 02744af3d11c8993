"""Keys for methods: by name, glob and type, the most specific one first."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.hooks import CATALOGUE, MethodType, method_type
from gateway.policy.method_keys import TYPES, MethodKeys, is_name

NAMES = st.text("abE", min_size=1, max_size=4) | st.sampled_from([*CATALOGUE, *TYPES])
KEYS = NAMES | st.text("abE*?", min_size=1, max_size=4) | st.sampled_from(["*", "On*", "*StatusEvent", "*Event", "?n*"])


def matching(keys: list[str], method: str, kind: MethodType) -> list[str]:
    """The same, worked out one by one."""
    keys = list(dict.fromkeys(keys))
    is_word = method in TYPES and method != "connect"
    globs = [
        key for key in keys if set(key) & set("*?") and (not key.strip("*") if is_word else fnmatchcase(method, key))
    ]
    found = [key for key in keys if key == method and (key not in TYPES or key == "connect")]
    found += sorted(globs, key=len, reverse=True)
    return found + [key for key in keys if key == kind and key not in found]


@given(st.lists(KEYS, max_size=8), NAMES, st.sampled_from(MethodType))
def test_the_name_comes_first_then_the_longest_glob_then_the_type(
    keys: list[str], method: str, kind: MethodType
) -> None:
    assert list(MethodKeys(dict.fromkeys(keys)).matching(method, kind)) == matching(keys, method, kind)


@pytest.mark.parametrize("method", CATALOGUE)
def test_every_known_method_meets_its_own_type_only(method: str) -> None:
    kind = method_type(method)
    assert MethodKeys(TYPES).matching(method, kind) == (kind.value,)


def test_connect_is_a_name_and_a_type() -> None:
    keys = MethodKeys(["connect"])
    assert keys.matching("connect", MethodType.CONNECT) == ("connect",)
    assert keys.matching("reconnect", MethodType.CONNECT) == ("connect",)
    assert keys.matching("connect", MethodType.EVENT) == ("connect",)
    assert keys.matching("reconnect", MethodType.DIRECT) == ()
    assert [word for word in sorted(TYPES) if is_name(word)] == ["connect"]


def test_upper_and_lower_case_differ() -> None:
    assert MethodKeys(["sendDTMF", "SENDD*"]).matching("sendDtmf", MethodType.DIRECT) == ()
