"""The values that a configuration writes as text: durations, sizes, names, secrets.

Each type brings its own words for what is wrong, its own JSON Schema, and ``form``, which says what a value must be:
the configuration's reference is made of it. No validator ever puts the value itself
into a message: ``explain`` adds it, as written in the file, where no secret can be meant.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

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


def with_message(schema: CoreSchema, text: str) -> CoreSchema:
    """A schema that has one message for whatever is wrong."""
    return core_schema.custom_error_schema(
        schema, custom_error_type=INVALID_VALUE, custom_error_message=_TEXT, custom_error_context={"text": text}
    )


def text_schema(pattern: str, *examples: str) -> dict[str, Any]:
    """JSON Schema of a string that may also be, or hold, a reference."""
    return {"type": "string", "pattern": f"^(?:{pattern})$|{REFERENCE_PATTERN}", "examples": list(examples)}


# --- durations and sizes ---

_DURATION: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h)"
_match_duration = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)").fullmatch
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE: Final = r"[0-9]{1,12}(?:B|KiB|MiB|GiB)"
_match_size = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)").fullmatch
_PERCENT: Final = r"[0-9]{1,3}(?:\.[0-9]{1,9})?%"
_is_percent = re.compile(_PERCENT).fullmatch
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> float:
    """``250ms``, ``3s``, ``1.5s``, ``2m``, ``1h`` as seconds. Raises ValueError."""
    match = _match_duration(text)
    if match is None:
        raise ValueError("must be a duration such as 3s or 250ms")
    number, unit = match.groups()
    return float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]


def format_duration(seconds: float) -> str:
    """Seconds as the shortest text that ``parse_duration`` reads back as the same duration."""
    for unit in ("h", "m"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
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


@dataclass(frozen=True)
class DurationIn:
    """Annotates ``float``: a duration within bounds, in seconds; with *off*, ``off`` stands for None."""

    low: str
    high: str
    off: bool = False

    @property
    def form(self) -> str:
        """What it must be, bounds included."""
        return f"must be a duration from {self.low} to {self.high}" + (", or off" if self.off else "")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        low, high = parse_duration(self.low), parse_duration(self.high)
        form = "must be a duration such as 3s or 250ms" + (", or off" if self.off else "")

        def read(value: object) -> float | None:
            if not isinstance(value, str):
                raise invalid_value(form)
            if self.off and value == "off":
                return None
            try:
                seconds = parse_duration(value)
            except ValueError as exc:
                raise invalid_value(form) from exc
            if not low <= seconds <= high:
                raise invalid_value(f"must be between {self.low} and {self.high}")
            return seconds

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if self.off:
            return text_schema(f"off|{_DURATION}", "60s", "off")
        return text_schema(_DURATION, "250ms", "3s", "2m")


@dataclass(frozen=True)
class SizeIn:
    """Annotates ``int``: a size within bounds, in bytes."""

    low: str
    high: str

    @property
    def form(self) -> str:
        """What it must be, bounds included."""
        return f"must be a size from {self.low} to {self.high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        low, high = parse_size(self.low), parse_size(self.high)

        def read(value: object) -> int:
            try:
                size = parse_size(value) if isinstance(value, str) else None
            except ValueError:
                size = None
            if size is None:
                raise invalid_value("must be a size such as 64KiB or 1MiB")
            if not low <= size <= high:
                raise invalid_value(f"must be between {self.low} and {self.high}")
            return size

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return text_schema(_SIZE, "64KiB", "1MiB")


# --- whole numbers, text ---


@dataclass(frozen=True)
class WholeNumber:
    """Annotates ``int``: within bounds, and no text, no fraction, no boolean."""

    low: int
    high: int
    unit: str = ""
    """What it counts, in words for the reference."""

    @property
    def form(self) -> str:
        """What it must be, bounds included."""
        return f"must be a whole number from {self.low} to {self.high}" + (f" ({self.unit})" if self.unit else "")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = core_schema.int_schema(strict=True, ge=self.low, le=self.high)
        return with_message(schema, f"must be a whole number from {self.low} to {self.high}")


@dataclass(frozen=True)
class NumberIn:
    """Annotates ``float``: within bounds, and no text, no boolean."""

    low: float
    high: float

    @property
    def form(self) -> str:
        """What it must be, bounds included."""
        return f"must be a number from {self.low:g} to {self.high:g}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = core_schema.float_schema(strict=True, ge=self.low, le=self.high, allow_inf_nan=False)
        return with_message(schema, self.form)


class Fraction:
    """Annotates ``float``: a share of a whole, such as ``10%`` or 0.1, more than none and at most all of it."""

    form: Final = "must be a share such as 10% or 0.1, more than 0 and at most 1"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(float)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
        return {"anyOf": [number, text_schema(_PERCENT, "10%", "0.5%")]}

    def _read(self, value: object) -> float:
        share: float = -1.0
        if isinstance(value, int | float) and not isinstance(value, bool):
            share = value  # as it is: no float is as large as a whole number can be
        elif isinstance(value, str) and _is_percent(value):
            share = float(value[:-1]) / 100
        if not 0 < share <= 1:
            raise invalid_value(self.form)
        return float(share)


@dataclass(frozen=True)
class Processes:
    """Annotates ``int``: a whole number, or ``auto`` for one per CPU that this process may use."""

    high: int

    @property
    def form(self) -> str:
        """What it must be, bounds included."""
        return f"must be a whole number from 1 to {self.high} (processes), or auto"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        number = core_schema.int_schema(strict=True, ge=1, le=self.high)
        return core_schema.no_info_before_validator_function(
            self._count, with_message(number, f"must be a whole number from 1 to {self.high}, or auto")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": self.high}, {"const": "auto"}]}

    def _count(self, value: object) -> object:
        return min(usable_cpus(), self.high) if value == "auto" else value


def usable_cpus() -> int:
    """How many CPUs this process may run on, by its affinity; a container's quota is not looked at."""
    return len(os.sched_getaffinity(0))


