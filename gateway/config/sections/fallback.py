"""What stands in for a backend's verdict: another upstream, and the fallback after it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.config.sections.types import INVALID, OneOf, OneOrMany, invalid, invalid_value, text_schema
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


class FallbackRule:
    """``reject``, ``allow``, or a mapping of causes, read into a Fallback."""

    form: Final = "must be reject, allow, or a mapping such as {timeout: allow, unreachable: allow}"
    _VERDICT: Final = 'must be allow, reject or a mapping such as {allow: {callee: "1000"}}'
    _ALLOW: Final = dict.fromkeys((Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD), "allow")
    _CAUSES: Final = [cause.value for cause in Cause]
    _VERDICTS: Final = ("allow", "reject")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        cause = core_schema.custom_error_schema(
            core_schema.literal_schema(self._CAUSES),
            custom_error_type=INVALID,
            custom_error_message="{text}",
            custom_error_context={"text": f"unknown cause; there are {', '.join(self._CAUSES)}"},
        )
        name = core_schema.no_info_after_validator_function(_field, core_schema.str_schema(strict=True))
        fields = core_schema.dict_schema(name, core_schema.no_info_plain_validator_function(_value))
        changed = core_schema.typed_dict_schema(
            {"allow": core_schema.typed_dict_field(core_schema.no_info_wrap_validator_function(_fields, fields))},
            extra_behavior="forbid",
        )
        verdict = core_schema.no_info_wrap_validator_function(self._verdict, changed)
        mapping = core_schema.no_info_before_validator_function(
            self._as_mapping, core_schema.dict_schema(cause, verdict)
        )
        return core_schema.no_info_after_validator_function(
            self._fallback,
            mapping,
            serialization=core_schema.plain_serializer_function_ser_schema(self._written),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        word = {"enum": [*self._VERDICTS]}
        value = {"type": ["string", "number", "boolean"]}
        fields = {
            "type": "object",
            "propertyNames": {"pattern": FIELD, "not": {"enum": sorted(FIXED)}},
            "additionalProperties": value,
            "minProperties": 1,
            "maxProperties": MAX_FIELDS,
            "examples": [{"callee": "1000"}],
        }
        changed = {
            "type": "object",
            "properties": {"allow": fields},
            "required": ["allow"],
            "additionalProperties": False,
        }
        causes = {cause: {"anyOf": [word, changed]} for cause in self._CAUSES}
        return {"anyOf": [word, {"type": "object", "properties": causes, "additionalProperties": False}]}

    def _as_mapping(self, value: object) -> object:
        if value == "reject":
            return {}
        if value == "allow":
            return self._ALLOW
        if not isinstance(value, dict):
            raise invalid_value(self.form)
        return value

    def _verdict(self, value: object, changed: core_schema.ValidatorFunctionWrapHandler) -> object:
        if isinstance(value, str) and value in self._VERDICTS:
            return value
        if not isinstance(value, dict):
            raise invalid_value(self._VERDICT)
        if "allow" not in value:
            raise invalid(self._VERDICT)
        return changed(value)["allow"]

    @staticmethod
    def _fallback(verdicts: dict[str, str | Fields]) -> Fallback:
        return Fallback(
            frozenset(Cause(cause) for cause, verdict in verdicts.items() if verdict != "reject"),
            {Cause(cause): verdict for cause, verdict in verdicts.items() if isinstance(verdict, Fields)},
        )

    @staticmethod
    def _written(fallback: Fallback | None) -> dict[str, Any] | None:
        if fallback is None:
            return None
        return {
            cause.value: {"allow": fallback.fields[cause].values()}
            if cause in fallback.fields
            else fallback.verdict(cause).value
            for cause in Cause
        }


def _fields(value: object, fields: core_schema.ValidatorFunctionWrapHandler) -> Fields:
    if not isinstance(value, dict):
        raise invalid_value('must be a mapping of fields to what they are to be, such as {callee: "1000"}')
    if not 1 <= len(value) <= MAX_FIELDS:
        raise invalid(f"must hold 1 to {MAX_FIELDS} fields; allow by itself gives the hook back as it came")
    return Fields(fields(value))


VERDICTS_BY_CAUSE = FallbackRule()
"""Annotates ``Fallback`` and ``Fallback | None``, where None means *left out*."""

FAILOVER_CAUSES: Final = (Cause.UNREACHABLE, Cause.TIMEOUT, Cause.ERROR_STATUS, Cause.BAD_ANSWER)
"""Not overload: that is a limit of the gateway's own. An upstream without a free connection goes with timeout."""
FailoverOn = Annotated[tuple[Annotated[Cause, OneOf(FAILOVER_CAUSES)], ...] | None, OneOrMany(1, 4, "causes")]
"""After which failures of an upstream another one is asked; None = left out."""


class _ReserveRule:
    """Part of the budget: a share such as ``40%`` or 0.4."""

    form: Final = "must be a share such as 40% or 0.4, from 0 to 90%"
    _MOST: Final = 0.9

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": self._MOST}, text_schema(_PERCENT, "40%", "0%")]}

    def _read(self, value: object) -> float:
        share: object = value
        if isinstance(value, str) and _is_percent(value):
            share = float(value[:-1]) / 100
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= self._MOST:
            raise invalid_value(self.form)
        return float(share)


FAILOVER_RESERVE = _ReserveRule()
"""Annotates ``float | None``, where None means *left out*."""
