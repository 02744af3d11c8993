"""The rate limit of an app: so many hooks a second in the long run, and so many at once."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.config.sections.types import invalid_value, text_schema
from gateway.policy.rate_limit import FORM, PATTERN, Rate, parse_rate

UNLIMITED: Final = "off"


class _RateRule:
    """A rate, or ``off``."""

    form: Final = f"{FORM}, or off"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return text_schema(f"off|{PATTERN}", "50/s", "50/s burst 100", "300/m", "off")

    def _read(self, value: object) -> Rate | str:
        if value == UNLIMITED:
            return UNLIMITED
        if not isinstance(value, str):
            raise invalid_value(self.form)
        try:
            return parse_rate(value)
        except ValueError as exc:
            text = str(exc)
            raise invalid_value(self.form if text == FORM else text) from exc


RateLimit = Annotated[Rate | Literal["off"] | None, _RateRule()]
"""None = left out."""
