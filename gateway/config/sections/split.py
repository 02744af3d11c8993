"""The upstreams of an app: one, or several that share its hooks by weight; and who is asked in their place."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.config.sections.fields import UPSTREAM_REFERENCE, Section, is_upstream_reference
from gateway.config.sections.types import ListLength, OneOrMany, ReadAs, WholeNumber, invalid_value
from gateway.policy.split import Share

MAX_SHARES: Final = 16
MAX_FAILOVERS: Final = 8
MAX_WEIGHT: Final = 1000


class ShareSection(Section):
    """One of the upstreams among which an app's sessions are split."""

    name: Annotated[str, UPSTREAM_REFERENCE] = Field(
        description="Name of the upstream. Required; each upstream once, since a session's hooks must meet one backend."
    )
    weight: Annotated[int, WholeNumber(0, MAX_WEIGHT, "shares")] = Field(
        description="Its share of the sessions, in proportion to the other weights; a session stays with its upstream "
        "while the weights stay. Required; 0 takes its sessions away at once: that is how a canary is rolled back."
    )


_SHARES: Final = Annotated[
    tuple[Annotated[Share, ReadAs(ShareSection, Share)], ...], ListLength(2, MAX_SHARES, "upstreams with their weights")
]


class _UpstreamRule:
    """An upstream's name, or a list of shares."""

    form: Final = "must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}]"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._read, handler.generate_schema(_SHARES), serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        name = {"type": "string", "pattern": UPSTREAM_REFERENCE.pattern, "maxLength": UPSTREAM_REFERENCE.max_length}
        return {"anyOf": [name, handler(schema)]}

    def _read(self, value: object, shares: core_schema.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str):
            if not is_upstream_reference(value):
                raise invalid_value(UPSTREAM_REFERENCE.form)
            return value
        if not isinstance(value, list):
            raise invalid_value(self.form)
        return shares(value)


UpstreamChoice = Annotated[str | tuple[Annotated[Share, ReadAs(ShareSection, Share)], ...] | None, _UpstreamRule()]
"""A name, or the shares; None = left out."""
Failover = Annotated[tuple[Annotated[str, UPSTREAM_REFERENCE], ...] | None, OneOrMany(0, MAX_FAILOVERS, "upstreams")]
"""Names in the order in which they are asked; None = left out."""
