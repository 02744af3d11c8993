"""Two PostgreSQL servers, the second one a synchronous standby of the first, which can be killed and replaced by it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.gateways import wait_until
from tests.support.programs import free_port, missing

DATABASE: Final = "gateway"
USER: Final = "gateway"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_wal_size": "128MB",
    "autovacuum": "off",
    "max_connections": "40",
    "max_wal_senders": "4",
}
"""For small servers that start fast; what is committed is on the disk, as it is by default."""


class PostgresServer:
    """One server; its data are in *directory*."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its database, as a gateway is given it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        """Make an empty cluster with one database, and start it."""
        self.run("initdb", "-D", str(self.directory), "-A", "trust", "-U", USER, "-N", "-E", "UTF8", "--no-locale")
        settings = "".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        with (self.directory / "postgresql.conf").open("a") as file:
            file.write(settings)
        self.start()
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, DATABASE)

    def start(self) -> None:
        """Start it; it answers when this returns."""
        command = [self._programs / "postgres", "-D", self.directory, "-p", str(self.port)]
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_user(), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        assert wait_until(lambda: subprocess.run(ready, timeout=20).returncode == 0), "PostgreSQL does not start"

    def kill(self) -> None:
        """``kill -9`` of all its processes."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in an orderly way, at once: its clients' connections end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def pause(self) -> None:
        """Stop all its processes, so that it accepts and does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def query(self, text: str) -> str:
        """What psql prints for a query."""
        options = ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", DATABASE, "-Atqc", text)
        return self.run("psql", *options).strip()

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as an ordinary user, and return what it printed."""
        done = subprocess.run(
            [*_as_user(), str(self._programs / program), *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        family = self._signal(number)
        self._process.wait(30)
        # Its children are not ours and cannot be waited for; port and files are free once they have ended.
        assert wait_until(lambda: not any(map(_is_alive, family)))

    def _signal(self, number: signal.Signals) -> list[int]:
        """Send it to the server and all its processes, and return these."""
        family = [self.pid, *_children(self.pid)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return family


class PostgresPair:
    """A primary, and a standby that has each commit before it is confirmed."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby

    @property
    def url(self) -> str:
        """Names both; the one that can be written is meant."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://{USER}@{hosts}/{DATABASE}?target_session_attrs=read-write&connect_timeout=2"

    def fail_over(self) -> None:
        """Kill the primary; the standby becomes one, without a standby of its own."""
        self.primary.kill()
        self.standby.run("pg_ctl", "promote", "-D", str(self.standby.directory), "-w")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server with an empty database; skips the test where PostgreSQL is not installed."""
    with _directory() as directory:
        server = PostgresServer(directory / "primary", _programs())
        try:
            server.create()
            yield server
        finally:
            server.close()


@contextmanager
def postgres_pair() -> Iterator[PostgresPair]:
    """A primary and its synchronous standby."""
    with _directory() as directory, ExitStack() as stack:
        primary = PostgresServer(directory / "primary", _programs())
        stack.callback(primary.close)
        primary.create()
        with (primary.directory / "pg_hba.conf").open("a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
        primary.query("SELECT pg_reload_conf()")
        standby = PostgresServer(directory / "standby", _programs())
        stack.callback(standby.close)
        source = f"host=127.0.0.1 port={primary.port} user={USER} application_name=standby"
        primary.run("pg_basebackup", "-D", str(standby.directory), "-d", source, "-R", "-c", "fast", "-X", "stream")
        standby.start()
        primary.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.query("SELECT pg_reload_conf()")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        assert wait_until(lambda: primary.query(synchronous) == "1"), "the standby does not follow"
        standby.query("SELECT 1")
        # The standby's copy of the setting goes: promoted, it would wait for a standby that it does not have.
        with (standby.directory / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")
        yield PostgresPair(primary, standby)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        missing("postgres", "postgresql")
    return found[-1].parent


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory of the user's that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="wcs-postgres-", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            shutil.chown(name, user.pw_uid, user.pw_gid)
        yield Path(name)


def _as_user() -> Sequence[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam("nobody")
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
