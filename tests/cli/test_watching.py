"""``gateway status``, ``calls`` and ``top``: what people on the gateway's host see, and what they are told when not."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from gateways import LISTEN, ROOT, RunningGateway, running_gateway, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import free_port
from rich.cells import cell_len
from rich.console import Console

from cli.commands import Run, gateway
from gateway.cli import showing
from gateway.cli.asking import TOKEN_VARIABLE, gateway_at
from gateway.cli.top import View, screen

PATIENCE: Final = 30.0
TOKEN: Final = "token-of-the-admin"
NAUGHTY: Final = "call\x1b[31m\x07\x9b2J\u202e"
CONFIG: Final = (
    LISTEN
    + f"""
admin: {{token: {TOKEN}}}
upstreams: {{dead: {{url: "http://127.0.0.1:9/rest"}}}}
apps:
  defaultApp: {{static: allow}}
  blocked: {{static: reject}}
  tenant-7: {{upstream: dead}}
"""
)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration lies here, and the environment tells no token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, tmp_path_factory.mktemp("watched")) as gateway:
        gateway.hook(appKey="defaultApp", callId="first")
        gateway.hook("connect", appKey="blocked", callId="second")
        for _ in range(8):
            gateway.hook(appKey="tenant-7", callId=NAUGHTY, caller="4915112345678")
        yield gateway


def ask(running: RunningGateway, *args: str) -> Run:
    return gateway(*args, "--admin", running.admin)


# --- status ---


def test_status_says_what_runs_which_apps_are_in_trouble_and_which_targets_are_out(running: RunningGateway) -> None:
    run = ask(running, "status")
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("wcs-gateway ")
    assert " · ready · up " in run.out
    for line in (
        rf"hooks on +{running.hooks}",
        rf"admin on +{running.admin}",
        "tenant-7 +[0-9]",
        "dead +127.0.0.1:9 +",
    ):
        assert re.search(line, run.out, re.MULTILINE)
    assert "3 apps, 1 upstreams" in run.out
    assert re.search("^dead 127.0.0.1:9: connection refused", run.out, re.MULTILINE)


def test_status_as_json_is_what_the_admin_port_says(running: RunningGateway) -> None:
    told = json.loads(ask(running, "status", "--json").out)
    assert sorted(told) == ["activity", "insights", "status", "upstreams"]
    assert told["status"]["workers"] == [running.pid]
    assert told["activity"]["window_seconds"] > 0


def test_status_tells_that_the_configuration_on_disk_is_not_in_force(tmp_path: Path) -> None:
    with running_gateway(CONFIG, tmp_path) as gateway:
        gateway.write_config("nonsense: 1\n")
        gateway.post("/-/reload", headers={"Authorization": f"Bearer {TOKEN}"})
        run = ask(gateway, "status")
    assert run.status == 0
    assert re.search("NOT in force since .*nonsense", run.out)


# --- calls ---


def test_calls_are_listed_the_newest_at_the_end(running: RunningGateway) -> None:
    run = ask(running, "calls")
    lines = run.out.splitlines()
    assert (run.status, run.err) == (0, "")
    assert "call=first" in lines[0]
    assert re.search(r"^\S+  reject +static/denied +blocked +connect ", lines[1])
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--app", "blocked"], 1), (["--app", "nobody"], 0), (["--failures"], 8), (["-n", "3"], 3),
        (["--verdict", "allow"], 1), (["--source", "static"], 2), (["--reason", "unreachable"], 8),
        (["--call-id", "second"], 1), (["-q", "first"], 1), (["-m", "connect"], 1), (["--upstream", "dead"], 8),
        (["--since", "1h"], 10), (["--until", "1h"], 0), (["--session-id", "x"], 0),
        (["--app", "tenant-7", "--verdict", "allow"], 0),
    ],
)  # fmt: skip
def test_calls_are_filtered(running: RunningGateway, options: list[str], count: int) -> None:
    run = ask(running, "calls", *options, "--json")
    assert run.status == 0
    assert len([json.loads(line) for line in run.out.splitlines()]) == count


def test_nothing_that_a_caller_sent_steers_the_terminal(running: RunningGateway) -> None:
    request_id = json.loads(ask(running, "calls", "-n", "1", "--json").out)["request_id"]
    for args in (["calls"], ["calls", request_id], ["top"], ["status"]):
        out = ask(running, *args).out
        assert all(character.isprintable() or character == "\n" for character in out)
    assert r"call\x1b[31m" in ask(running, "calls").out


def test_a_call_s_story_tells_attempts_cause_and_what_the_media_server_does(running: RunningGateway) -> None:
    failed = json.loads(ask(running, "calls", "--failures", "-n", "1000", "--json").out.splitlines()[0])
    run = ask(running, "calls", failed["request_id"])
    assert run.status == 0
    for line in (
        rf"request id +{failed['request_id']}",
        "caller +[*]+78",
        "took +[0-9.]+ ms of a budget of 3.0 s",
        r"attempts +1\. \S+ 127\.0\.0\.1:9 after .* ms: unreachable",
        r"verdict +reject \(fallback, unreachable\)",
        "because +.*connection refused",
        "answer +403: .+",
    ):
        assert re.search(line, run.out)
    assert json.loads(ask(running, "calls", failed["request_id"], "--json").out) == failed


def test_a_story_that_is_held_no_more_is_an_error(running: RunningGateway) -> None:
    run = ask(running, "calls", "no-such-id")
    assert (run.status, run.out) == (1, "")
    assert "no-such-id" in run.err


@pytest.mark.parametrize("options", [["--verdict", "maybe"], ["--since", "soon"], ["-n", "0"], ["-n", "1001"]])
def test_a_filter_that_cannot_be_is_wrong_usage(running: RunningGateway, options: list[str]) -> None:
    run = ask(running, "calls", *options)
    assert (run.status, run.out) == (2, "")
    assert options[0].strip("-") in run.err


def test_followed_calls_go_on_over_a_restart_and_come_once(tmp_path: Path) -> None:
    config = CONFIG.replace("admin: '127.0.0.1:0'", f"admin: '127.0.0.1:{free_port()}'")
    with contextlib.ExitStack() as stack:
        with running_gateway(config, tmp_path) as gateway:
            gateway.hook(callId="before")
            follower = stack.enter_context(Following(gateway.admin))
            follower.wait_for("call=before")
            gateway.hook(callId="meanwhile")
            follower.wait_for("call=meanwhile")
        follower.wait_for("trying again")
        (tmp_path / "again").mkdir()
        with running_gateway(config, tmp_path / "again") as gateway:
            gateway.hook(callId="after")
            follower.wait_for("call=after")
            follower.process.send_signal(signal.SIGINT)
            assert follower.process.wait(PATIENCE) == 130
        text = follower.text()
    assert "connected again" in text
    assert "Traceback" not in text
    for word in ("before", "meanwhile", "after"):
        assert text.count(f"call={word}") == 1


class Following:
    """``gateway calls --follow`` in a process of its own."""

    def __init__(self, admin: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "calls", "--follow", "--admin", admin],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._read = b""
        self._thread = threading.Thread(target=self._keep_reading)
        self._thread.start()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _keep_reading(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            self._read += data

    def text(self) -> str:
        return self._read.decode()

    def wait_for(self, text: str) -> None:
        assert wait_until(lambda: text in self.text(), PATIENCE), self.text()


# --- top ---


def test_top_without_a_terminal_prints_one_screen(running: RunningGateway) -> None:
    run = ask(running, "top")
    assert run.status == 0
    for word in ("wcs-gateway", "HOOKS/S", "tenant-7", "TARGET", "FAILED", "q quits"):
        assert word in run.out


words = st.text(max_size=40)
rates = st.one_of(st.none(), st.floats(0.0, 1e7))
apps = st.fixed_dictionaries(
    {
        "app": words, "in_flight": st.integers(0, 10**6), "per_second": rates, "allow": rates, "reject": rates,
        "error": rates, "p50_ms": rates, "p99_ms": rates, "reasons": st.dictionaries(words, rates, max_size=4),
    }
)  # fmt: skip
errors = st.one_of(st.none(), st.fixed_dictionaries({"time": st.just("2026-01-01T00:00:00.000Z"), "text": words}))
targets = st.fixed_dictionaries(
    {
        "target": words, "backup": st.booleans(), "since": st.sampled_from([None, "2026-01-01T00:00:00.000Z"]),
        "state": st.sampled_from(["up", "ejected", "probing", "held", "partly", None]), "why": st.none() | words,
        "closed_to": st.lists(words, max_size=3), "retry_in_seconds": rates, "in_flight": st.integers(0, 10**6),
        "p50_ms": rates, "p99_ms": rates, "last_error": errors,
    }
)  # fmt: skip
calls = st.fixed_dictionaries(
    {
        "time": st.just("2026-01-01T00:00:00.000Z"), "app": words, "method": words, "error": words, "reason": words,
        "verdict": st.sampled_from(["allow", "reject", "error"]), "rule": st.none() | words,
        "repaired": st.none() | words, "client_config": st.none() | words, "failed_over_from": st.none() | words,
        "ineffective": st.booleans(), "shadow": st.none(),
    }
)  # fmt: skip
figures = st.fixed_dictionaries({"per_second": rates})
insights = st.fixed_dictionaries(
    {
        "total": st.fixed_dictionaries(
            dict.fromkeys(("ineffective", "repaired", "failovers", "rate_limited", "differing"), figures)
        ),
        "recorded": st.fixed_dictionaries({"dropped": figures}),
    }
)


def status_of(**changes: Any) -> dict[str, Any]:
    hooks = ("per_second", "refused_per_second", "allowed_by_fallback_per_second", "refused_by_fallback_per_second")
    return {
        "version": "1.2.3", "phase": "ready", "draining": False, "uptime_seconds": 90061.0, "workers": [1, 2],
        "hooks": {"in_flight": 3, **dict.fromkeys(hooks, 1234.5)}, "last_reload": None,
        "config": {"path": "/etc/gateway.yaml"}, **changes,
    }  # fmt: skip


def view_of(
    shown: Sequence[Mapping[str, Any]] = (),
    asked: Sequence[Mapping[str, Any]] = (),
    failed: Sequence[Mapping[str, Any]] = (),
    trouble: str | None = None,
    insights: Mapping[str, Any] | None = None,
    **status: Any,
) -> View:
    activity = {
        "time": "2026-01-01T00:00:00.000Z", "total": {"p50_ms": 1.0, "p99_ms": None}, "apps": list(shown),
        "app_count": len(shown),
    }  # fmt: skip
    upstreams = {"upstreams": [{"name": "legacy", "targets": list(asked)}]}
    return View(status_of(**status), activity, upstreams, {"calls": list(failed)}, trouble, insights=insights)


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, markup=False, highlight=False)
    console.print(screen(view, width, height, "http://127.0.0.1:9180"))
    return console.export_text().removesuffix("\n").split("\n")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(apps, max_size=40),
    st.lists(targets, max_size=30),
    st.lists(calls, max_size=20),
    st.none() | words,
    st.none() | insights,
    st.tuples(st.integers(60, 250), st.integers(12, 90)),
)
def test_the_screen_always_fits(
    shown: list[Any],
    asked: list[Any],
    failed: list[Any],
    trouble: str | None,
    insights: dict[str, Any] | None,
    size: tuple[int, int],
) -> None:
    lines = drawn(view_of(shown, asked, failed, trouble, insights), *size)
    assert len(lines) <= size[1]
    assert max(map(cell_len, lines)) <= size[0]
    assert lines[-1].startswith("q quits")


def test_in_80_columns_and_24_lines_all_that_matters_is_there() -> None:
    app = {
        "app": "tenant-7", "in_flight": 1, "per_second": 12.4, "allow": 6.2, "reject": 6.2, "error": 0.0,
        "p50_ms": 14.2, "p99_ms": 1500.0, "reasons": {"bad_answer": 6.2},
    }  # fmt: skip
    out = {
        "target": "192.168.1.102", "backup": False, "state": "ejected", "since": "2026-01-01T00:00:00.000Z",
        "why": "answers HTML", "closed_to": [], "retry_in_seconds": 3.2, "in_flight": 0, "p50_ms": None,
        "p99_ms": None, "last_error": None,
    }  # fmt: skip
    failed = {
        "time": "2026-01-01T00:00:00.000Z", "app": "tenant-7", "method": "OnCallEvent", "verdict": "reject",
        "reason": "bad_answer", "error": "an HTML page in place of JSON",
    }  # fmt: skip
    quiet = {**app, "app": "quiet", "reasons": {}}
    reload = {"time": "2026-01-01T00:00:00.000Z", "successful": False, "problems": ["/etc/gateway.yaml:1:1: bad"]}
    text = "\n".join(drawn(view_of([app, *[quiet] * 50], [out] * 9, [failed] * 20, None, last_reload=reload), 80, 24))
    for pattern in (
        "1.2.3 · ready · up 1 d 1 h · 2 workers",
        "1234 hooks/s, 1234 refused · by fallback: 1234 refused, 1234 allowed",
        "file on disk is NOT in force since .*: gateway.yaml:1:1",
        "tenant-7 +12.4 +6.2 +6.2 +0 +14 ms +1.5 s +bad_answer 6.2",
        "legacy 192.168.1.102 +ejected +.* answers HTML; again in 3 s",
        "tenant-7 +OnCallEvent +reject +bad_answer +an HTML page",
        "51 apps · 9 targets, 9 not up",
    ):
        assert re.search(pattern, text), text


ON_A_TERMINAL: Final = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its keys can send signals
from gateway.cli import main
main()
"""


