"""Hooks over a unix socket: its file's life, who may connect, and that it serves like any other listener."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from gateway.config import UnixAddress
from gateway.server.sockets import StartError, bind
from tests.support.faulty import FaultyBackend, gated_case, right_answer
from tests.support.gateways import ROOT, RunningGateway, read_answer, running_gateway, wait_until

PATIENCE: Final = 10.0
BODY: Final = b'{"appKey":"defaultApp"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return short(tmp_path / "gateway.sock")


def short(path: Path) -> Path:
    """The path, if it fits into an address (unix(7): 107 bytes) below pytest's own directory."""
    if len(os.fsencode(path)) > 100:
        pytest.skip("the temporary directory's name is too long for a unix socket")
    return path


def config(path: Path, *more: str, backend: FaultyBackend | None = None, case: str = "ok", **server: Any) -> str:
    listen = [f"unix:{path}", *more]
    app: dict[str, Any] = {"static": "allow"}
    upstreams = {}
    if backend is not None:
        app, upstreams = {"upstream": "u"}, {"u": {"url": backend.url_of(case), "breaker": "off"}}
    return json.dumps(
        {
            "server": {"listen": listen, "admin": "127.0.0.1:0", "drain_timeout": "8s", **server},
            "defaults": {"dedupe": "off", "timeout": "10s"},
            "upstreams": upstreams,
            "apps": {"defaultApp": app},
        }
    )


def ask(path: Path, body: bytes = BODY) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=20) as client:
        return client.post("http://gateway/rest/my_api/OnCallEvent", content=body)


class Shared(NamedTuple):
    """One gateway that serves several tests: on a unix socket and on TCP, for nobody's address."""

    gateway: RunningGateway
    path: Path
    backend: FaultyBackend


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("shared")
    path = short(directory / "gateway.sock")
    with FaultyBackend() as backend:
        text = config(path, "127.0.0.1:0", backend=backend, allow_from=["192.0.2.0/24"])
        before = os.umask(0)  # what would let everyone in
        try:
            with running_gateway(text, directory) as gateway:
                os.umask(before)
                yield Shared(gateway, path, backend)
        finally:
            os.umask(before)


