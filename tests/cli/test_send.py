"""What ``gateway send`` prints of an answer, and of none."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.commands import HOOK, PATIENCE, explained, gateway
from tests.support.faulty import refused_port


class Backend(BaseHTTPRequestHandler):
    """Answers a hook by its method's name."""

    answers: Final[dict[str, tuple[int, dict[str, str], bytes]]] = {
        "allow": (200, {"X-Request-Id": "id-1"}, b"{}"),
        "reject": (403, {}, b""),
        "gave_up": (403, {"Proxy-Status": "gateway; error=http_protocol_error; received-status=500"}, b""),
        "passed": (200, {"Proxy-Status": "gateway; error=http_response_timeout"}, b"{}"),
        "problem": (
            400,
            {"Content-Type": "application/problem+json", "Proxy-Status": "gateway; error=http_request_error"},
            b'{"detail": "appKey is empty", "status": 400}',
        ),
        "strange": (500, {}, b"<h1>It broke</h1>"),
        "no_problem": (400, {"Content-Type": "application/problem+json"}, b"not JSON"),
        "list_problem": (400, {"Content-Type": "application/problem+json"}, b"[]"),
        "redirect": (302, {"Location": "/allow"}, b""),
        "sequences": (403, {"Proxy-Status": "gateway; error=\x1b[2J", "X-Request-Id": "\x1b[2J"}, b""),
        "not_gzip": (200, {"Content-Encoding": "gzip"}, b"plain"),
    }
    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        method = self.path.rpartition("/")[2]
        server: Any = self.server
        server.received.append((self.path, dict(self.headers.items()), body))
        if method == "hangs":
            server.released.wait(PATIENCE)
        if method in ("closes", "hangs"):
            self.close_connection = True
            return
        status, headers, answer = self.answers.get(method, self.answers["strange"])
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Backend)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/rest/my_api"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("method", "verdict", "status", "reason"),
    [
        ("allow", "allow", "200 OK", "the backend's own decision"),
        ("reject", "reject", "403 Forbidden", "the backend's own decision"),
        ("gave_up", "reject", "403 Forbidden", "http_protocol_error, the backend answered 500"),
        ("passed", "allow", "200 OK", "http_response_timeout"),
        ("problem", "error", "400 Bad Request", "appKey is empty"),
        ("strange", "error", "500 Internal Server Error", ""),
        ("no_problem", "error", "400 Bad Request", ""),
        ("list_problem", "error", "400 Bad Request", ""),
        ("redirect", "error", "302 Found", ""),
        ("sequences", "reject", "403 Forbidden", ""),
    ],
)
def test_send_prints_verdict_status_reason_and_time(
    method: str, verdict: str, status: str, reason: str, backend: Server, hook_file: Path
) -> None:
    run = gateway("send", hook_file, "--method", method, "--url", backend.url)
    told = explained(run)
    assert told["verdict"].split()[0] == verdict
    assert told["status"] == status
    assert reason in told["reason"]
    assert re.fullmatch(r"\d+\.\d ms", told["time"])
    assert run.out.replace("\n", "").isprintable()


def test_what_no_gateway_answered_is_not_called_the_backend_s_decision(backend: Server, hook_file: Path) -> None:
    told = explained(gateway("send", hook_file, "--method", "strange", "--url", backend.url))
    assert "decision" not in told["reason"]


def test_send_fires_the_file_byte_for_byte_as_the_media_server_does(backend: Server, tmp_path: Path) -> None:
    body = b'\r\n{"appKey" :"a",   "appKey": "b"}\n\xff'
    (tmp_path / "hook").write_bytes(body)
    assert gateway("send", tmp_path / "hook", "-m", "allow", "-u", backend.url + "/").status == 0
    path, headers, received = backend.received[-1]
    assert (path, received) == ("/rest/my_api/allow", body)
    assert headers["Content-Type"] == "application/json;charset=UTF-8"
    assert headers["Accept"] == "application/json"
    assert "Transfer-Encoding" not in headers


@pytest.mark.parametrize(
    ("method", "path"), [("a/../b?c#d", "a%2F..%2Fb%3Fc%23d"), ("On\nX", "On%0AX"), ("\udcff", "%3F"), ("", "")]
)
def test_whatever_the_method_is_it_is_one_segment_of_the_path(
    method: str, path: str, backend: Server, hook_file: Path
) -> None:
    assert gateway("send", hook_file, "-m", method, "-u", backend.url).status == 0
    assert backend.received[-1][0] == f"/rest/my_api/{path}"


def test_send_reads_standard_input(backend: Server) -> None:
    assert gateway("send", "-", "-m", "allow", "-u", backend.url, stdin=HOOK).status == 0
    assert backend.received[-1][2] == HOOK


def test_send_heeds_no_proxy_of_the_environment(
    backend: Server, hook_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert gateway("send", hook_file, "-m", "allow", "-u", backend.url).status == 0


@pytest.fixture
def closed_port() -> Iterator[int]:
    with refused_port() as port:
        yield port


def test_a_gateway_that_cannot_be_reached_is_a_failure_at_run_time(hook_file: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/x"
    run = gateway("send", hook_file, "-u", url)
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith(f"gateway: {url}: ")


def test_a_password_in_the_url_is_not_printed(hook_file: Path, closed_port: int) -> None:
    for url in (f"http://wcs:S3cr3t@127.0.0.1:{closed_port}/x", "http://wcs:S3cr3t@127.0.0.1/x?y"):
        assert "S3cr3t" not in gateway("send", hook_file, "-u", url).err


@pytest.mark.parametrize("method", ["closes", "not_gzip"])
def test_an_answer_that_is_none_is_a_failure_at_run_time(method: str, backend: Server, hook_file: Path) -> None:
    run = gateway("send", hook_file, "-m", method, "-u", backend.url)
    assert (run.status, run.out) == (1, "")
    assert len(run.err.splitlines()) == 1


def test_an_answer_that_does_not_come_is_a_failure_at_run_time(hook_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = gateway("send", hook_file, "-u", url, "--timeout", "0.1")
    assert (run.status, run.out) == (1, "")
    assert run.err == f"gateway: {url}: no answer within 0.1 s\n"


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8080/x", "ftp://127.0.0.1/", "http://", "http://[::1", "http://xn--/", "http://h:99999/",
        "http://h/x?y=z", "http://h/x#y",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_bad_usage(url: str, hook_file: Path) -> None:
    run = gateway("send", hook_file, "-u", url)
    assert (run.status, run.out) == (2, "")
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("timeout", ["-1", "nan", "0", "inf"])
def test_a_timeout_that_no_clock_knows_is_bad_usage(timeout: str, hook_file: Path, closed_port: int) -> None:
    run = gateway("send", hook_file, "-u", f"http://127.0.0.1:{closed_port}", "--timeout", timeout)
    assert (run.status, run.out) == (2, "")


@pytest.mark.parametrize("command", ["send", "explain"])
def test_a_hook_s_file_that_cannot_be_read_is_bad_usage(command: str, config: Path) -> None:
    options = ["-c", str(config)] if command == "explain" else []
    for path in (config.parent / "absent.json", config.parent):
        run = gateway(command, path, *options)
        assert (run.status, run.out) == (2, "")
        assert run.err.startswith(f"gateway: {path}: ")
