"""The real programs that tests run: legacy PHP backends, a balancer, a Java client, promtool.

Every server is a context manager that ends what it started. A program that is missing skips the test and
names its Debian package; with ``CI=true`` it fails it, so that nothing goes untested unseen.
"""

from __future__ import annotations

import atexit
import csv
import functools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import pytest

_TESTS: Final = Path(__file__).resolve().parent.parent
_PHP_BACKEND: Final = _TESTS.parent / "deploy" / "php" / "index.php"
_APACHE_CONF: Final = _TESTS / "tools" / "apache.conf"
_APACHE_FPM_CONF: Final = _TESTS / "tools" / "apache-fpm.conf"
_HAPROXY_CONF: Final = _TESTS.parent / "deploy" / "haproxy" / "haproxy.cfg"
_JAVA_CLIENT: Final = _TESTS / "java" / "HookClient.java"
_APACHE_MODULES: Final = Path("/usr/lib/apache2/modules")
# Debian keeps servers where an ordinary user's PATH does not look.
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])

_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 5.0
_START_ATTEMPTS: Final = 3

CALL_ID: Final = "@callId@"
"""Stands in a template of ``java_hooks`` for each hook's own call id."""


class SeenHook(NamedTuple):
    """One hook as the PHP backend received it."""

    time: float
    """Unix time in seconds."""
    method: str
    """The last segment of the path."""
    sha1: str
    """Of the raw body, in hex."""
    length: int
    """Of the raw body, in bytes."""
    request_id: str | None
    authorization: bool
    """Whether the hook carried an Authorization header."""


class Backend:
    """A PHP backend that runs: ``deploy/php/index.php`` behind some web server."""

    def __init__(self, port: int, pid: int, directory: Path) -> None:
        self.port = port
        self.pid = pid
        """Of the server's first process, which leads a process group of its own."""
        self.url = f"http://127.0.0.1:{port}/rest/my_api"
        """What a target's ``url`` is set to; a hook goes to ``{url}/{method}``."""
        self._directory = directory

    def hooks(self) -> list[SeenHook]:
        """Every hook that arrived so far, each written down before it was answered."""
        lines = (self._directory / "hooks.log").read_text().splitlines()
        return [SeenHook(**json.loads(line)) for line in lines]

    def errors(self) -> str:
        """What the server and PHP wrote to their error log so far."""
        return (self._directory / "error.log").read_text(errors="replace")

    def __repr__(self) -> str:
        return f"Backend(url={self.url!r}, pid={self.pid}, hooks={len(self.hooks())})"


