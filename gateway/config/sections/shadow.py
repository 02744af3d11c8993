"""The shadow of an app: a candidate that gets copies of its hooks, whose answers are compared and go nowhere."""

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
    """The shadow of one method, whatever the app's."""

    upstream: Annotated[str, UPSTREAM_REFERENCE] = Field(
        description="Upstream that gets the copies, marked as shadow, through connections, a queue and a breaker of "
        "their own, after the answer has gone out. Required; it must not act on them as if they were the only ones: a "
        "shadow that writes call records writes them twice."
    )
    sample: Annotated[float, FRACTION] = Field(
        default="100%",
        validate_default=True,
        description="Share of the sessions whose hooks are copied, such as 10% or 0.1. Default 100%; at that, the "
        "candidate bears the load of the app.",
    )
    compare: Compare = Field(
        default=Compare.VERDICT,
        description="verdict: yes or no only; body: the values of the answers' fields too. Default verdict; with body, "
        "name under ignore what differs from answer to answer, such as a time.",
    )
    ignore: Annotated[frozenset[FieldPath], ListLength(0, MAX_IGNORED, "fields")] = Field(
        default=frozenset(),
        description="Fields, or dotted paths of fields, that may differ. Default none; whatever stands here can be "
        "wrong without being told.",
    )


class Shadow(MethodShadow):
    """A candidate that is asked too, without any say: its answers are compared with those that went out."""

    methods: Annotated[tuple[MethodGlob, ...], METHODS] = Field(
        default=DEFAULT_METHODS,
        description="Methods whose hooks are copied: names, globs, or types (connect, direct, event, incoming). "
        "Default OnCallEvent, OnMessageEvent and OnTransferEvent; an event, connect or a direct invocation makes a "
        "backend act, and the candidate acts on it too.",
    )


SHADOW: Final = ReadAs(Shadow, ShadowSettings, words=((OFF, OFF),))
METHOD_SHADOW: Final = ReadAs(MethodShadow, ShadowSettings, words=((OFF, OFF),))
