"""``${env:NAME}`` and ``${file:/path}`` inside a value; what they stand for is never part of a message."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from .problems import quote

MAX_SECRET_FILE: Final = 64 * 1024
"""Bytes of one ``${file:…}``."""
MAX_EXPANDED: Final = 16 * 1024 * 1024
"""Characters that all references of one configuration may bring in together."""

REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_FORMS: Final = "write ${env:NAME} or ${file:/path}, or $${ for a plain ${"


class ReadError(Exception):
    """A file cannot be taken; the message says why, without its name."""


class BadReferenceError(Exception):
    """A reference cannot be resolved; the message is for the operator."""


def read_text(path: str | os.PathLike[str], limit: int, size_text: str) -> str:
    """A regular file's UTF-8 text, of at most *limit* bytes; the size is looked at before the content.

    Raises ReadError.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _refuse_by_status(os.fstat(descriptor), limit, size_text)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise ReadError((reason or "it has no valid name").lower()) from exc
    if len(data) > limit:
        raise ReadError(f"it is larger than {size_text}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ReadError(f"it is not UTF-8 (byte {exc.start})") from exc


def _refuse_by_status(status: os.stat_result, limit: int, size_text: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ReadError("it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ReadError("it is not a regular file")
    if status.st_size > limit:
        raise ReadError(f"it is larger than {size_text}")


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
            raise BadReferenceError(f"{quote(name)} is no name of an environment variable; {_FORMS}")
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
