"""The messages between the store's process and the others: each arrives as it was sent, and only where it belongs."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.messages import (
    Duty,
    FromStore,
    Hello,
    KeepDecisions,
    Kept,
    Message,
    Reply,
    Settle,
    Settled,
    ToStore,
    decode_for_client,
    decode_for_store,
    encode,
)

TYPES: Final[dict[Any, st.SearchStrategy[Any]]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=9),
    bytes: st.binary(max_size=9),
}
"""What a field of this type may hold; NaN equals nothing, and longer numbers are not sent."""


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, or of a whole message."""
    if kind in TYPES:
        return TYPES[kind]
    if get_origin(kind) is UnionType:
        return st.one_of([strategy(each) for each in get_args(kind) if each is not NoneType]) | st.none()
    if get_origin(kind) is tuple:
        parts = [strategy(each) for each in get_args(kind) if each is not Ellipsis]
        return st.lists(parts[0], max_size=3).map(tuple) if Ellipsis in get_args(kind) else st.tuples(*parts)
    return st.builds(kind, **{name: strategy(each) for name, each in get_type_hints(kind).items()})


def messages(*kinds: Any) -> st.SearchStrategy[Message]:
    return st.one_of(*map(strategy, kinds))


@given(messages(*get_args(ToStore)))
def test_what_is_sent_to_the_store_arrives_as_it_was(message: Message) -> None:
    assert decode_for_store(encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        decode_for_client(encode(message))


@given(messages(*get_args(FromStore)))
def test_what_the_store_sends_arrives_as_it_was(message: Message) -> None:
    assert decode_for_client(encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        decode_for_store(encode(message))


def test_a_message_is_small() -> None:
    """An event's confirmation is one of the most frequent things that travel."""
    assert len(encode(Kept(1))) < 16
    assert len(encode(Duty(redelivers=True))) < 16
    assert len(encode(Settled((1,)))) < 16
    assert len(encode(Settle(1, "delivered"))) < 48
    assert len(encode(Hello("worker", 1))) < 32
    assert len(encode(KeepDecisions((b"x",)))) < 32
    assert len(encode(Reply(1, b""))) < 16
