"""What replaces a backend's verdict: another upstream, and then the fallback."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema

from gateway.config.sections.fields import Section
from gateway.config.sections.types import OneOrMany, invalid, invalid_value, one_of, read_value, text_schema
from gateway.model.json_edit import Fields
from gateway.model.verdicts import Cause, Fallback
from gateway.policy.rest_client_config import FIXED

FIELD: Final = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
"""The name of a hook's field."""
MAX_FIELDS: Final = 32
_MAX_TEXT: Final = 1024
_LARGEST: Final = 2**53
"""Whole numbers up to here are the same in every JSON reader."""
_is_line = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*").fullmatch
_is_field = re.compile(FIELD).fullmatch
_PERCENT: Final = r"[0-9]{1,2}(?:\.[0-9]{1,9})?%"
_is_percent = re.compile(_PERCENT).fullmatch
_fixed: Final = {name.lower(): name for name in FIXED}


def _field(name: str) -> str:
    if not _is_field(name):
        raise invalid(
            "must be the name of a hook's field, such as callee: a letter, then at most 63 letters, digits or _"
        )
    if fixed := _fixed.get(name.lower()):
        raise invalid(f"cannot be changed: the media server never takes {fixed} from an answer")
    return name


def _value(value: object) -> object:
    if isinstance(value, str):
        if len(value) <= _MAX_TEXT and _is_line(value):
            return value
        raise invalid(f"must be one line of at most {_MAX_TEXT} characters")
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST:  # which no nan is
        return value
    raise invalid_value('must be text such as "1000", a number, true or false')


_CAUSES: Final = tuple(cause.value for cause in Cause)
_VERDICTS: Final = ("allow", "reject")
_ALLOW: Final = dict.fromkeys((Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD), "allow")
_FALLBACK_FORM: Final = "must be reject, allow, or a mapping such as {timeout: allow, unreachable: allow}"
_VERDICT_FORM: Final = 'must be allow, reject or a mapping such as {allow: {callee: "1000"}}'


def _read_cause(name: object) -> str:
    if name not in _CAUSES:
        raise invalid(f"unknown cause; there are {', '.join(_CAUSES)}")
    return str(name)


def _read_fields(value: object, read: ValidatorFunctionWrapHandler) -> Fields:
    if not isinstance(value, dict):
        raise invalid_value('must be a mapping of fields to what they are to be, such as {callee: "1000"}')
    if not 1 <= len(value) <= MAX_FIELDS:
        raise invalid(f"must hold 1 to {MAX_FIELDS} fields; allow by itself gives the hook back as it came")
    return Fields(read(value))


def _read_verdict(value: object, read: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, str) and value in _VERDICTS:
        return value
    if not isinstance(value, dict):
        raise invalid_value(_VERDICT_FORM)
    if "allow" not in value:
        raise invalid(_VERDICT_FORM)
    return read(value).allow


def _as_mapping(value: object) -> object:
    if value == "reject":
        return {}
    if value == "allow":
        return _ALLOW
    if not isinstance(value, dict):
        raise invalid_value(_FALLBACK_FORM)
    return value


def _fallback(verdicts: dict[str, str | Fields]) -> Fallback:
    return Fallback(
        frozenset(Cause(cause) for cause, verdict in verdicts.items() if verdict != "reject"),
        {Cause(cause): verdict for cause, verdict in verdicts.items() if isinstance(verdict, Fields)},
    )


def _as_json(fallback: Fallback | None) -> dict[str, Any] | None:
    if fallback is None:
        return None
    return {
        cause.value: {"allow": fallback.fields[cause].values()}
        if cause in fallback.fields
        else fallback.verdict(cause).value
        for cause in Cause
    }


def _json_schema() -> dict[str, Any]:
    word = {"enum": [*_VERDICTS]}
    fields = {
        "type": "object",
        "propertyNames": {"pattern": FIELD, "not": {"enum": sorted(FIXED)}},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
        "minProperties": 1,
        "maxProperties": MAX_FIELDS,
        "examples": [{"callee": "1000"}],
    }
    changed = {"type": "object", "properties": {"allow": fields}, "required": ["allow"], "additionalProperties": False}
    causes = {cause: {"anyOf": [word, changed]} for cause in _CAUSES}
    return {"anyOf": [word, {"type": "object", "properties": causes, "additionalProperties": False}]}


class _Changed(Section):
    """``{allow: {callee: "1000"}}``"""

    allow: Annotated[
        dict[Annotated[str, AfterValidator(_field)], Annotated[Any, PlainValidator(_value)]],
        WrapValidator(_read_fields),
    ]


_VerdictsByCause = Annotated[
    dict[Annotated[str, PlainValidator(_read_cause)], Annotated[_Changed, WrapValidator(_read_verdict)]],
    BeforeValidator(_as_mapping),
    AfterValidator(_fallback),
    PlainSerializer(_as_json),
]


class _FallbackRule:
    """``reject``, ``allow``, or a mapping of causes, read into a Fallback."""

    form: Final = _FALLBACK_FORM

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(_VerdictsByCause)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return _json_schema()


VERDICTS_BY_CAUSE: Final = _FallbackRule()
"""Annotates ``Fallback`` and ``Fallback | None``, where None means *left out*."""

FAILOVER_CAUSES: Final = (Cause.UNREACHABLE, Cause.TIMEOUT, Cause.ERROR_STATUS, Cause.BAD_ANSWER)
"""Not overload: that is a limit of the gateway's own. An upstream without a free connection goes with timeout."""
FailoverOn = Annotated[tuple[Annotated[Cause, one_of(*FAILOVER_CAUSES)], ...] | None, OneOrMany(1, 4, "causes")]
"""After which failures of an upstream another one is asked; None = left out."""


_MOST_RESERVED: Final = 0.9


def _read_reserve(value: object) -> float:
    share: object = value
    if isinstance(value, str) and _is_percent(value):
        share = float(value[:-1]) / 100
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= _MOST_RESERVED:
        raise invalid_value(FAILOVER_RESERVE.form)
    return float(share)


FAILOVER_RESERVE: Final = read_value(
    "must be a share such as 40% or 0.4, from 0 to 90%",
    _read_reserve,
    {"anyOf": [{"type": "number", "minimum": 0, "maximum": _MOST_RESERVED}, text_schema(_PERCENT, "40%", "0%")]},
)
"""Annotates ``float | None``: part of the budget, as a share such as ``40%`` or 0.4; None means *left out*."""
