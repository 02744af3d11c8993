"""What the connections of a listener share: who gets a slot, and what is said to those who get none."""

from __future__ import annotations

import ipaddress
from typing import Any

from gateway.http.server.head import BadRequest
from gateway.http.server.slots import ClientKind
from gateway.http.server.state import Answer, FrontLimits, FrontState
from gateway.policy.access import ClientAddresses

LISTED, STRANGER = ("10.0.0.1", 1), ("192.0.2.1", 1)


def state_of(refusals: list[BadRequest], **limits: Any) -> FrontState:
    def refuse(refusal: BadRequest) -> Answer:
        refusals.append(refusal)
        return Answer(refusal.status, [(b"content-length", b"0")], b"")

    made = FrontState(FrontLimits(1024, 1.0, 1.0, **limits), 5.0, refuse)
    made.addresses = ClientAddresses([ipaddress.ip_network("10.0.0.0/8")])
    return made


def test_limits_are_the_slots_of_each_kind_of_client() -> None:
    sizes = FrontLimits(1024, 1.0, 1.0, max_connections=5, max_refused=2, max_strangers=3).sizes
    assert (sizes.members, sizes.excess, sizes.strangers) == (5, 2, 3)


def test_a_client_gets_a_slot_of_its_kind_as_long_as_there_is_one() -> None:
    state = state_of([], max_connections=1, max_refused=1, max_strangers=4)
    kinds = [slot and slot.kind for slot in (state.admit(LISTED), state.admit(LISTED), state.admit(LISTED))]
    assert kinds == [ClientKind.MEMBER, ClientKind.EXCESS, None]
    slot = state.admit(STRANGER)
    assert slot is not None
    assert slot.kind is ClientKind.STRANGER


def test_a_stranger_s_answer_is_no_refusal_in_the_log() -> None:
    refusals: list[BadRequest] = []
    state = state_of(refusals, max_connections=1)
    assert state.busy_answer(STRANGER).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert refusals == []
    answer = state.busy_answer(LISTED)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"connection: close" in answer
    assert [refusal.status for refusal in refusals] == [403]
