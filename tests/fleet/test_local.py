"""What gateways say of themselves: later versions may say more, and both understand each other."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.local import Description

texts = st.text(max_size=20)
descriptions = st.builds(
    Description,
    name=texts,
    version=texts,
    revision=texts,
    admin=texts,
    since=st.floats(0, 4e9),
    drained=st.booleans(),
    phase=texts,
    store=st.none() | st.booleans(),
)


@given(description=descriptions, more=st.dictionaries(st.text("xyz", min_size=1), st.integers(-9, 9)))
def test_what_a_later_version_says_more_is_ignored(description: Description, more: dict[str, int]) -> None:
    said = {**msgspec.to_builtins(description), **more}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Description) == description


def test_what_an_earlier_version_does_not_say_has_a_default() -> None:
    said = {"name": "n", "version": "v", "revision": "r", "admin": "h:1", "since": 1.0}
    description = msgspec.convert(said, Description)
    assert (description.drained, description.phase, description.store) == (False, "ready", None)
