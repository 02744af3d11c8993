"""A PostgreSQL server for the tests: in a temporary folder, as an ordinary user, on a free port of loopback."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypedDict

from tests.support.programs import free_port, missing


class _User(TypedDict, total=False):
    """Arguments of Popen's."""

    user: int
    group: int
    extra_groups: list[int]


_BINARIES: Final = "/usr/lib/postgresql"
_START_SECONDS: Final = 30.0
_SETTINGS: Final = {
    "listen_addresses": "'127.0.0.1'",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",  # tests that need it say so
    "log_min_messages": "warning",
}

_MAKE: Final = ("-E", "UTF8", "--locale=C", "--no-sync")


class PostgresServer:
    """A server that runs."""

    def __init__(self, directory: Path, port: int, program: Path) -> None:
        self.directory = directory
        self.port = port
        self._program = program
        self._names = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<PostgresServer port={self.port}>"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """What ``store.url`` is set to."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test{next(self._names)}"
        self.query(f"CREATE DATABASE {name}")
        return self.url(name)

    def query(self, command: str, database: str = "postgres") -> str:
        """What psql prints for this command."""
        psql: list[str | Path] = [
            self._program / "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        done = subprocess.run(
            [*psql, "-U", "gateway", "-c", command, database], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    def set_standby(self, name: str) -> None:
        """Have each commit wait for this standby; an empty name: for none."""
        self.query(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.query("SELECT pg_reload_conf()")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value.strip(chr(39))}")]
        command: list[str | Path] = [
            self._program / "postgres",
            "-D",
            self.directory / "data",
            "-p",
            str(self.port),
            *settings,
        ]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-k", self.directory], stdout=log, stderr=log, cwd=self.directory, **_ordinary_user()
            )
        ready: list[str | Path] = [
            self._program / "pg_isready",
            "-q",
            "-U",
            "gateway",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        until = time.monotonic() + _START_SECONDS
        while subprocess.run(ready).returncode:
            text = (self.directory / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, f"PostgreSQL does not start:\n{text}"
            assert time.monotonic() < until, f"PostgreSQL is not ready within {_START_SECONDS} s:\n{text}"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT at once, SIGINT in order, SIGKILL as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server of its own, for tests that stop it."""
    program = _program()
    directory = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
    user = _ordinary_user()
    try:
        if user:
            os.chown(directory, user["user"], user["group"])
        made = subprocess.run(
            [
                program / "initdb",
                "-D",
                directory / "data",
                "-U",
                "gateway",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
            capture_output=True,
            text=True,
            cwd=directory,
            **user,
        )
        assert made.returncode == 0, made.stderr
        server = PostgresServer(directory, free_port(), program)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _program() -> Path:
    versions = sorted(Path(_BINARIES).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        missing("initdb", "postgresql")
    return versions[-1].parent


def _ordinary_user() -> _User:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    with suppress(KeyError):
        entry = pwd.getpwnam("postgres")
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
