"""The values that a configuration writes as text: durations, sizes, names, secrets.

Each type has its own message for what is wrong, its own JSON Schema, and a ``form``, which says what a value must be:
the configuration's reference is made of it. No validator puts the value itself into a message: ``explain`` adds it, as
written in the file, where it cannot be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.model.units import SECONDS

INVALID_VALUE: Final = "invalid_value"
"""Type of an error whose text continues with ``, not VALUE``."""
INVALID: Final = "invalid"
"""Type of an error whose text is complete."""
_TEXT: Final = "{text}"

REFERENCE_PATTERN: Final = r"[$][{]"


def invalid_value(text: str, hint: str = "") -> PydanticCustomError:
    """An error that says what the value must be; what it is instead is added later.

    The *hint* is made of the value, and follows the text unless a reference brings that value in.
    """
    return PydanticCustomError(INVALID_VALUE, _TEXT, {"text": text, "hint": hint})


def invalid(text: str) -> PydanticCustomError:
    """An error that says all there is to say."""
    return PydanticCustomError(INVALID, _TEXT, {"text": text})


def text_schema(pattern: str, *examples: str) -> dict[str, Any]:
    """JSON Schema of a string that may also be, or contain, a reference."""
    return {"type": "string", "pattern": f"^(?:{pattern})$|{REFERENCE_PATTERN}", "examples": list(examples)}


@dataclass(frozen=True, eq=False)
class Value:
    """Annotates the type of a value that the file writes in a form of its own.

    It annotates X as well as X | None, where None means *left out*.
    """

    form: str
    """What the value must be, bounds included."""
    core: CoreSchema
    """How it is read."""
    json_schema: dict[str, Any] | None = None
    """For editors; None = what pydantic makes of *core*."""
    mask: Callable[[str], str] | None = None
    """Masks the secret in the value as it is written in the file; None where it has none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return self.core

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.json_schema or handler(schema)


def read_value(
    form: str,
    read: Callable[[Any], Any],
    json_schema: dict[str, Any],
    dump: Callable[[Any], Any] | None = None,
) -> Value:
    """A value that a function reads; *dump* turns it back into what can be written as JSON."""
    written = None if dump is None else core_schema.plain_serializer_function_ser_schema(dump)
    return Value(form, core_schema.no_info_plain_validator_function(read, serialization=written), json_schema)


