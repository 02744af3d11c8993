"""Boots systemd, for tests of units: ``machine.py ROOT …`` in namespaces of its own, until SIGTERM.

The machine has this host's files under an overlay, its network, and nothing else of it: processes, mounts, /dev, /run
and control groups are its own, /proc/sys cannot be written to. ``-v SOURCE:TARGET`` shows a directory there, ``-f
SOURCE:TARGET`` copies a file there. Prints the process id of its systemd, as it is outside. Needs root and cgroup v2.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NEWNS: Final = 0x00020000
_OTHERS: Final = 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000
"""Of sched.h: control groups, host name, System V IPC, process ids."""
_PR_SET_PDEATHSIG: Final = 1
_TARGET: Final = "wcs-test.target"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def main(options: Sequence[str]) -> None:
    new_namespaces(_NEWNS)
    mount("-t", "tmpfs", "tmpfs", "/mnt")
    groups = Path("/mnt/groups")
    groups.mkdir()
    mount("-t", "cgroup2", "cgroup2", str(groups))
    # systemd's own groups are made below this one; it is entered before it becomes the root of all that is seen.
    group = groups / f"wcs-test-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    new_namespaces(_OTHERS)
    pid = os.fork()
    if pid == 0:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        boot(options)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    (groups / "cgroup.procs").write_text(str(os.getpid()))
    remove(group)


def new_namespaces(flags: int) -> None:
    if _LIBC.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if flags == _NEWNS:
        mount("--make-rprivate", "/")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def boot(options: Sequence[str]) -> None:
    """Become the machine's first process."""
    new_namespaces(_NEWNS)
    files, work, root = (Path("/mnt", name) for name in ("files", "work", "root"))
    for directory in (files, work, root):
        directory.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={files},workdir={work}", str(root))
    for kind, place, mode in (
        ("proc", "proc", ""), ("sysfs", "sys", ""), ("cgroup2", "sys/fs/cgroup", ""),
        ("tmpfs", "run", "mode=755"), ("tmpfs", "tmp", "mode=1777"), ("tmpfs", "dev", "mode=755"),
    ):  # fmt: skip
        mount("-t", kind, *(["-o", mode] if mode else []), kind, str(root / place))
    for device in ("null", "zero", "full", "random", "urandom", "tty"):
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", str(root / "dev" / device))
    for kind, place in (("devpts", "dev/pts"), ("tmpfs", "dev/shm"), ("mqueue", "dev/mqueue")):
        (root / place).mkdir()
        mount("-t", kind, kind, str(root / place))
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    mount("--bind", "-o", "ro", str(root / "proc/sys"), str(root / "proc/sys"))
    units = root / "etc/systemd/system"
    (units / _TARGET).write_text("[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n")
    for option, value in zip(options[::2], options[1::2], strict=True):
        source, _, target = value.partition(":")
        to = root / target.removeprefix("/")
        if option == "-v":
            to.mkdir(parents=True, exist_ok=True)
            mount("--bind", source, str(to))
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to)
    # No chroot: inside one, no user namespace can be made, as PrivateUsers= does.
    os.chdir(root)
    Path("old").mkdir()
    subprocess.run(["pivot_root", ".", "old"], check=True)
    subprocess.run(["umount", "-l", "/old"], check=True)
    systemd = "/lib/systemd/systemd"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "container": "test"}
    os.execve(systemd, [systemd, "--system", f"--unit={_TARGET}", "--log-target=null", "--show-status=0"], environment)


def remove(group: Path) -> None:
    """A control group goes when its last process has, which may take a moment."""
    deadline = time.monotonic() + 10
    below = [path for path in group.rglob("*") if path.is_dir()]
    for path in sorted([group, *below], key=lambda path: -len(path.parts)):
        while True:
            try:
                path.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1:])
