"""The shadow of an app: a candidate that gets copies of its hooks; its answers are compared and dropped."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from gateway.config.sections.fields import UPSTREAM_REFERENCE, Section
from gateway.config.sections.rules import METHODS, MethodGlob
from gateway.config.sections.types import FRACTION, ListLength, ReadAs, text
from gateway.policy.comparison import Compare
from gateway.policy.shadow import DEFAULT_METHODS, ShadowSettings

MAX_IGNORED: Final = 64
OFF: Final = "off"

FieldPath = Annotated[
    str,
    text(
        r"^[^\x00-\x1f\x7f-\x9f]{1,256}$",
        "must be a field of the answer such as ts, or a path of fields such as restClientConfig.OnCallEvent", 256,
    ),
]  # fmt: skip


class MethodShadow(Section):
    """The shadow of one method, instead of the app's."""

    upstream: Annotated[str, UPSTREAM_REFERENCE] = Field(
        description="Upstream that gets the copies, marked as shadow, through connections, a queue and a breaker of "
        "their own, after the answer was sent. Required. It must not act on them as if they were the only ones: a "
        "shadow that writes call records writes them twice."
    )
    sample: Annotated[float, FRACTION] = Field(
        default="100%",
        validate_default=True,
        description="Share of the sessions whose hooks are copied, such as 10% or 0.1. Default 100%. At 100%, the "
        "candidate carries the whole load of the app.",
    )
    compare: Compare = Field(
        default=Compare.VERDICT,
        description="verdict: compares verdicts only; body: also the values of the answers' fields. Default verdict. "
        "With body, list under ignore what differs from answer to answer, such as a time.",
    )
    ignore: Annotated[frozenset[FieldPath], ListLength(0, MAX_IGNORED, "fields")] = Field(
        default=frozenset(),
        description="Fields, or dotted paths of fields, that may differ. Default none. A wrong value in a field "
        "listed here is not reported.",
    )


class Shadow(MethodShadow):
    """A candidate that gets copies of hooks but does not decide: its answers are compared with those that were sent."""

    methods: Annotated[tuple[MethodGlob, ...], METHODS] = Field(
        default=DEFAULT_METHODS,
        description="Methods whose hooks are copied: names, globs, or types (connect, direct, event, incoming). "
        "Default OnCallEvent, OnMessageEvent and OnTransferEvent. On an event, connect or direct invocation a backend "
        "acts, and so does the candidate.",
    )


SHADOW: Final = ReadAs(Shadow, ShadowSettings, words=((OFF, OFF),))
METHOD_SHADOW: Final = ReadAs(MethodShadow, ShadowSettings, words=((OFF, OFF),))
