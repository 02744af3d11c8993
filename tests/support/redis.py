"""Real Redis servers on free ports: killed, stopped, restarted, full, read-only, with TLS, users and Sentinels."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import hiredis

from tests.support.gateways import wait_until
from tests.support.programs import free_port, require

SERVICE: Final = "wcs"
"""By which the Sentinels know the servers."""
USER: Final = "gateway"
PASSWORD: Final = "s3cret-of-the-state"
"""Of the user, and in ``users`` only; it stands in no message and no screen."""
_START_ATTEMPTS: Final = 3


class RedisServer:
    """One process: a server, or a Sentinel."""

    def __init__(self, directory: Path, *options: str, sentinel: bool = False) -> None:
        """*options* are lines of its configuration."""
        self.directory = directory
        self.port = free_port()
        self.options = list(options)
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)

    def __repr__(self) -> str:
        return f"<RedisServer {self.port} {self.log()[-500:]}>"

    @property
    def url(self) -> str:
        """For ``state.url``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, again after its end too; it accepts connections when this returns."""
        file = self.directory / "redis.conf"
        if not self._sentinel or not file.exists():  # a Sentinel keeps what it has learned in its file
            base = ("bind 127.0.0.1", f"port {self.port}", f"dir {self.directory}", 'save ""', "appendonly no")
            file.write_text("\n".join([*(base[:3] if self._sentinel else base), *self.options]) + "\n")
        command = [require("redis-server", "redis-server"), str(file), *(["--sentinel"] if self._sentinel else [])]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        assert wait_until(self._accepts), f"redis-server does not start: {self.log()}"

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._any_port), 1.0):
            return True
        return False

    @property
    def _any_port(self) -> int:
        return self.port

    def log(self) -> str:
        """What it has written."""
        return (self.directory / "redis.log").read_text(errors="replace")

    def command(self, *words: str | int | bytes, login: Sequence[str] = ()) -> Any:
        """The answer to a command, over a connection of its own; an error is returned as an exception."""
        with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
            if login:
                ask(connection, "AUTH", *login)
            return ask(connection, *words)

    def keys(self) -> set[str]:
        """All keys."""
        return {key.decode() for key in self.command("KEYS", "*")}

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the kernel accepts connections, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(20)


def ask(connection: socket.socket, *words: str | int | bytes) -> Any:
    """The answer to one command."""
    reader = hiredis.Reader()
    connection.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]
    while (answer := reader.gets()) is False:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("it closed the connection")
        reader.feed(data)
    return answer


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server that keeps nothing; *options* are lines of its configuration. Skips the test where there is none."""
    require("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="wcs-redis-") as name:
        server = RedisServer(Path(name) / "server", *options)
        try:
            server.start()
            yield server
        finally:
            server.close()


def acl_options(prefix: str = "wcs:") -> tuple[str, ...]:
    """Options for a server with the user ``USER`` that may do what the gateway needs, and nobody else."""
    return (
        "user default off",
        f"user {USER} on >{PASSWORD} ~{prefix}* &{prefix}* "
        "-@all +@read +@write +@pubsub +@scripting +@connection +time",
    )


def tls_options(certificate: Path, key: Path, ca: Path, port: int) -> tuple[str, ...]:
    """Options for a TLS port beside the plain one; clients need no certificate."""
    return (
        f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {ca}",
        "tls-auth-clients no",
    )  # fmt: skip


class Sentinels:
    """A master, its replica, and three Sentinels that replace one by the other within two seconds or so."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer], password: str = "") -> None:
        self.servers = servers
        self.sentinels = sentinels
        self.password = password
        """Of the servers and the Sentinels; empty for none."""

    @property
    def url(self) -> str:
        """For ``state.url``."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}/0"

    @property
    def login(self) -> Sequence[str]:
        """For ``RedisServer.command``."""
        return (self.password,) if self.password else ()

    def master(self) -> RedisServer:
        """The server that the Sentinels name."""
        answer = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE, login=self.login)
        return next(server for server in self.servers if server.port == int(answer[1]))

    def fail_over(self) -> RedisServer:
        """Kill the master; returns the new one, once it can be written."""
        before = self.master()
        before.kill()
        after = next(server for server in self.servers if server is not before)
        assert wait_until(lambda: after.command("ROLE", login=self.login)[0] == b"master", 30.0), "no failover"
        return after


@contextmanager
def redis_sentinels(password: str = "", *, guarded: bool = False) -> Iterator[Sentinels]:
    """One master, one replica, three Sentinels; with a password of the servers, and of the Sentinels if *guarded*."""
    require("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="wcs-redis-") as name, ExitStack() as stack:
        directory = Path(name)
        login = [password] * bool(password)
        own = [f"requirepass {password}", f"masterauth {password}"] if password else []
        master = RedisServer(directory / "first", *own)
        replica = RedisServer(directory / "second", f"replicaof 127.0.0.1 {master.port}", *own)
        sentinels = [
            RedisServer(
                directory / f"sentinel-{number}",
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} 500",
                f"sentinel failover-timeout {SERVICE} 2000",
                *([f"sentinel auth-pass {SERVICE} {password}"] if password else []),
                *([f"requirepass {password}", f"sentinel sentinel-pass {password}"] if guarded else []),
                sentinel=True,
            )
            for number in range(3)
        ]
        for server in (master, replica, *sentinels):
            stack.callback(server.close)
            server.start()
        assert wait_until(lambda: b"online" in master.command("INFO", "replication", login=login)), replica
        for sentinel in sentinels:
            assert wait_until(lambda it=sentinel: _knows_all(it, login if guarded else ()), 30.0), sentinel  # type: ignore[misc]
        yield Sentinels([master, replica], sentinels, password)


def _knows_all(sentinel: RedisServer, login: Sequence[str]) -> bool:
    """Whether it knows the replica and both other Sentinels: before that there is no failover."""
    answer = sentinel.command("SENTINEL", "MASTER", SERVICE, login=login)
    facts = dict(zip(answer[::2], answer[1::2], strict=True))
    return (facts[b"num-slaves"], facts[b"num-other-sentinels"]) == (b"1", b"2")
