"""The rules of an app: what decides a hook before any backend is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from pydantic import AfterValidator, ConfigDict, Field

from gateway.config.sections.fields import UPSTREAM_REFERENCE, Section
from gateway.config.sections.types import ListLength, OneOrMany, ReadAs, invalid, one_of, parsed_text, text
from gateway.model.verdicts import Verdict
from gateway.policy.rules.globs import is_glob, is_prefix
from gateway.policy.rules.matcher import Rule, Windows, parse_windows

MAX_RULES: Final = 256
MAX_GLOBS: Final = 1024
MAX_SLOW: Final = 512
"""Globs of a list of rules that each hook has to try one by one: all but plain text and ``text*``."""
MAX_METHODS: Final = 256
MAX_METHOD: Final = 64
"""Characters of a method's name."""
_CONDITIONS: Final = ("caller", "callee", "methods", "time")

RuleName = Annotated[
    str | None,
    text(
        r"^[^\x00-\x1f\x7f-\x9f\[\]]+$",
        "must be a rule's name: 1 to 64 characters, no control characters, no square brackets", 64,
    ),
]  # fmt: skip
NumberGlob = Annotated[
    str,
    text(
        r"^[^\x00-\x1f\x7f-\x9f]+$",
        'must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*"', 256,
    ),
]  # fmt: skip
MethodGlob = Annotated[
    str,
    text(
        r"^[A-Za-z0-9_*?]{1,64}$",
        "must be a method's name, with * and ? for what varies, such as OnCallEvent",
        MAX_METHOD,
    ),
]
NUMBERS: Final = OneOrMany(1, MAX_GLOBS, "numbers")
METHODS: Final = OneOrMany(1, MAX_METHODS, "methods")


WINDOWS: Final = parsed_text(
    "must be text such as Mon-Fri 22:00-06:00 Europe/Berlin",
    parse_windows,
    {
        "type": "string",
        "minLength": 1,
        "examples": ["Mon-Fri 22:00-06:00 Europe/Berlin", "Sat,Sun", "2026-12-24 - 2026-12-26"],
    },
    str,
)
"""Annotates ``Windows``: windows of time, in one text."""


class RuleSection(Section):
    """A rule: a hook that matches all its conditions gets its verdict or goes to its upstream; the first match wins."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["verdict"]}, {"required": ["upstream"]}],
            "anyOf": [{"required": [name]} for name in _CONDITIONS],
        },
    )

    name: RuleName = Field(
        default=None,
        description="Its name in log, metrics, journal and gateway explain. Default: its place, such as rules[2]. "
        "Without a name, that changes when a rule is inserted before it.",
    )
    caller: Annotated[tuple[NumberGlob, ...] | None, NUMBERS] = Field(
        default=None,
        description="The caller: a number or name, or a list of them, with * for any text and ? for one character; "
        'upper and lower case do not differ. Default: any caller. Write numbers in quotes, or YAML reads "+49" as a '
        "number. Clients can invent what they say of themselves: a rule keeps nuisance away, but proves no identity.",
    )
    callee: Annotated[tuple[NumberGlob, ...] | None, NUMBERS] = Field(
        default=None,
        description="The callee, written as caller is. Default: any callee. A rule with a callee never matches a hook "
        "that does not contain one, such as connect.",
    )
    methods: Annotated[tuple[MethodGlob, ...] | None, METHODS] = Field(
        default=None,
        description="Methods, globs of methods, or types: connect, direct, event, incoming. Default: with upstream "
        "every method; with verdict every method that asks, StreamKeepAliveEvent among them, but no event. A rule "
        "that answers events keeps them from the backend, whose records then lack these calls.",
    )
    time: Annotated[Windows | None, WINDOWS] = Field(
        default=None,
        description="When: days (Mon-Fri or Sat,Sun), dates (2026-12-24 - 2026-12-26) and times (22:00-06:00), "
        "several separated by ;, and the time zone at the end. Default: at any time. Without a zone, it is UTC; "
        "another zone must be in the time zone database of the gateway's machine (package tzdata). A window over "
        "midnight belongs to the day on which it begins.",
    )
    verdict: Annotated[Verdict | None, one_of(Verdict.ALLOW, Verdict.REJECT)] = Field(
        default=None,
        description="allow or reject, without asking a backend. Required, unless upstream is set instead. A rejected "
        "call only stops if rest_client_config made rejections count.",
    )
    upstream: Annotated[str | None, UPSTREAM_REFERENCE] = Field(
        default=None,
        description="Upstream that decides these hooks in place of the app's. Required, unless verdict is set "
        "instead. A session's hooks then reach several backends.",
    )


def _rule(
    name: str | None,
    caller: tuple[str, ...] | None,
    callee: tuple[str, ...] | None,
    methods: tuple[str, ...] | None,
    time: Windows | None,
    verdict: Verdict | None,
    upstream: str | None,
) -> Rule:
    if (verdict is None) == (upstream is None):
        raise invalid("must have a verdict or an upstream" + ("" if verdict is None else ": one of them, not both"))
    if caller is None and callee is None and methods is None and time is None:
        raise invalid("must have a condition: caller, callee, methods or time")
    return Rule(
        name or "",
        caller=caller or (),
        callee=callee or (),
        methods=methods or (),
        time=time,
        verdict=verdict,
        upstream=upstream,
    )


def _name_by_place(rules: tuple[Rule, ...], prefix: str = "") -> tuple[Rule, ...]:
    """The rules, those without a name with that of their place."""
    globs = (glob for rule in rules for glob in (*rule.caller, *rule.callee))
    if sum(is_glob(glob) and not is_prefix(glob) for glob in globs) > MAX_SLOW:
        raise invalid(f"must hold at most {MAX_SLOW} numbers with a ? or with a * that is not at their end")
    return tuple(
        rule if rule.name else rule._replace(name=f"{prefix}rules[{index}]") for index, rule in enumerate(rules)
    )


_Rules = Annotated[tuple[Annotated[Rule, ReadAs(RuleSection, _rule)], ...], ListLength(0, MAX_RULES, "rules")]
OwnRules = Annotated[_Rules, AfterValidator(_name_by_place)]
DefaultRules = Annotated[_Rules, AfterValidator(partial(_name_by_place, prefix="defaults."))]