def parsed_text(
    form: str,
    parse: Callable[[str], Any],
    json_schema: dict[str, Any],
    dump: Callable[[Any], Any] | None = None,
) -> Value:
    """Text that a function parses; where that raises ValueError, its message says what the value must be."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise invalid_value(form)
        try:
            return parse(value)
        except ValueError as exc:
            raise invalid_value(str(exc)) from exc

    return read_value(form, read, json_schema, dump)


def checked_text(check: Callable[[str], str], pattern: str, example: str) -> Value:
    """Text that a function returns; where that raises ValueError, its message is the whole problem.

    *pattern* is what an editor can check.
    """
    form = f"must be text such as {example}"

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise invalid_value(form)
        try:
            return check(value)
        except ValueError as exc:
            raise invalid(str(exc)) from exc

    return read_value(form, read, text_schema(pattern, example))


def native_value(form: str, core: CoreSchema, message: str = "") -> Value:
    """A value that pydantic itself checks, with one *message* for all that can be wrong; by default the *form*."""
    return Value(form, _with_message(core, message or form))


def _with_message(core: CoreSchema, message: str) -> CoreSchema:
    return core_schema.custom_error_schema(
        core, custom_error_type=INVALID_VALUE, custom_error_message=_TEXT, custom_error_context={"text": message}
    )


# --- durations and sizes ---

_DURATION: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d)"
_match_duration = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)").fullmatch
_SIZE: Final = r"[0-9]{1,12}(?:B|KiB|MiB|GiB)"
_match_size = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)").fullmatch
_PERCENT: Final = r"[0-9]{1,3}(?:\.[0-9]{1,9})?%"
_is_percent = re.compile(_PERCENT).fullmatch
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> float:
    """``250ms``, ``3s``, ``1.5s``, ``2m``, ``1h``, ``30d`` as seconds. Raises ValueError."""
    match = _match_duration(text)
    if match is None:
        raise ValueError("must be a duration such as 3s or 250ms")
    number, unit = match.groups()
    return float(number) / 1000 if unit == "ms" else float(number) * SECONDS[unit]


def format_duration(seconds: float) -> str:
    """Seconds as the shortest text that ``parse_duration`` reads back as the same duration."""
    for unit, least in (("d", 2), ("h", 1), ("m", 1)):
        count = seconds / SECONDS[unit]
        if count >= least and count == int(count):
            return f"{int(count)}{unit}"
    if seconds >= 1 or seconds == 0:
        return f"{_decimal(seconds)}s"
    return f"{_decimal(seconds * 1000)}ms"


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


@lru_cache(maxsize=1024)
def parse_size(text: str) -> int:
    """``512B``, ``64KiB``, ``1MiB`` as bytes. Raises ValueError."""
    match = _match_size(text)
    if match is None:
        raise ValueError("must be a size such as 64KiB or 1MiB")
    number, unit = match.groups()
    return int(number) * _BYTES[unit]


def duration(low: str, high: str, *, off: bool = False) -> Value:
    """Annotates ``float``: a duration within bounds, in seconds; with *off*, ``off`` means None."""
    least, most = parse_duration(low), parse_duration(high)
    or_off = ", or off" if off else ""

    def read(value: object) -> float | None:
        if off and value == "off":
            return None
        try:
            seconds = parse_duration(value if isinstance(value, str) else "")
        except ValueError as exc:
            raise invalid_value(f"{exc}{or_off}") from exc
        if not least <= seconds <= most:
            raise invalid_value(f"must be between {low} and {high}")
        return seconds

    schema = text_schema(f"off|{_DURATION}", "60s", "off") if off else text_schema(_DURATION, "250ms", "3s", "2m")
    return read_value(f"must be a duration from {low} to {high}{or_off}", read, schema)


def size(low: str, high: str) -> Value:
    """Annotates ``int``: a size within bounds, in bytes."""
    least, most = parse_size(low), parse_size(high)

    def parse(text: str) -> int:
        found = parse_size(text)
        if not least <= found <= most:
            raise ValueError(f"must be between {low} and {high}")
        return found

    def read(value: object) -> int:
        try:
            return parse(value if isinstance(value, str) else "")
        except ValueError as exc:
            raise invalid_value(str(exc)) from exc

    return read_value(f"must be a size from {low} to {high}", read, text_schema(_SIZE, "64KiB", "1MiB"))


# --- whole numbers, text ---


def whole_number(low: int, high: int, unit: str = "") -> Value:
    """Annotates ``int``: within bounds, and no text, no fraction, no boolean; *unit* is what it counts."""
    message = f"must be a whole number from {low} to {high}"
    core = core_schema.int_schema(strict=True, ge=low, le=high)
    return native_value(f"{message} ({unit})" if unit else message, core, message)


def number(low: float, high: float) -> Value:
    """Annotates ``float``: within bounds, and no text, no boolean."""
    core = core_schema.float_schema(strict=True, ge=low, le=high, allow_inf_nan=False)
    return native_value(f"must be a number from {low:g} to {high:g}", core)


def _read_fraction(value: object) -> float:
    share: float = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        share = value  # unchanged: a whole number can be too large for a float
    elif isinstance(value, str) and _is_percent(value):
        share = float(value[:-1]) / 100
    if not 0 < share <= 1:
        raise invalid_value(FRACTION.form)
    return float(share)


FRACTION: Final = read_value(
    "must be a share such as 10% or 0.1, more than 0 and at most 1",
    _read_fraction,
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, text_schema(_PERCENT, "10%", "0.5%")]},
    float,
)
"""Annotates ``float``: a share of a whole, such as ``10%`` or 0.1, more than none and at most all of it."""


def processes(high: int) -> Value:
    """Annotates ``int``: a whole number, or ``auto`` for one per CPU that this process may use."""
    message = f"must be a whole number from 1 to {high}"
    core = core_schema.no_info_before_validator_function(
        lambda value: min(usable_cpus(), high) if value == "auto" else value,
        _with_message(core_schema.int_schema(strict=True, ge=1, le=high), f"{message}, or auto"),
    )
    schema = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": high}, {"const": "auto"}]}
    return Value(f"{message} (processes), or auto", core, schema)


def usable_cpus() -> int:
    """How many CPUs this process may run on, by its affinity; a container's quota is not looked at."""
    return len(os.sched_getaffinity(0))


TRUE_OR_FALSE: Final = native_value("must be true or false", core_schema.bool_schema(strict=True))
"""Annotates ``bool``: no number, and no word such as ``yes``."""


