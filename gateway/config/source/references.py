"""``${env:NAME}`` and ``${file:/path}`` inside a value; what they bring in is never part of a message."""

from __future__ import annotations

import os
import re
from typing import Final

from gateway.config.source.files import ReadError, read_text
from gateway.config.source.problems import quote

MAX_SECRET_FILE: Final = 64 * 1024
"""Bytes of one ``${file:…}``."""
MAX_EXPANDED: Final = 16 * 1024 * 1024
"""Characters that all references of one configuration may bring in together."""

REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_FORMS: Final = "write ${env:NAME} or ${file:/path}, or $${ for a plain ${"


class BadReferenceError(Exception):
    """A reference cannot be resolved; the message is for the operator."""


class Expander:
    """Expands the references of one configuration: each file is read once, the whole is bounded."""

    def __init__(self) -> None:
        self._left = MAX_EXPANDED
        self._files: dict[str, str] = {}

    def expand(self, text: str) -> str:
        """The text with every reference replaced; ``$${`` becomes ``${``. Raises BadReferenceError."""
        return REFERENCE.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        if match.group(1) is None:
            return "${"
        kind, _, name = match.group(1).partition(":")
        if not match.group(2):
            raise BadReferenceError(f"has a ${{ without its }}; {_FORMS}")
        if kind == "env":
            value = self._variable(name)
        elif kind == "file":
            value = self._file(name)
        else:
            raise BadReferenceError(f"{quote(match.group())} is not known; {_FORMS}")
        self._left -= len(value)
        if self._left < 0:
            raise BadReferenceError("the references of this file bring in more than 16 MiB")
        return value

    def _variable(self, name: str) -> str:
        if not _is_variable(name):
            raise BadReferenceError(f"{quote(name)} is not the name of an environment variable; {_FORMS}")
        value = os.environ.get(name)
        if value is None:
            raise BadReferenceError(f"the environment variable {name[:200]} is not set")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise BadReferenceError(f"the environment variable {name[:200]} is not UTF-8") from exc
        return value

    def _file(self, name: str) -> str:
        if not name.startswith("/"):
            raise BadReferenceError(f"{quote(name)} is not an absolute path; {_FORMS}")
        if name not in self._files:
            try:
                text = read_text(name, MAX_SECRET_FILE, "64 KiB")
            except ReadError as exc:
                raise BadReferenceError(f"the file {quote(name)} cannot be read: {exc}") from exc
            self._files[name] = text.removesuffix("\n").removesuffix("\r")
        return self._files[name]
