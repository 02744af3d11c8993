"""Hands sockets over as systemd does (sd_listen_fds(3)): ``hand_over.py NAME:DESCRIPTOR … -- PROGRAM ARGUMENT …``."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from typing import Final, Protocol

_FIRST: Final = 3
_ASIDE: Final = 200
"""Above all descriptors that were inherited."""


class HasDescriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """Its descriptor."""


def handing_over(
    given: Sequence[tuple[str, HasDescriptor]], program: Sequence[str] = (sys.executable, "-m", "gateway")
) -> tuple[str, ...]:
    """The command that starts *program* with these; their descriptors have to be in its ``pass_fds``."""
    named = [f"{name}:{descriptor.fileno()}" for name, descriptor in given]
    return (sys.executable, __file__, *named, "--", *program)


def main(words: list[str]) -> None:
    """Become the program, with the descriptors from 3 on and the variables that name them."""
    end = words.index("--")
    given = [word.rpartition(":") for word in words[:end]]
    copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, _ASIDE) for *_, number in given]
    for number in {int(number) for *_, number in given}:
        os.close(number)
    for index, copy in enumerate(copies):
        os.dup2(copy, _FIRST + index)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(given)),
        "LISTEN_FDNAMES": ":".join(name for name, *_ in given),
    }
    os.execvp(words[end + 1], words[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
