"""Copies of PEM files from when they last fitted together.

A worker that begins amid a renewal that failed, or is half done, finds files on the disk that it cannot use. Its
supervisor gives it copies of those that the other workers still go by.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

Files = tuple[str | None, ...]
"""Paths of files that belong together; None stands for no file."""
Contents = tuple[bytes | None, ...]
"""What they held."""
Copies = Mapping[Files, Contents]

NO_COPIES: Final[Copies] = {}
_LARGEST: Final = 4 * 2**20
"""Bytes of a PEM file; gateway check takes no larger ones either."""


def refuse_odd(files: Files) -> None:
    """Raises OSError for files that OpenSSL would wait for, or read without end; it names none: a name may be a secret.

    What the check found may have been replaced since: by a named pipe, or a device.
    """
    for file in files:
        if file is None:
            continue
        try:
            status = os.stat(file)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror) from exc
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, f"it is larger than {_LARGEST >> 20} MiB")


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
            paths.append(f"/proc/self/fd/{file.fileno()}")
        yield tuple(paths)


def copied(files: Files, check: Callable[[Files], object]) -> Contents:
    """What the files hold, once *check* takes just that. Raises OSError, as it does, where they are of no use."""
    refuse_odd(files)
    contents = tuple(None if file is None else Path(file).read_bytes() for file in files)
    with in_memory(contents) as paths:
        check(paths)
    return contents
