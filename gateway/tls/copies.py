"""Copies of PEM files from when they last fitted together.

A worker that begins amid a renewal that failed, or is half done, finds files on the disk that it cannot use. Its
supervisor gives it copies of those that the other workers still go by.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

Files = tuple[str | None, ...]
"""Paths of files that belong together; None stands for no file."""
Contents = tuple[bytes | None, ...]
"""What they held."""
Copies = Mapping[Files, Contents]

NO_COPIES: Final[Copies] = {}


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
    contents = tuple(None if file is None else Path(file).read_bytes() for file in files)
    with in_memory(contents) as paths:
        check(paths)
    return contents
