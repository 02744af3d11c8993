"""Run a program as the systemd unit does, as far as that goes without systemd: ``confined.py PROGRAM ARGUMENT …``.

Without capabilities, new privileges, a file system that can be written to, what /proc tells beside processes, and
memory that is both written and executed. STATE_DIRECTORY, as systemd sets it, names the one directory that can be
written to. The user stays root, who without capabilities is one like others, and whom
the interpreter belongs to. Needs root and Linux 6.3.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_PR_SET_MDWE: Final = 65
_PR_MDWE_REFUSE_EXEC_GAIN: Final = 1


def main(program: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:  # Python has os.unshare from 3.12 on
        raise OSError(ctypes.get_errno(), "unshare")
    for mount in (
        ["--make-rprivate", "/"],
        ["-t", "proc", "-o", "subset=pid,hidepid=invisible", "proc", "/proc"],
        *(["--bind", state, state] for state in [os.environ.get("STATE_DIRECTORY")] if state),
        ["-o", "remount,bind,ro", "/"],
    ):
        subprocess.run(["mount", *mount], check=True)
    if libc.prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MDWE)")
    rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    os.execvp("setpriv", ["setpriv", *rights, *program])


if __name__ == "__main__":
    main(sys.argv[1:])
