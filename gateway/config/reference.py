"""The configuration's reference for people: every key with what it may be, its default, its meaning and its danger.

All of it is read from the model, where each description has three parts: what the key means; a sentence that begins
with Default, No default or Required; and, after that sentence's first semicolon or full stop, a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import EnumType
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.config.sections.root import Config
from gateway.config.sections.types import OneOrMany, ReadAs, either

TOP: Final = "top"
"""The place of the section that is the whole file."""
_NAMES: Final = {
    "upstreams": "UPSTREAM",
    "apps": "APP",
    "methods": "METHOD",
    "hook_types": "METHOD",
    "headers": "HEADER",
}
"""Placeholders of names that users choose."""
_parts = re.compile(r"(.*?\.) ((?:Default|No default|Required)\b.*?)(?:; |\. |\.$)(.*)", re.DOTALL).fullmatch


class Key(NamedTuple):
    """One key of a section."""

    name: str
    form: str
    """What the value must be: its type, unit and bounds."""
    meaning: str
    default: str
    """The default, or that there is none; in the description's words."""
    care: str
    """What goes wrong with another value, or what to watch for with this one."""


class Section(NamedTuple):
    """A mapping of the file with keys of its own."""

    places: tuple[str, ...]
    """Where it can be set, such as ``upstreams.UPSTREAM.retry``."""
    meaning: str
    keys: tuple[Key, ...]


def reference_sections() -> dict[str, Section]:
    """Every section of the file by the first of its places."""
    places: dict[type[BaseModel], list[str]] = {}
    for place, model in _models(Config, ""):
        places.setdefault(model, []).append(place or TOP)
    found: dict[str, Section] = {}
    for model, where in places.items():
        home = min(where, key=_is_home)
        keys = tuple(_key(name, field) for name, field in model.model_fields.items())
        found[home] = Section((home, *(place for place in where if place != home)), model.__doc__ or "", keys)
    return found


def _is_home(place: str) -> tuple[bool, bool]:
    """Sorts the main place of a section first: retry belongs to upstreams first of all, and rules to apps."""
    return not place.startswith("upstreams."), place.startswith("defaults.")


def _models(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield place, model
    for name, field in model.model_fields.items():
        below = f"{place}.{name}" if place else name
        inner, is_named, is_list = _inside(field.rebuild_annotation())
        if inner is not None:
            yield from _models(inner, below + (f".{_NAMES[name]}" if is_named else "[]" if is_list else ""))


def _inside(annotation: Any) -> tuple[type[BaseModel] | None, bool, bool]:
    """The section that a key's value is or holds; whether by names of the user's own; whether in a list."""
    if isinstance(annotation, ReadAs):
        return annotation.model, False, False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False, False
    origin = get_origin(annotation)
    for argument in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
        inner, is_named, is_list = _inside(argument)
        if inner is not None:
            return inner, is_named or origin is dict, is_list or origin is tuple
    return None, False, False


def _key(name: str, field: FieldInfo) -> Key:
    """Raises ValueError where the description lacks one of its parts."""
    text = field.description or ""
    form = _form(field.rebuild_annotation())
    if isinstance(model := field.annotation, type) and issubclass(model, BaseModel) and not text.count("Default"):
        return Key(name, form, text, "its keys' own defaults", "")
    parts = _parts(text)
    if parts is None:
        raise ValueError(f"{name}: the description is not: meaning. Default …; note.")
    meaning, default, care = parts.groups()
    return Key(name, form, meaning, re.sub(r"^Default:? ", "", default), care)


def _form(annotation: Any) -> str:
    """What a value must be, in the words of the messages about it."""
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, OneOrMany):
            return f"{_form(get_args(annotation)[0]).removeprefix('list of: ')}; or a list of such"
        if form := getattr(mark, "form", ""):
            return str(form).removeprefix("must be ")
    if hasattr(annotation, "__metadata__"):
        return _form(get_args(annotation)[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return either(map(str, arguments))
    if origin is dict:
        return f"mapping; each name is {_form(arguments[0])}; each value: {_form(arguments[1])}"
    if origin in (tuple, frozenset):
        return f"list of: {_form(arguments[0])}"
    if arguments:  # X | None, where None means left out
        return " or ".join(_form(argument) for argument in arguments if argument is not NoneType)
    if isinstance(annotation, EnumType):
        return either(member.value for member in annotation)  # type: ignore[var-annotated]
    return _PLAIN.get(annotation, "mapping")


_PLAIN: Final[dict[Any, str]] = {
    SecretStr: "text, secret: best written as ${env:NAME} or ${file:/path}",
}
