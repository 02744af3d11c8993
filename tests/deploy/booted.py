"""A machine that systemd runs, with the gateway installed as deploy/systemd says: see ``machine.py``."""

from __future__ import annotations

import compileall
import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.gateways import ROOT, wait_until
from tests.support.programs import require

UNITS: Final = ROOT / "deploy" / "systemd"
LIMIT: Final = 60.0


class Machine:
    """A machine that runs, with the gateway installed and not started."""

    def __init__(self, pid: int, hooks: int, admin: int, config: str) -> None:
        self.pid = pid
        self.hooks = hooks
        self.admin = admin
        self.config = config

    def do(self, *words: str) -> subprocess.CompletedProcess[str]:
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--root",
            "--wd",
            "--ipc",
            "--cgroup",
            "env",
            "-i",
        ]
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run([*enter, path, *words], capture_output=True, text=True, timeout=LIMIT)

    def systemctl(self, *words: str) -> int:
        return self.do("systemctl", *words).returncode

    def property(self, name: str, unit: str = "wcs-gateway") -> str:
        return self.do("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def write_config(self, text: str, name: str = "gateway") -> None:
        Path(f"/proc/{self.pid}/root/etc/wcs-gateway/{name}.yaml").write_text(text)

    def main_pid(self) -> int:
        """Of the gateway, outside of the machine."""
        inside = self.property("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                same = os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")
            except OSError:
                continue
            if same and re.search(rf"^NSpid:\t\d+\t{inside}$", text, re.MULTILINE):
                return int(status.parent.name)
        raise AssertionError(f"no process {inside}")

    def journal(self) -> str:
        return self.do("journalctl", "--no-pager", "--output=cat", "--lines=60").stdout

    def ask(self, path: str) -> Any:
        """The admin port's answer; None while there is none."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin}{path}", trust_env=False, timeout=10).json()
        except httpx.TransportError:
            return None

    def hook(self, app: str = "a", method: str = "OnCallEvent") -> int:
        url, body = f"http://127.0.0.1:{self.hooks}/rest/{method}", f'{{"appKey":"{app}"}}'.encode()
        return httpx.post(url, content=body, trust_env=False, timeout=30).status_code


@contextlib.contextmanager
def booted_machine(
    directory: Path, config: str, hooks: int, admin: int, drop_ins: Mapping[str, str]
) -> Iterator[Machine]:
    """A machine with this configuration and *drop_ins* by unit; hook and admin port are those of the configuration."""
    require("systemctl", "systemd")
    if os.geteuid() != 0:
        pytest.skip("only root can boot a machine")
    filesystems = Path("/proc/filesystems").read_text().split()
    if not {"overlay", "cgroup2"} <= set(filesystems):
        pytest.skip("this kernel has no overlay file system, or no cgroup v2")
    # The interpreter of the tests may be under /root, which the unit hides.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (directory / "gateway").write_text(
        "#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/code:/opt/packages\n"
        f'exec /opt/python/bin/{version} -m gateway "$@"\n'
    )
    (directory / "gateway").chmod(0o755)
    (directory / "gateway.yaml").write_text(config)
    for unit, text in drop_ins.items():
        (directory / f"{unit}.conf").write_text(text)
    # As root is asked to do: systemd makes the user, from the file for it.
    (directory / "etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", directory / "etc" / name)
    subprocess.run(["systemd-sysusers", f"--root={directory}", str(UNITS / "sysusers.conf")], check=True)
    code = directory / "code"
    shutil.copytree(ROOT / "gateway", code / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(code, quiet=1)  # as pip does, else each process compiles it all again
    options = {
        "-v": [
            f"{sys.base_prefix}:/opt/python", f"{sysconfig.get_path('purelib')}:/opt/packages", f"{code}:/opt/code",
        ],
        "-f": [
            f"{directory}/gateway:/opt/wcs-gateway/bin/gateway",
            f"{directory}/gateway.yaml:/etc/wcs-gateway/gateway.yaml",
            *(f"{directory}/{unit}.conf:/etc/systemd/system/{unit}.d/test.conf" for unit in drop_ins),
            *(f"{directory}/etc/{name}:/etc/{name}" for name in ("passwd", "group")),
            *(f"{unit}:/etc/systemd/system/{unit.name}" for unit in UNITS.glob("wcs-gateway*")),
        ],
    }  # fmt: skip
    words = [word for option, values in options.items() for value in values for word in (option, value)]
    launcher = Path(__file__).with_name("machine.py")
    process = subprocess.Popen([sys.executable, str(launcher), *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        running = Machine(int(process.stdout.readline()), hooks, admin, config)
        assert wait_until(lambda: running.systemctl("is-active", "basic.target") == 0, LIMIT)
        yield running
    finally:
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()