class TrueOrFalse:
    """Annotates ``bool``: no number, and no word such as ``yes``."""

    form: Final = "must be true or false"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return with_message(core_schema.bool_schema(strict=True), self.form)


@dataclass(frozen=True)
class ReadAs:
    """Annotates a value type that the file writes as a mapping: *model* reads the keys, *into* takes them all.

    With *off*, ``off`` stands for None; annotating ``X | None`` without it, None means *left out*. *words* are others
    that may be written in place of a mapping, each with what it stands for.
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
            serialization=core_schema.plain_serializer_function_ser_schema(self._written),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        mapping = handler(schema)
        words = self._all_words()
        return {"anyOf": [mapping, *({"const": word} for word in words)]} if words else mapping

    def _all_words(self) -> list[str]:
        return [*(word for word, _ in self.words), *(["off"] if self.off else [])]

    def _written(self, value: Any) -> Any:
        if value is None:
            return None
        # Its own keys only: what else the value carries was not written by anybody (the key of a record's pseudonyms).
        return {name: part for name, part in value._asdict().items() if name in self.model.model_fields}


@dataclass(frozen=True)
class Text:
    """Annotates ``str``: matches a pattern (of Rust's regex crate and of JSON Schema alike)."""

    pattern: str
    form: str
    """Says what it must be, with ``must be …`` in front."""
    max_length: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = core_schema.str_schema(pattern=self.pattern, max_length=self.max_length, strict=True)
        return with_message(schema, self.form)


@dataclass(frozen=True)
class OneOf:
    """Annotates an enumeration of which only some members may be written; None then means *left out*."""

    members: tuple[StrEnum, ...]

    @property
    def form(self) -> str:
        """What it must be."""
        *more, last = self.members
        return f"must be {', '.join(more)} or {last}" if more else f"must be {last}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = core_schema.literal_schema(list(self.members))
        return with_message(schema, self.form)


@dataclass(frozen=True)
class Checked:
    """Annotates ``str``: a function returns the value, or raises ValueError with a message for the operator."""

    read: Callable[[str], str]
    pattern: str
    """For the JSON Schema: what an editor can check."""
    example: str

    @property
    def form(self) -> str:
        """What it must be."""
        return f"must be text such as {self.example}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: object) -> str:
            if not isinstance(value, str):
                raise invalid_value(self.form)
            try:
                return self.read(value)
            except ValueError as exc:
                raise invalid(str(exc)) from exc

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return text_schema(self.pattern, self.example)


@dataclass(frozen=True)
class ListLength:
    """Annotates ``tuple[X, ...]``: a list of so many items; *items* is their name in the plural."""

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
    """Annotates ``tuple[X, ...]`` or ``tuple[X, ...] | None``: a list, or one item that stands for a list of one."""

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


class Secret:
    """Text that never shows itself: ``str`` and ``repr`` are ``***``; ``reveal()`` gives it to whoever sends it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself: to be sent or compared, never to be logged."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "***"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = with_message(core_schema.str_schema(strict=True), "must be text (in quotes if it looks like a number)")
        return core_schema.no_info_after_validator_function(cls, text, serialization=core_schema.to_string_ser_schema())


@dataclass(frozen=True)
class SecretRule:
    """Annotates ``Secret``: a function raises ValueError with a message that does not hold the secret."""

    check: Callable[[str], None]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def apply(secret: Secret) -> Secret:
            try:
                self.check(secret.reveal())
            except ValueError as exc:
                raise invalid(str(exc)) from exc
            return secret

        return core_schema.no_info_after_validator_function(apply, handler(source))
