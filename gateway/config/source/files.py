"""Files that a configuration is read from or names: only regular ones, up to a size, without waiting."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager


class ReadError(Exception):
    """A file cannot be read; the message says why, without its name."""


def read_text(path: str | os.PathLike[str], limit: int, size_text: str) -> str:
    """A regular file's UTF-8 text, of at most *limit* bytes. Raises ReadError."""
    data = read_bytes(path, limit, size_text)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ReadError(f"it is not UTF-8 (byte {exc.start})") from exc


def read_bytes(path: str | os.PathLike[str], limit: int, size_text: str) -> bytes:
    """A regular file's bytes, at most *limit*; the size is looked at before the content. Raises ReadError."""
    with _open_regular(path, limit, size_text) as descriptor, open(descriptor, "rb", closefd=False) as file:
        data = file.read(limit + 1)
    if data is None:  # some files of /proc and /sys are regular ones, and wait as a pipe does
        raise ReadError("nothing can be read from it now")
    if len(data) > limit:
        raise ReadError(f"it is larger than {size_text}")
    return data


def check_readable(path: str, limit: int, size_text: str) -> None:
    """Raises ReadError where ``read_text`` would, but for what the file holds."""
    with _open_regular(path, limit, size_text):
        pass


@contextmanager
def _open_regular(path: str | os.PathLike[str], limit: int, size_text: str) -> Iterator[int]:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_status(os.fstat(descriptor), limit, size_text)
            yield descriptor
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise ReadError((reason or "it has no valid name").lower()) from exc


def _check_status(status: os.stat_result, limit: int, size_text: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ReadError("it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ReadError("it is not a regular file")
    if status.st_size > limit:
        raise ReadError(f"it is larger than {size_text}")