def text(pattern: str, form: str, max_length: int) -> Value:
    """Annotates ``str``: matches a pattern (of Rust's regex crate and of JSON Schema alike)."""
    return native_value(form, core_schema.str_schema(pattern=pattern, max_length=max_length, strict=True))


def either(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *more, last = words
    return f"{', '.join(more)} or {last}" if more else last


def one_of(*members: StrEnum) -> Value:
    """Annotates an enumeration of which these members may be written."""
    return native_value(f"must be {either(members)}", core_schema.literal_schema(list(members)))


@dataclass(frozen=True)
class ReadAs:
    """Annotates a value type that the file writes as a mapping: *model* reads the keys, *into* gets them all.

    With *off*, ``off`` means None; annotating ``X | None`` without it, None means *left out*. *words* are others
    that may be written in place of a mapping, each with its value.
    """

    model: type[BaseModel]
    into: Callable[..., Any]
    off: bool = False
    words: tuple[tuple[str, Any], ...] = ()

    @property
    def form(self) -> str:
        """What it must be."""
        *more, last = "a mapping", *self._all_words()
        return f"must be {', '.join(more)}, or {last}" if more else f"must be {last}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        words = dict(self.words)

        def read(value: object, keys: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if self.off and value == "off":
                return None
            if isinstance(value, str) and value in words:
                return words[value]
            if not isinstance(value, dict):
                raise invalid_value(self.form)
            return self.into(**dict(keys(value)))

        return core_schema.no_info_wrap_validator_function(
            read,
            handler.generate_schema(self.model),
            serialization=core_schema.plain_serializer_function_ser_schema(self._as_json),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        mapping = handler(schema)
        words = self._all_words()
        return {"anyOf": [mapping, *({"const": word} for word in words)]} if words else mapping

    def _all_words(self) -> list[str]:
        return [*(word for word, _ in self.words), *(["off"] if self.off else [])]

    def _as_json(self, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        # Its own keys only: other fields are not from the file (the key of a recording's pseudonyms).
        return {name: part for name, part in value._asdict().items() if name in self.model.model_fields}


@dataclass(frozen=True)
class ListLength:
    """Annotates ``tuple[X, ...]``: a list with *low* to *high* items; *items* is their name in the plural."""

    low: int
    high: int
    items: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.bounded, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        bounds = {"minItems": self.low} if self.low else {}
        return {**handler(schema), **bounds, "maxItems": self.high}

    def bounded(self, value: object) -> object:
        """The list as it came. Raises the error that says how many items there may be."""
        if isinstance(value, list) and not self.low <= len(value) <= self.high:
            bounds = f"{self.low} to {self.high}" if self.low else f"at most {self.high}"
            raise invalid(f"must hold {bounds} {self.items}")
        return value


@dataclass(frozen=True)
class OneOrMany:
    """Annotates ``tuple[X, ...]`` or ``tuple[X, ...] | None``: a list, or one item that means a list of one."""

    low: int
    high: int
    items: str
    """Their name in the plural."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        inner = schema["schema"] if schema["type"] == "nullable" else schema  # None only means *left out*
        return core_schema.no_info_before_validator_function(self._as_list, inner)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler(schema)
        bounds = {"minItems": self.low} if self.low else {}
        return {"anyOf": [many["items"], {**many, **bounds, "maxItems": self.high}]}

    def _as_list(self, value: object) -> object:
        if not isinstance(value, list):
            return [value]
        return ListLength(self.low, self.high, self.items).bounded(value)


class NotNull:
    """Annotates ``X | None`` where None only means *left out*: a null in the file is an error."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if schema["type"] == "nullable":
            inner: CoreSchema = schema["schema"]
            return inner
        return schema


# --- secrets ---


class _SecretText:
    """Annotates ``SecretStr``: text, with the message of a secret's own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _with_message(handler(source), "must be text (in quotes if it looks like a number)")


Secret = Annotated[SecretStr, _SecretText(), WithJsonSchema({"type": "string"})]
"""Text that never shows itself; ``get_secret_value()`` gives it to the code that sends it."""


def secret_check(check: Callable[[str], None]) -> AfterValidator:
    """Annotates ``Secret``: a function raises ValueError with a message that does not contain the secret."""

    def apply(secret: SecretStr) -> SecretStr:
        try:
            check(secret.get_secret_value())
        except ValueError as exc:
            raise invalid(str(exc)) from exc
        return secret

    return AfterValidator(apply)
