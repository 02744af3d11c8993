"""What answers to connect should set, so that rejections count; and how strictly a 200 is checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final, NamedTuple, TypeVar

from pydantic import AfterValidator, Field

from gateway.config.sections.fields import MethodKey, Section
from gateway.config.sections.types import NotNull, ReadAs, invalid, one_of, text
from gateway.model.hooks import PLAY_HLS, MethodType, method_type
from gateway.policy.method_keys import MethodKeys, is_name, known_methods
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode

KNOWN_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "restOnError": ("FAIL",),
    "restPolicy": ("NOTIFY", "OVERWRITE"),
    "restOverwrite": (),
    "restExclude": (),
    "clientExclude": (),
}
"""The fields of a method that the media server's documentation has, with the values that may be wanted; () = any."""


class ClientConfigPart(NamedTuple):
    """What one level of the configuration says; None = the next wider level's."""

    mode: Mode | None = None
    methods: Mapping[str, Mapping[str, str]] | None = None


def _check_values(fields: dict[str, str]) -> dict[str, str]:
    for name, value in fields.items():
        values = KNOWN_FIELDS.get(name, ())
        if values and value not in values:
            raise invalid(f"must have a {name} that is {' or '.join(values)}")
    return fields


_FieldName = Annotated[
    str, text(r"^[A-Za-z][A-Za-z0-9_]{0,63}$", "must be a field of the media server's, such as restOnError", 64)
]
_FieldValue = Annotated[
    str, text(r"^[^\x00-\x1f\x7f-\x9f]{1,1024}$", "must be text of 1 to 1024 characters, such as FAIL", 1024)
]
Wanted = Annotated[
    dict[_FieldName, _FieldValue],
    AfterValidator(_check_values),
    Field(
        json_schema_extra={"properties": {name: {"enum": [*values]} for name, values in KNOWN_FIELDS.items() if values}}
    ),
]
"""What is wanted of one method: fields of the media server's, each with a value that it knows."""


class ClientConfigSection(Section):
    """What answers to connect are to set in restClientConfig, without which a 403 to a call is only logged."""

    mode: Annotated[Mode | None, one_of(*Mode)] = Field(
        default=None,
        description="off: such answers are not checked; warn: answers that do not set what is wanted are counted and "
        "logged; enforce: what is missing is added to them, and to the answer of an allow fallback, and everything "
        "else is kept. Default: the next wider level's, or warn. With enforce, rejections that never had an effect "
        "begin to stop calls.",
    )
    methods: Annotated[dict[MethodKey, Wanted] | None, NotNull()] = Field(
        default=None,
        description="The wanted fields, by method: restOnError: FAIL makes its rejection count. Keys are names, globs "
        "or types of methods, the most specific one first for each field; a glob or a type means the methods of the "
        "catalogue and of hook_types, and for restOnError only those that can be rejected. Default: the next wider "
        "level's, or {OnCallEvent: {restOnError: FAIL}}. A mapping here replaces that entirely. It has no effect on "
        "events, which cannot be rejected, nor on connect and playHLS, whose rejection always counts.",
    )


CLIENT_CONFIG: Final = ReadAs(
    ClientConfigSection, ClientConfigPart, words=tuple((mode.value, ClientConfigPart(mode)) for mode in Mode)
)
RESPONSE_CHECK: Final = one_of(*ResponseCheck)
_NOTHING: Final = ClientConfigPart()
_REJECTABLE: Final = frozenset({MethodType.DIRECT, MethodType.INCOMING})
_Item = TypeVar("_Item")
_Items = tuple[tuple[str, _Item], ...]
_DEFAULT: Final = ClientConfig()


def merge_client_config(
    own: ClientConfigPart | None, wider: ClientConfigPart | None, hook_types: Mapping[str, MethodType] | None = None
) -> ClientConfig:
    """What both levels come to, mode and methods each for itself, globs and types written out."""
    if own is wider is None:
        return _DEFAULT
    own, wider = own or _NOTHING, wider or _NOTHING
    mode = own.mode or wider.mode or _DEFAULT.mode
    methods = wider.methods if own.methods is None else own.methods
    if methods is None:
        return ClientConfig(mode, _DEFAULT.methods)
    return ClientConfig(mode, methods if all(map(is_name, methods)) else _expand(methods, hook_types or {}))


def _expand(
    methods: Mapping[str, Mapping[str, str]], hook_types: Mapping[str, MethodType]
) -> Mapping[str, Mapping[str, str]]:
    return _expanded(tuple((key, tuple(fields.items())) for key, fields in methods.items()), tuple(hook_types.items()))


@lru_cache(256)
def _expanded(methods: _Items[_Items[str]], hook_types: _Items[MethodType]) -> Mapping[str, Mapping[str, str]]:
    """The fields of each known method, of every key that it meets: of one field, the most specific key's value.

    Names that are neither in the catalogue nor in ``hook_types`` stay as they are.
    """
    by_key = {key: dict(fields) for key, fields in methods}
    keys = MethodKeys(by_key)
    names = {name: method_type(name, dict(hook_types)) for name in filter(is_name, by_key)}
    found: dict[str, dict[str, str]] = {}
    for method, kind in {**names, **known_methods(dict(hook_types))}.items():
        fields: dict[str, str] = {}
        for key in reversed(keys.matching(method, kind)):
            may_fail = key == method or (kind in _REJECTABLE and method != PLAY_HLS)
            fields |= by_key[key] if may_fail else {k: v for k, v in by_key[key].items() if k != "restOnError"}
        if fields:
            found[method] = fields
    return found