@contextlib.contextmanager
def terminal(*args: str, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """A command on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        start_new_session=True,
    )
    running = Terminal(process, ours, termios.tcgetattr(theirs))
    try:
        yield running
        assert termios.tcgetattr(theirs) == running.before
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)


class Terminal:
    def __init__(self, process: subprocess.Popen[bytes], fd: int, before: list[Any]) -> None:
        self.process, self._fd, self.before = process, fd, before
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Wait until this is written to the screen from now on."""
        self.shown = ""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown and time.monotonic() < deadline:
            self._read()
        assert text in self.shown

    def press(self, key: bytes) -> int:
        """Press a key that ends the command; its exit status."""
        os.write(self._fd, key)
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        return self.process.wait(PATIENCE)

    def _read(self) -> None:
        if select.select([self._fd], [], [], 0.1)[0]:
            self.shown += os.read(self._fd, 65536).decode(errors="replace")


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"])
def test_top_ends_by_a_key_and_leaves_the_terminal_as_it_was(running: RunningGateway, key: bytes) -> None:
    with terminal("top", "--admin", running.admin) as screen:
        screen.wait_for("q quits")
        assert screen.press(key) == 0
        assert "Traceback" not in screen.shown


def test_top_says_when_there_is_no_connection_and_goes_on_when_there_is(tmp_path: Path) -> None:
    config = CONFIG.replace("admin: '127.0.0.1:0'", f"admin: '127.0.0.1:{free_port()}'")
    with contextlib.ExitStack() as stack:
        with running_gateway(config, tmp_path) as first:
            screen = stack.enter_context(terminal("top", "--admin", first.admin))
            screen.wait_for("q quits")
        screen.wait_for("trying again")
        (tmp_path / "again").mkdir()
        with running_gateway(config, tmp_path / "again") as second:
            second.hook(appKey="tenant-7")
            screen.wait_for("unreachable")
            assert "trying again" not in screen.shown.rpartition("q quits")[2]
            assert screen.press(b"q") == 0


# --- which gateway ---


@pytest.mark.parametrize("command", ["status", "calls", "top"])
def test_every_command_explains_itself(command: str) -> None:
    run = gateway(command, "--help")
    assert (run.status, run.err) == (0, "")
    assert f"Usage: gateway {command}" in run.out
    assert f" {command} " in gateway("--help").out


def test_where_nobody_answers_it_is_said_with_exit_status_1() -> None:
    for command in ("status", "calls", "top"):
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
        (404, "text/html", b"<html>", "hardly a gateway"),
        (200, "text/html", b"<html>", "hardly a gateway"),
        (503, "text/plain", b"later\x1b[31m\n", r"later\x1b[31m"),
        (500, "text/plain", b"", "500"),
    ],
)
def test_what_is_no_gateway_s_answer_is_told_in_one_line(status: int, kind: str, body: bytes, said: str) -> None:
    for command in ("status", "calls", "top"):
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
        assert gateway("calls", "-n", "1", *options).status == 0


