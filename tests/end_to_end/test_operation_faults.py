"""What goes wrong around the process: its log, its clock, its memory, its rights, its signals and its file."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.gateways import ROOT, START_LIMIT, STOP_LIMIT, RunningGateway, running_gateway, wait_until
from tests.support.pacing import Callers, Mode, PacedBackend, configuration, hook_body, volley
from tests.support.programs import free_port, missing, require

FAKETIME: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@pytest.fixture(scope="module")
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def config_for(backend: PacedBackend, app: str = "a", **sections: Any) -> str:
    upstream = {"url": backend.url, "breaker": "off"}
    return configuration({"u": upstream}, {app: {"upstream": "u", "timeout": "2s"}}, **sections)


def statuses(gateway: RunningGateway, count: int = 1, app: str = "a") -> set[int]:
    return {answer.status for answer in volley(gateway, [hook_body(app) for _ in range(count)])}


@contextlib.contextmanager
def started(
    backend: PacedBackend,
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    stdout: int | None = None,
    **server: Any,
) -> Iterator[RunningGateway]:
    """A gateway whose log goes where the test wants it; the test chooses its ports, since it cannot read them."""
    hooks, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    config, log = directory / "gateway.yaml", directory / "gateway.log"
    config.write_text(config_for(backend, server={"listen": hooks, "admin": admin, **server}))
    with log.open("ab") as own:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "gateway", "run", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=own if stdout is None else stdout,
            stderr=own,
            cwd=ROOT,
        )
    gateway = RunningGateway(process, config, log, hooks, admin)
    try:
        assert wait_until(lambda: process.poll() is not None or is_ready(gateway), START_LIMIT)
        assert process.poll() is None, log.read_text()
        yield gateway
    finally:
        gateway.client.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_ready(gateway: RunningGateway) -> bool:
    try:
        return gateway.get("/-/ready").status_code == 200
    except httpx.TransportError:  # before the listener is there
        return False


# --- the log ---


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def pipe_whose_reader_is_gone() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def pipe_that_nobody_reads() -> Iterator[int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("where", "workers"), [(full_disk, 2), (pipe_whose_reader_is_gone, 1)])
def test_hooks_go_on_where_the_log_cannot_be_written_and_the_lines_are_counted(
    where: Callable[[], contextlib.AbstractContextManager[int]], workers: int, backend: PacedBackend, tmp_path: Path
) -> None:
    with where() as fd, started(backend, tmp_path, stdout=fd, workers=workers) as gateway:
        assert statuses(gateway, 50) == {200}
        assert wait_until(lambda: gateway.metric("gateway_log_lines_dropped_total") >= 50)
        assert statuses(gateway) == {200}
        assert gateway.stop() == 0
    assert gateway.log.read_text() == ""


def test_a_closed_standard_output_means_no_log_and_no_socket_takes_its_place(
    backend: PacedBackend, tmp_path: Path
) -> None:
    closing = ("sh", "-c", 'exec "$@" <&- >&-', "sh")
    with started(backend, tmp_path, prefix=closing, workers=2) as gateway:
        assert statuses(gateway, 50) == {200}
        assert os.readlink(f"/proc/{gateway.pid}/fd/1") == os.devnull
        assert gateway.stop() == 0
    assert gateway.log.read_text() == ""


def test_a_log_that_nobody_reads_holds_up_neither_hooks_nor_the_end(backend: PacedBackend, tmp_path: Path) -> None:
    with pipe_that_nobody_reads() as fd, started(backend, tmp_path, stdout=fd) as gateway:
        for _ in range(3):
            assert statuses(gateway, 100) == {200}
        assert gateway.stop() == 0


# --- the clock ---


@pytest.mark.real
def test_hooks_and_deadlines_do_not_care_where_the_clock_jumps(backend: PacedBackend, tmp_path: Path) -> None:
    if not FAKETIME:
        missing("libfaketimeMT.so.1", "libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0d\n")
    environment = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # no jump of a real clock touches that one
        "DONT_FAKE_MONOTONIC": "1",
    }
    with running_gateway(config_for(backend), tmp_path, environment=environment) as gateway:
        assert statuses(gateway) == {200}
        for jump in ("+400d", "-400d"):
            with Callers(gateway.hooks, "a", rate=50) as callers:
                assert wait_until(lambda: len(callers.answers) >= 10)
                clock.write_text(f"{jump}\n")
                assert wait_until(lambda: len(callers.answers) >= 35)
            assert set(callers.statuses()) == {200}, jump
            backend.mode = Mode.HOLD
            held = volley(gateway, [hook_body("a")])[0]
            backend.mode = Mode.OK
            backend.release()
            assert (held.status, held.proxy_error) == (403, "http_response_timeout"), jump
            # A deadline that heeded the clock would come at once, or in years.
            assert 1.5 < held.seconds < 10, jump
            assert gateway.access_line(held.headers["x-request-id"])["duration_ms"] < 10_000
        years = {line["ts"][:4] for line in gateway.access_lines()}
        if len(years) < 3:
            pytest.skip(f"libfaketime does not reach this Python: the log has {years} only")


# --- memory ---


def test_a_memory_limit_costs_the_hooks_that_do_not_fit_and_not_the_process(
    backend: PacedBackend, tmp_path: Path
) -> None:
    text = config_for(backend, server={"max_body": "8MiB", "max_connections": 500}, log={"access": "off"})
    half = b"POST /x/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 4_000_000
    with running_gateway(text, tmp_path) as gateway:
        assert statuses(gateway) == {200}
        size = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        limit = size + 64 * 2**20
        resource.prlimit(gateway.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(gateway.connect()) for _ in range(40)]
            for sock in socks:
                sock.settimeout(1)
                with contextlib.suppress(OSError):  # cut off, or not read any more
                    sock.sendall(half)
            assert gateway.process.poll() is None, gateway.log.read_text()
        assert wait_until(lambda: statuses(gateway) == {200}), gateway.log.read_text()
        assert gateway.process.poll() is None
        assert gateway.log.stat().st_size < 256 * 1024


# --- signals ---


def test_sigpipe_ends_nothing(backend: PacedBackend, tmp_path: Path) -> None:
    with running_gateway(config_for(backend), tmp_path) as gateway:
        for _ in range(3):
            gateway.process.send_signal(signal.SIGPIPE)
        assert statuses(gateway) == {200}
        assert gateway.process.poll() is None


def test_a_burst_of_100_sighups_ends_with_the_newest_file_in_force(backend: PacedBackend, tmp_path: Path) -> None:
    with running_gateway(config_for(backend), tmp_path) as gateway, Callers(gateway.hooks, "a", rate=50) as callers:
        for number in range(100):
            gateway.write_config(config_for(backend, log={"level": "info" if number % 2 else "warning"}))
            gateway.process.send_signal(signal.SIGHUP)
        gateway.write_config(
            configuration({"u": {"url": backend.url}}, {app: {"upstream": "u"} for app in ("a", "newest")})
        )
        gateway.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: statuses(gateway, app="newest") == {200})
        callers.stop()
        assert set(callers.statuses()) == {200}
        assert gateway.metric("gateway_config_last_reload_successful") == 1
        reloads = gateway.metric("gateway_config_reloads_total")
        print(f"{reloads:g} reloads for 101 signals")
        assert 1 <= reloads <= 110


# --- rights ---


def test_it_serves_as_nobody_on_a_file_system_that_it_cannot_write(backend: PacedBackend) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can take rights away from a process it starts")
    for tool in ("unshare", "setpriv"):
        require(tool, "util-linux")
    # It may read everything, since the interpreter can be in a home directory, but write nothing.
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    rights = "-all,+dac_read_search"
    reading = f"--bounding-set={rights} --inh-caps={rights} --ambient-caps={rights}"
    script = f'mount -o remount,bind,ro / && exec {nobody} {reading} "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=20)
    if tried.returncode != 0:
        pytest.skip(f"the file system cannot be made read-only here: {tried.stderr.strip()}")
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are for their owner only
        os.chmod(directory, 0o755)
        with started(backend, Path(directory), prefix=prefix, workers=2) as gateway:
            assert statuses(gateway, 20) == {200}
            assert status_of(gateway.pid)["Uid"].split() == ["65534"] * 4
            mounts = Path(f"/proc/{gateway.pid}/mounts").read_text().splitlines()
            assert "ro" in next(line for line in mounts if " / " in line).split()[3].split(",")
            assert gateway.post("/-/reload").json()["result"] == "success"
            assert gateway.stop() == 0


def status_of(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_port_in_use_is_told_in_one_line_and_ends_with_1(key: str, backend: PacedBackend, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = tmp_path / "gateway.yaml"
        config.write_text(config_for(backend, server={key: address}))
        ran = subprocess.run(
            [sys.executable, "-m", "gateway", "run", "-c", str(config)],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
    assert f"cannot listen on {address} (server.{key}): address already in use" in ran.stderr


# --- the configuration's file ---


def a_directory(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_enormous_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # which no disk has to hold: it is sparse


def a_device_without_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_circle_of_links(path: Path) -> None:
    path.symlink_to(path.name)


def an_unreadable_file(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    path.touch(mode=0)


def a_file_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" * 1000)


STRANGE: Final[dict[Callable[[Path], None], str]] = {
    a_directory: "a directory",
    a_pipe: "not a regular file",
    an_enormous_file: "larger than 16 MiB",
    a_device_without_end: "not a regular file",
    a_circle_of_links: "too many levels of symbolic links",
    an_unreadable_file: "permission denied",
    a_file_that_is_no_text: "not UTF-8",
}


@pytest.fixture(scope="module")
def reloaded(backend: PacedBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(config_for(backend), tmp_path_factory.mktemp("strange")) as gateway:
        yield gateway
        assert gateway.stop() == 0


@pytest.mark.parametrize("replace", STRANGE, ids=lambda function: function.__name__)
def test_a_configuration_that_has_become_something_else_is_told_and_changes_nothing(
    replace: Callable[[Path], None], reloaded: RunningGateway
) -> None:
    text = reloaded.config.read_bytes()
    reloaded.config.unlink()
    try:
        replace(reloaded.config)
        failed = wait_until(lambda: reloaded.metric("gateway_config_last_reload_successful") == 0)
        assert failed, "the watch has not noticed"
        with ThreadPoolExecutor(1) as pool:
            report = pool.submit(lambda: reloaded.post("/-/reload").json()).result(20)
        assert report["result"] == "failure"
        assert STRANGE[replace] in json.dumps(report["problems"])
        assert statuses(reloaded) == {200}
    finally:
        if replace is a_directory:
            reloaded.config.rmdir()
        reloaded.write_config(text.decode())
    assert wait_until(lambda: reloaded.metric("gateway_config_last_reload_successful") == 1)
    assert statuses(reloaded) == {200}