class Balancer:
    """HAProxy that runs."""

    def __init__(self, port: int, health: int, directory: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/rest/my_api"
        """What a media server is given; a hook goes to ``{url}/{method}``."""
        self.health = f"http://127.0.0.1:{health}/health"
        """What keepalived asks."""
        self._directory = directory

    def figures(self, proxy: str, server: str) -> dict[str, str]:
        """HAProxy's own counts of one line: a server of a backend, or FRONTEND, or BACKEND."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._directory / "admin.sock"))
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return next(row for row in rows if (row["pxname"], row["svname"]) == (proxy, server))

    def log(self) -> str:
        """What HAProxy has logged so far."""
        return (self._directory / "error.log").read_text(errors="replace")


class HookResult(NamedTuple):
    """What became of one hook that the Java client sent."""

    call_id: str
    sent_sha1: str
    """Of the body, in hex."""
    status: int | None
    """None where no whole answer came."""
    received_sha1: str | None
    """Of the answer's body; None where no whole answer came."""
    ms: float
    """From before the connection to the end of the answer."""
    error: str | None
    """Java's exception, where no whole answer came."""


def require(program: str, package: str) -> str:
    """The path of a program.

    Without it the test is skipped, or failed under ``CI=true``, naming the Debian package that has it.
    """
    path = shutil.which(program, path=_SEARCH_PATH)
    if path is None:
        missing(program, package)
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on. The system picks it for nobody else while this process lives.

    It is bound here, and refuses. A server that names it may listen on it all the same, for servers set SO_REUSEADDR.
    """
    reserved = socket.socket()
    atexit.register(reserved.close)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port: int = reserved.getsockname()[1]
    return port


@contextmanager
def php_server(*, workers: int = 4, script: Path = _PHP_BACKEND) -> Iterator[Backend]:
    """The PHP backend, or another *script*, under ``php -S``: *workers* hooks at a time, each on a new connection."""
    php = require("php", "php-cli")
    with _server_directory() as directory:
        environment = {"HOOK_LOG": str(directory / "hooks.log")}
        if workers > 1:  # PHP complains of fewer than two
            environment["PHP_CLI_SERVER_WORKERS"] = str(workers)

        def command(port: int) -> list[str]:
            return [php, "-S", f"127.0.0.1:{port}", str(script)]

        with _server(command, environment, directory) as backend:
            yield backend


@contextmanager
def apache_php(
    *,
    workers: int = 8,
    keep_alive: bool = True,
    keep_alive_timeout: float = 5.0,
    script: Path = _PHP_BACKEND,
    port: int | None = None,
) -> Iterator[Backend]:
    """The PHP backend, or another *script*, under Apache with mod_php, as an ordinary user.

    Apache answers on at most *workers* connections at once, and an idle one counts until
    *keep_alive_timeout* seconds have passed; a client that connects beyond them waits. With *keep_alive* off
    every answer says ``Connection: close``. With *port* it comes back where it was before.
    """
    apache = require("apache2", "apache2-bin")
    php_module = next(_APACHE_MODULES.glob("libphp*.so"), None)
    if php_module is None:
        missing("mod_php", "libapache2-mod-php")
    user = pwd.getpwnam("nobody")
    with _server_directory() as directory:
        public = directory / "public"
        public.mkdir()
        shutil.copy(script, public / "index.php")
        command = [apache, "-f", str(_APACHE_CONF), "-DFOREGROUND"]
        if os.geteuid() == 0:
            command.append("-DROOT")
            for path in (directory, *directory.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        environment = {
            "DIRECTORY": str(directory),
            "HOOK_LOG": str(directory / "hooks.log"),
            "MODULES": str(_APACHE_MODULES),
            "PHP_MODULE": str(php_module),
            "UNPRIVILEGED_USER": user.pw_name,
            "UNPRIVILEGED_GROUP": f"#{user.pw_gid}",
            "WORKERS": str(workers),
            "KEEP_ALIVE": "On" if keep_alive else "Off",
            "KEEP_ALIVE_TIMEOUT": f"{round(keep_alive_timeout * 1000)}ms",
        }
        with _server(lambda _port: command, environment, directory, port) as backend:
            yield backend


@contextmanager
def apache_php_fpm(*, workers: int = 2, script: Path = _PHP_BACKEND) -> Iterator[Backend]:
    """The PHP backend, or another *script*, under PHP-FPM behind Apache, as an ordinary user.

    The pool has *workers* processes. Apache takes far more connections: a hook beyond them waits, as long as it takes.
    """
    apache = require("apache2", "apache2-bin")
    fpm = _php_fpm()
    user = pwd.getpwnam("nobody")
    with _server_directory() as directory:
        public = directory / "public"
        public.mkdir()
        shutil.copy(script, public / "index.php")
        as_root = os.geteuid() == 0
        pool = directory / "fpm.conf"
        pool.write_text(
            "\n".join(
                [
                    "[global]",
                    f"error_log = {directory}/error.log",
                    "[hooks]",
                    *([f"user = {user.pw_name}", f"group = {user.pw_gid}"] if as_root else []),
                    f"listen = {directory}/fpm.sock",
                    "listen.mode = 0666",
                    "pm = static",
                    f"pm.max_children = {workers}",
                    f"env[HOOK_LOG] = {directory}/hooks.log",
                    "",
                ]
            )
        )
        command = [apache, "-f", str(_APACHE_FPM_CONF), "-DFOREGROUND"]
        if as_root:
            command.append("-DROOT")
            for path in (directory, *directory.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        environment = {
            "DIRECTORY": str(directory),
            "MODULES": str(_APACHE_MODULES),
            "UNPRIVILEGED_USER": user.pw_name,
            "UNPRIVILEGED_GROUP": f"#{user.pw_gid}",
        }
        with (
            _php_pool([fpm, "--nodaemonize", "--fpm-config", str(pool)], directory),
            _server(lambda _port: command, environment, directory) as backend,
        ):
            yield backend


@contextmanager
def haproxy(**replacing: str) -> Iterator[Balancer]:
    """HAProxy with the configuration that we give to operators, on a port of its own.

    *replacing* says what stands for the addresses of the example's servers: gateway_a and gateway_b for the hook ports,
    admin_a and admin_b for the admin ports; gateway_c and admin_c add a third. All on 127.0.0.1.
    """
    program = require("haproxy", "haproxy")
    text = _HAPROXY_CONF.read_text()
    if "gateway_c" in replacing:
        third = f"127.0.0.1:{replacing['gateway_c']} port {replacing['admin_c']} id 3"
        text += f"    server gateway-c {third}\n"
    with _server_directory() as directory:
        file = directory / "haproxy.cfg"
        health = free_port()

        def command(port: int) -> list[str]:
            changes = {
                "log /dev/log local0": "log stdout format raw local0",
                "/run/haproxy/admin.sock mode": f"{directory}/admin.sock mode",
                "    user haproxy\n    group haproxy\n": "",
                "127.0.0.1:8404": f"127.0.0.1:{health}",
                "0.0.0.0:8080": f"127.0.0.1:{port}",
                "192.0.2.11:8080 port 9180": f"127.0.0.1:{replacing['gateway_a']} port {replacing['admin_a']}",
                "192.0.2.12:8080 port 9180": f"127.0.0.1:{replacing['gateway_b']} port {replacing['admin_b']}",
            }
            changed = text
            for old, new in changes.items():
                assert changed.count(old) == 1, f"{_HAPROXY_CONF.name} has another form now: {old!r}"
                changed = changed.replace(old, new)
            file.write_text(changed)
            return [program, "-db", "-f", str(file)]

        with _server(command, {}, directory) as running:
            _await_socket(directory)
            yield Balancer(running.port, health, directory)


@contextmanager
def haproxy_by(configuration: Callable[[Path, int], str]) -> Iterator[Balancer]:
    """HAProxy by a test's own *configuration*, given its directory (for admin.sock) and port; it has no health page."""
    program = require("haproxy", "haproxy")
    with _server_directory() as directory:
        file = directory / "haproxy.cfg"

        def command(port: int) -> list[str]:
            file.write_text(configuration(directory, port))
            return [program, "-db", "-f", str(file)]

        with _server(command, {}, directory) as running:
            _await_socket(directory)
            yield Balancer(running.port, 0, directory)


def _await_socket(directory: Path) -> None:
    """HAProxy gives its control socket the final name a moment after it accepts."""
    deadline = time.monotonic() + _START_SECONDS
    while not (directory / "admin.sock").exists():
        assert time.monotonic() < deadline, (directory / "error.log").read_text(errors="replace")
        time.sleep(0.01)


def haproxy_complaints() -> str:
    """What HAProxy says against the configuration that we give to operators; nothing if all is well."""
    program = require("haproxy", "haproxy")
    done = subprocess.run([program, "-c", "-q", "-f", str(_HAPROXY_CONF)], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit status {done.returncode}")


def java_hooks(
    url: str,
    threads: int,
    count: int,
    template: str,
    *,
    connect_timeout: float = 15.0,
    read_timeout: float = 15.0,
    pause: float = 0.0,
) -> list[HookResult]:
    """Send *count* hooks with Java's HTTP client, as many at a time as *threads*, and wait for all of them.

    *template* is the body, with CALL_ID where each hook's own call id belongs. Timeouts in seconds, each for
    one hook, before which its thread waits up to *pause* seconds.
    """
    java = require("java", "default-jdk-headless")
    classes = _compiled_java_client()
    longest = 30.0 + (connect_timeout + read_timeout + pause) * -(-count // threads)
    with tempfile.TemporaryDirectory(prefix="wcs-java-") as name:
        body = Path(name, "body")
        body.write_text(template, encoding="utf-8", newline="")
        done = subprocess.run(
            [
                *(java, "-XX:TieredStopAtLevel=1", "-cp", str(classes), "HookClient"),
                *(url, str(threads), str(count), str(body)),
                *(str(round(seconds * 1000)) for seconds in (connect_timeout, read_timeout, pause)),
            ],
            capture_output=True,
            text=True,
            timeout=longest,
        )
    assert done.returncode == 0, done.stderr
    return [HookResult(**json.loads(line)) for line in done.stdout.splitlines()]


def promtool_check(text: str) -> list[str]:
    """The complaints of ``promtool check metrics`` about metrics in the text format; none if all is well."""
    promtool = require("promtool", "prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode != 0 and not complaints:
        complaints = [f"promtool ended with exit status {done.returncode}"]
    return complaints


def missing(program: str, package: str) -> NoReturn:
    """Skip, saying so; with ``CI=true`` fail."""
    impossible(f"{program} is not installed (Debian package {package})")


def impossible(reason: str) -> NoReturn:
    """Skip what this machine does not allow, saying why; with ``CI=true`` fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _php_fpm() -> str:
    """Debian names the program after PHP's version."""
    for directory in _SEARCH_PATH.split(os.pathsep):
        for program in sorted(Path(directory or ".").glob("php-fpm*"), reverse=True):
            return str(program)
    missing("php-fpm", "php-fpm")


@contextmanager
def _php_pool(command: Sequence[str], directory: Path) -> Iterator[None]:
    with (directory / "error.log").open("ab") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, cwd=directory, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not (directory / "fpm.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PHP-FPM does not start: {(directory / 'error.log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield
    finally:
        _end_group(process)


@functools.cache
def _compiled_java_client() -> Path:
    javac = require("javac", "default-jdk-headless")
    classes = Path(tempfile.mkdtemp(prefix="wcs-java-"))
    atexit.register(shutil.rmtree, classes, ignore_errors=True)
    done = subprocess.run(
        [javac, "-Xlint:all", "-Werror", "-d", str(classes), str(_JAVA_CLIENT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return classes


@contextmanager
def _server_directory() -> Iterator[Path]:
    # Not pytest's tmp_path: that is closed to the user that Apache drops to.
    with tempfile.TemporaryDirectory(prefix="wcs-backend-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        for log in ("hooks.log", "error.log"):
            (directory / log).touch()
        yield directory


@contextmanager
def _server(
    command: Callable[[int], Sequence[str]],
    environment: Mapping[str, str],
    directory: Path,
    wanted_port: int | None = None,
) -> Iterator[Backend]:
    process, port = _start(command, environment, directory, wanted_port)
    try:
        yield Backend(port, process.pid, directory)
    finally:
        _end(process, port)


def _start(
    command: Callable[[int], Sequence[str]],
    environment: Mapping[str, str],
    directory: Path,
    wanted_port: int | None = None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it accepts; on another port if it ended, for the first may be taken."""
    error_log = directory / "error.log"
    for _ in range(_START_ATTEMPTS):
        port = wanted_port or free_port()
        with error_log.open("ab") as errors:
            process = subprocess.Popen(
                command(port),
                env={"PATH": _SEARCH_PATH, **environment, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=directory,
                start_new_session=True,
            )
        try:
            if _wait_until_it_accepts(process, port):
                return process, port
        except BaseException:
            _end(process, port)
            raise
    raise RuntimeError(f"{process.args!r} does not start: {error_log.read_text(errors='replace')[-2000:]}")


def _wait_until_it_accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    """False if the process ended instead. Raises TimeoutError."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if _accepts(port):
            return True
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r} does not accept on port {port} after {_START_SECONDS:g} s")


def _end(process: subprocess.Popen[bytes], port: int) -> None:
    """End a server with the workers in its process group, until nothing listens; every wait is bounded."""
    _end_group(process)
    # Workers are not our children and cannot be waited for, but each holds the listening socket.
    deadline = time.monotonic() + _STOP_SECONDS
    while _accepts(port) and time.monotonic() < deadline:
        time.sleep(0.01)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_SECONDS)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