def start_in_vain(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A gateway that cannot start."""
    directory.mkdir(exist_ok=True)
    file = directory / "gateway.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "gateway", "run", "-c", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_hook_over_a_unix_socket_is_decided_like_any_other(shared: Shared) -> None:
    assert shared.gateway.hooks == f"unix:{shared.path}"
    answer = ask(shared.path)
    assert (answer.status_code, answer.content) == (200, right_answer(BODY))
    line = shared.gateway.access_line(answer.headers["x-request-id"])
    assert (line["app"], line["verdict"], line["reason"]) == ("defaultApp", "allow", "ok")
    assert ask(shared.path, b"{}").status_code == 400


def test_a_hook_over_a_unix_socket_is_forwarded_as_from_an_unknown_client(shared: Shared) -> None:
    assert ask(shared.path).status_code == 200
    assert shared.backend.requests[-1].values("x-forwarded-for") == [b"unknown"]
    assert shared.backend.requests[-1].body == BODY


def test_its_owner_and_group_may_connect_and_nobody_else(shared: Shared) -> None:
    status = shared.path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660


def test_allow_from_is_for_addresses_and_a_unix_socket_has_none(shared: Shared) -> None:
    assert ask(shared.path).status_code == 200
    hooks = shared.gateway.wait_for_line(lambda line: line.get("event") == "ready")["hooks"]
    assert shared.gateway.client.post(f"http://{hooks[1]}/OnCallEvent", content=BODY).status_code == 403


# --- the file ---


def left_behind(path: Path) -> None:
    """Make the file of a socket that nobody serves any more."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)


def test_the_file_that_a_gateway_left_behind_is_replaced(path: Path) -> None:
    left_behind(path)
    (listener,) = bind([UnixAddress(str(path))], "server.listen")
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_gateway_that_was_killed_can_start_again(path: Path, tmp_path: Path) -> None:
    with running_gateway(config(path), tmp_path) as gateway:
        assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
        assert path.exists()
    (tmp_path / "again").mkdir()
    with running_gateway(config(path), tmp_path / "again"):
        assert ask(path).status_code == 200


def test_a_socket_in_use_is_refused_and_stays_in_use(path: Path, tmp_path: Path) -> None:
    with running_gateway(config(path), tmp_path):
        second = start_in_vain(tmp_path / "second", config(path))
        assert second.returncode == 1
        assert f"cannot listen on unix:{path} (server.listen): address already in use" in second.stdout + second.stderr
        assert "Traceback" not in second.stdout + second.stderr
        assert ask(path).status_code == 200


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file"])
def test_what_is_no_socket_is_never_replaced(path: Path, tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(precious)
    with pytest.raises(StartError, match=re.escape(f"cannot listen on unix:{path} (server.listen): address already")):
        bind([UnixAddress(str(path))], "server.listen")
    assert precious.read_text() == "precious"
    assert path.is_dir() if kind == "directory" else path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    missing = UnixAddress(str(tmp_path / "missing" / "s"))
    with pytest.raises(StartError, match=re.escape(f"{missing} (server.listen): no such file or directory")):
        bind([missing], "server.listen")


def test_a_socket_whose_queue_is_full_is_in_use(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(2):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(StartError, match="address already in use"):
            bind([UnixAddress(str(path))], "server.listen")
        assert path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_file_is_gone_when_the_gateway_has_ended(path: Path, tmp_path: Path, workers: int) -> None:
    with running_gateway(config(path, workers=workers), tmp_path) as gateway:
        assert ask(path).status_code == 200
        assert gateway.stop() == 0
        assert not path.exists()


def test_a_successor_may_take_the_path_over_while_the_gateway_drains(path: Path, tmp_path: Path) -> None:
    with (
        gated_case() as opened,
        FaultyBackend() as backend,
        ThreadPoolExecutor(1) as pool,
        running_gateway(config(path, backend=backend, case="gated"), tmp_path) as gateway,
    ):
        hook = pool.submit(ask, path)
        assert backend.wait_for_requests(1, "gated", within=PATIENCE)
        gateway.process.terminate()
        assert wait_until(lambda: not path.exists())
        (tmp_path / "next").mkdir()
        with running_gateway(config(path), tmp_path / "next"):
            opened.set()
            assert hook.result(PATIENCE).status_code == 200
            gateway.process.wait(PATIENCE * 3)
            assert ask(path).status_code == 200  # its predecessor's end took nothing from it


def test_a_start_that_fails_leaves_no_file(path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = f"127.0.0.1:{taken.getsockname()[1]}"
        for workers in (1, 2):
            refused = start_in_vain(tmp_path / "other", config(path, admin=admin, workers=workers))
            assert refused.returncode == 1
            assert "server.admin" in refused.stdout + refused.stderr
            assert not path.exists()


def worker_pids(gateway: RunningGateway) -> set[int]:
    return set(gateway.get("/api/status").json()["workers"])


def allowed(gateway: RunningGateway) -> float:
    return gateway.metric("gateway_hooks_total", verdict="allow")


def answer_hooks(path: Path, hooks: int) -> None:
    """Hooks on connections of their own, all open at once."""
    with contextlib.ExitStack() as stack:
        for _ in range(hooks):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            sock.sendall(b"POST /OnCallEvent HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert read_answer(stack.enter_context(sock.makefile("rb"))).status == 200


def test_several_workers_share_it_and_one_may_die(path: Path, tmp_path: Path) -> None:
    with running_gateway(config(path, workers=2), tmp_path) as gateway:
        first = worker_pids(gateway)
        assert len(first) == 2
        answer_hooks(path, 20)
        assert wait_until(lambda: allowed(gateway) == 20)  # a hook is counted once its answer is out
        os.kill(min(first), signal.SIGKILL)
        assert wait_until(lambda: min(first) not in worker_pids(gateway))
        answer_hooks(path, 6)
        assert wait_until(lambda: len(worker_pids(gateway)) == 2, 30)
        answer_hooks(path, 6)
        assert max(first) in worker_pids(gateway)
        assert wait_until(lambda: allowed(gateway) == 32)
