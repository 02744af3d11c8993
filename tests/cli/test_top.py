"""``gateway top``: a screen that always fits, and a terminal that is left as it was."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gateway.cli.top import View, screen
from tests.cli.commands import PATIENCE
from tests.cli.watched import CONFIG, ask
from tests.support.gateways import ROOT, RunningGateway, running_gateway
from tests.support.programs import free_port

pytestmark = pytest.mark.usefixtures("nowhere")


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
        "state": st.sampled_from(["up", "ejected", "probing", "ejected_by_operator", "partly", None]),
        "reason": st.none() | words,
        "ejected_for": st.lists(words, max_size=3), "retry_in_seconds": rates, "in_flight": st.integers(0, 10**6),
        "p50_ms": rates, "p99_ms": rates, "last_error": errors,
    }
)  # fmt: skip
decisions = st.fixed_dictionaries(
    {
        "time": st.just("2026-01-01T00:00:00.000Z"), "app": words, "method": words, "error": words, "reason": words,
        "verdict": st.sampled_from(["allow", "reject", "error"]), "rule": st.none() | words,
        "repaired": st.none() | words, "client_config": st.none() | words, "failed_over_from": st.none() | words,
        "ineffective": st.booleans(), "shadow": st.none(), "changed_fields": st.none() | words,
        "ignored_fields": st.none() | words, "excluded": st.none() | words,
    }
)  # fmt: skip
figures = st.fixed_dictionaries({"per_second": rates})
insights = st.fixed_dictionaries(
    {
        "total": st.fixed_dictionaries(
            dict.fromkeys(
                ("ineffective", "ineffective_changes", "repaired", "failovers", "rate_limited", "differing"), figures
            )
        ),
        "recorded": st.fixed_dictionaries({"dropped": figures}),
    }
)


def status_of(**changes: Any) -> dict[str, Any]:
    hooks = ("per_second", "rejected_per_second", "allowed_by_fallback_per_second", "rejected_by_fallback_per_second")
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
    return View(status_of(**status), activity, upstreams, {"decisions": list(failed)}, trouble, insights=insights)


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, markup=False, highlight=False)
    console.print(screen(view, width, height, "http://127.0.0.1:9180"))
    return console.export_text().removesuffix("\n").split("\n")


@given(
    st.lists(apps, max_size=40),
    st.lists(targets, max_size=30),
    st.lists(decisions, max_size=20),
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
        "reason": "answers HTML", "ejected_for": [], "retry_in_seconds": 3.2, "in_flight": 0, "p50_ms": None,
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
        "1234 hooks/s, 1234 rejected · by fallback: 1234 rejected, 1234 allowed",
        "file on disk is NOT in use since .*: gateway.yaml:1:1",
        "tenant-7 +12.4 +6.2 +6.2 +0 +14 ms +1.5 s +bad_answer 6.2",
        "legacy 192.168.1.102 +ejected +.* answers HTML; next probe in 3 s",
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
        screen.wait_for("retrying")
        (tmp_path / "again").mkdir()
        with running_gateway(config, tmp_path / "again") as second:
            second.hook(appKey="tenant-7")
            screen.wait_for("unreachable")
            assert "retrying" not in screen.shown.rpartition("q quits")[2]
            assert screen.press(b"q") == 0
