"""Which decisions are kept long, and of which the bodies are kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.model.decision import Decision
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    Verdict,
    backend_allow,
    backend_reject,
    duplicate_ruling,
    fallback_ruling,
    rule_ruling,
    static_ruling,
)
from gateway.policy.history import MAX_BODIES, Bodies, HistorySettings, is_ordinary, keeps_bodies
from tests.support.samples import decision

ALLOWED = backend_allow(b"{}")
FAILED = fallback_ruling(
    Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer"), Fallback(frozenset(Cause)), b"{}"
)


def decided(ruling: Ruling, **changes: Any) -> Decision:
    return msgspec.structs.replace(decision(ruling=ruling), body=b"{}", size=2, **changes)


@pytest.mark.parametrize(
    "ruling",
    [
        ALLOWED,
        duplicate_ruling(ALLOWED),
        static_ruling(Verdict.ALLOW, b"{}"),
        ALLOWED.annotate(client_config="ok"),
        ALLOWED.annotate(client_config="missing"),  # at each connect, where the backend does not set it
        ALLOWED.annotate(rule="to-berlin"),
        ALLOWED.annotate(substituted="OK"),
    ],
)
def test_a_hook_that_was_allowed_as_it_was_meant_is_ordinary(ruling: Ruling) -> None:
    assert is_ordinary(decided(ruling))


@pytest.mark.parametrize(
    "ruling",
    [
        backend_reject(),
        FAILED,
        rule_ruling(Verdict.ALLOW, b"{}", "night"),
        static_ruling(Verdict.REJECT, b"{}"),
        ALLOWED.annotate(failed_over_from="php"),
        ALLOWED.annotate(changed_fields="callee"),
        ALLOWED.annotate(repaired="bom"),
        backend_reject().annotate(ineffective=True),
    ],
)
def test_all_else_is_kept_long(ruling: Ruling) -> None:
    assert not is_ordinary(decided(ruling))


def test_a_second_attempt_is_worth_keeping() -> None:
    assert not is_ordinary(decided(ALLOWED, attempts=2))


@pytest.mark.parametrize(
    ("bodies", "of_allowed", "of_failed"),
    [(Bodies.OFF, False, False), (Bodies.FAILURES, False, True), (Bodies.ALL, True, True)],
)
def test_bodies_are_kept_of_those_that_are_wanted(bodies: Bodies, of_allowed: bool, of_failed: bool) -> None:
    assert keeps_bodies(decided(ALLOWED), bodies) is of_allowed
    assert keeps_bodies(decided(FAILED), bodies) is of_failed


def test_bodies_that_are_too_large_are_not_kept() -> None:
    large = msgspec.structs.replace(decided(FAILED), size=MAX_BODIES + 1)
    assert not keeps_bodies(large, Bodies.ALL)
    assert not keeps_bodies(msgspec.structs.replace(large, size=2, body=b""), Bodies.ALL)


def test_nothing_but_metadata_is_kept_unless_it_is_wanted() -> None:
    settings = HistorySettings()
    assert settings.bodies is Bodies.OFF
    assert settings.key is None
    assert settings.keep_allowed <= settings.keep
