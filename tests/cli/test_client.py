"""Which gateway the commands ask, by what right, and what they say where it is none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway.cli.client import TOKEN_VARIABLE, gateway_at
from tests.cli.commands import gateway
from tests.cli.watched import TOKEN
from tests.support.gateways import RunningGateway
from tests.support.programs import free_port

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.mark.parametrize("command", ["status", "decisions", "top"])
def test_every_command_explains_itself(command: str) -> None:
    run = gateway(command, "--help")
    assert (run.status, run.err) == (0, "")
    assert f"Usage: gateway {command}" in run.out
    assert f" {command} " in gateway("--help").out


def test_where_nobody_answers_it_is_said_with_exit_status_1() -> None:
    for command in ("status", "decisions", "top"):
        run = gateway(command, "--admin", f"127.0.0.1:{free_port()}")
        assert (run.status, run.out) == (1, "")
        assert "connection refused" in run.err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999", "::", "http://[::1", "\x1b[31m"])
def test_an_admin_url_that_cannot_be_is_wrong_usage(url: str) -> None:
    run = gateway("status", "--admin", url)
    assert run.status == 2
    assert "--admin" in run.err
    assert "\x1b" not in run.err


class Answering(BaseHTTPRequestHandler):
    """Answers every GET as the test says, and remembers what was sent along."""

    status, kind, body = 200, "text/plain", b""
    sent: str | None = None

    def do_GET(self) -> None:
        type(self).sent = self.headers.get("authorization")
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[tuple[str, type[Answering]]]:
    handler = type("Handler", (Answering,), {"status": status, "kind": kind, "body": body})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (401, "text/plain", b"no", "--token-file"),
        (404, "text/html", b"<html>", "probably not a gateway"),
        (200, "text/html", b"<html>", "probably not a gateway"),
        (503, "text/plain", b"later\x1b[31m\n", r"later\x1b[31m"),
        (500, "text/plain", b"", "500"),
    ],
)
def test_what_is_no_gateway_s_answer_is_told_in_one_line(status: int, kind: str, body: bytes, said: str) -> None:
    for command in ("status", "decisions", "top"):
        with answering(status, kind, body) as (address, _):
            run = gateway(command, "--admin", address)
        assert run.status == 1
        assert said in run.err
        assert run.err.count("\n") == 1


def config_file(directory: Path, admin: str, rest: str = "") -> Path:
    path = directory / "gateway.yaml"
    path.write_text(f"server: {{admin: '{admin}'}}\n{rest}")
    return path


@pytest.mark.parametrize("admin", ["127.0.0.1:{}", "0.0.0.0:{}", ":{}", "localhost:{}"])
def test_the_configuration_file_tells_where_the_port_is(running: RunningGateway, admin: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, admin.format(running.admin.rpartition(":")[2]), f"admin: {{token: {TOKEN}}}")
    for options in ([], ["-c", str(path)]):  # the one that lies here, and one by its name
        assert gateway("decisions", "-n", "1", *options).status == 0


@pytest.mark.parametrize("rest", ["nonsense: 1\n", "admin: {token: '${env:NOT_SET_HERE}'}\n", "apps: [1, 2]\n"])
def test_a_file_that_is_wrong_elsewhere_still_tells_it(running: RunningGateway, rest: str, tmp_path: Path) -> None:
    config_file(tmp_path, running.admin, rest)
    assert gateway("decisions", "-n", "1").status == 0


@pytest.mark.parametrize(
    "text", ["server: {admin: 5}\n", "server: []\n", "{", "server: {admin: '127.0.0.1:0'}\n", "- 1\n"]
)
def test_a_file_that_does_not_tell_it_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(text)
    run = gateway("status")
    assert run.status == 2
    assert "gateway.yaml" in run.err
    assert "--admin" in run.err


def test_where_systemd_has_the_port_it_is_the_socket_unit_s(tmp_path: Path) -> None:
    path = config_file(tmp_path, "systemd:admin")
    assert gateway_at(None, None, path).url == "http://127.0.0.1:9180"


def test_a_file_that_is_not_there_is_named_only_where_it_was_asked_for() -> None:
    assert gateway("status", "-c", "absent.yaml").status == 2
    assert gateway_at(None, None, None).url == "http://127.0.0.1:9180"


def test_the_token_is_the_option_s_then_the_environment_s_then_the_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of-the-option\n")
    with answering(404, "text/plain", b"") as (address, handler):
        config_file(tmp_path, address, "admin: {token: of-the-file}\n")

        def sent(*options: str) -> str | None:
            gateway("status", *options)
            return handler.sent

        assert sent() == "Bearer of-the-file"
        # A file's token is for that file's gateway alone.
        assert sent("--admin", address) is None
        monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
        assert sent() == "Bearer of-the-environment"
        assert sent("--admin", address) == "Bearer of-the-environment"
        assert sent("--token-file", str(secret)) == "Bearer of-the-option"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two\nlines", b"\xff", "schlüssel".encode()])
def test_a_token_file_that_holds_no_token_is_wrong_usage(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    run = gateway("status", "--token-file", str(path))
    assert run.status == 2
    assert "--token-file" in run.err
    assert "lines" not in run.err
