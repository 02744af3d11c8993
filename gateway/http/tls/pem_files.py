"""Copies of PEM files from when they last fitted together.

A worker that begins amid a renewal that failed, or is half done, finds files on the disk that it cannot use. Its
supervisor gives it copies of the files that the other workers still use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final

Files = tuple[str | None, ...]
"""Paths of files that belong together; None = no file."""
Contents = tuple[bytes | None, ...]
"""Their contents."""
Copies = Mapping[Files, Contents]

NO_COPIES: Final[Copies] = {}
_DESCRIPTORS: Final = "/proc/self/fd"
_LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a PEM file; the system's own bundle of authorities has a quarter of a megabyte."""


def read_regular(file: str | os.PathLike[str]) -> bytes:
    """A regular file's contents. Raises OSError, for a pipe or a device too, which could block forever.

    It does not name the file: the path may be a reference to a secret.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror) from exc
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return opened.read(_LARGEST) or b""  # None: it waits as a pipe does


def read_files(files: Files) -> Contents:
    """The contents of these files. Raises OSError as ``read_regular`` does."""
    return tuple(None if file is None else read_regular(file) for file in files)


@contextlib.contextmanager
def in_memory(contents: Contents) -> Iterator[Files]:
    """Paths at which OpenSSL, which reads nothing but files, finds these contents: they never touch a disk.

    Raises OSError where there is no /proc.
    """
    with contextlib.ExitStack() as stack:
        paths: list[str | None] = []
        for data in contents:
            if data is None:
                paths.append(None)
                continue
            file = stack.enter_context(os.fdopen(os.memfd_create("pem"), "wb", buffering=0))
            file.write(data)
            paths.append(f"{_DESCRIPTORS}/{file.fileno()}")
        yield tuple(paths)


@contextlib.contextmanager
def snapshot_files(files: Files) -> Iterator[Files]:
    """Paths at which OpenSSL finds what the files hold now, also if they change meanwhile.

    OpenSSL itself would wait for ever where a file has become a pipe that nobody writes to. Raises OSError.
    """
    contents = read_files(files)
    if not os.path.isdir(_DESCRIPTORS):
        yield files
        return
    with in_memory(contents) as paths:
        yield paths


def copy_files(files: Files, check: Callable[[Files], object]) -> Contents:
    """The files' contents, after *check* accepted exactly these. Raises OSError, also if *check* does."""
    contents = read_files(files)
    with in_memory(contents) as paths:
        check(paths)
    return contents
