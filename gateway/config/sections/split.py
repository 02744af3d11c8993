"""The upstreams of an app: one, or several that share its sessions by weight; and those tried if they fail."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema

from gateway.config.sections.fields import UPSTREAM_REFERENCE, UPSTREAM_REFERENCE_SCHEMA, Section, is_upstream_reference
from gateway.config.sections.types import ListLength, OneOrMany, ReadAs, invalid_value, whole_number
from gateway.policy.split import Share

MAX_SHARES: Final = 16
MAX_FAILOVERS: Final = 8
MAX_WEIGHT: Final = 1000


class ShareSection(Section):
    """One of the upstreams among which an app's sessions are split."""

    name: Annotated[str, UPSTREAM_REFERENCE] = Field(
        description="Name of the upstream. Required. List each upstream once."
    )
    weight: Annotated[int, whole_number(0, MAX_WEIGHT, "shares")] = Field(
        description="Its share of the sessions, in proportion to the other weights; a session stays with its upstream "
        "while the weights stay. Required. 0 takes its sessions away at once: this is how a canary is rolled back."
    )


_Shares = tuple[Annotated[Share, ReadAs(ShareSection, Share)], ...]
_FORM: Final = "must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}]"


def _read_choice(value: object, read_shares: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str):
        if not is_upstream_reference(value):
            raise invalid_value(UPSTREAM_REFERENCE.form)
        return value
    if not isinstance(value, list):
        raise invalid_value(_FORM)
    return read_shares(value)


_NameOrShares = Annotated[
    _Shares,
    ListLength(2, MAX_SHARES, "upstreams with their weights"),
    WrapValidator(_read_choice),
    PlainSerializer(str),
]


class _UpstreamRule:
    """An upstream's name, or a list of shares."""

    form: Final = _FORM

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(_NameOrShares)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [UPSTREAM_REFERENCE_SCHEMA, handler(schema)]}


UpstreamChoice = Annotated[str | _Shares | None, _UpstreamRule()]
"""A name, or the shares; None = left out."""
Failover = Annotated[tuple[Annotated[str, UPSTREAM_REFERENCE], ...] | None, OneOrMany(0, MAX_FAILOVERS, "upstreams")]
"""Names in the order in which they are tried; None = left out."""