@pytest.mark.parametrize("rest", ["nonsense: 1\n", "admin: {token: '${env:NOT_SET_HERE}'}\n", "apps: [1, 2]\n"])
def test_a_file_that_is_wrong_elsewhere_still_tells_it(running: RunningGateway, rest: str, tmp_path: Path) -> None:
    config_file(tmp_path, running.admin, rest)
    assert gateway("calls", "-n", "1").status == 0


@pytest.mark.parametrize(
    "text", ["server: {admin: 5}\n", "server: []\n", "{", "server: {admin: '127.0.0.1:0'}\n", "- 1\n"]
)
def test_a_file_that_does_not_tell_it_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(text)
    run = gateway("status")
    assert run.status == 2
    assert "gateway.yaml" in run.err
    assert "--admin" in run.err


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


# --- words ---


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01, "<0.1"), (0.3, "0.3"), (12.34, "12.3"), (99.96, "100.0"), (1234.5, "1234")],
)
def test_rates_in_words(value: float | None, text: str) -> None:
    assert showing.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.04, "0.0 ms"),
        (3.21, "3.2 ms"),
        (9.96, "10 ms"),
        (999.4, "999 ms"),
        (999.9, "1.0 s"),
        (2e4, "20.0 s"),
    ],
)
def test_durations_in_words(value: float | None, text: str) -> None:
    assert showing.milliseconds(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3661, "1 h 1 min"), (90061, "1 d 1 h")]
)
def test_ages_in_words(seconds: float, text: str) -> None:
    assert showing.ago(seconds) == text
