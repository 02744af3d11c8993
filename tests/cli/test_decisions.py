"""``gateway decisions``: what people on the gateway's host see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.commands import PATIENCE
from tests.cli.watched import CONFIG, ask
from tests.support.gateways import ROOT, RunningGateway, running_gateway, wait_until
from tests.support.programs import free_port

pytestmark = pytest.mark.usefixtures("nowhere")


def test_decisions_are_listed_the_newest_last(running: RunningGateway) -> None:
    run = ask(running, "decisions")
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
def test_decisions_are_filtered(running: RunningGateway, options: list[str], count: int) -> None:
    run = ask(running, "decisions", *options, "--json")
    assert run.status == 0
    assert len([json.loads(line) for line in run.out.splitlines()]) == count


def test_nothing_that_a_caller_sent_steers_the_terminal(running: RunningGateway) -> None:
    request_id = json.loads(ask(running, "decisions", "-n", "1", "--json").out)["request_id"]
    for args in (["decisions"], ["decisions", request_id], ["top"], ["status"]):
        out = ask(running, *args).out
        assert all(character.isprintable() or character == "\n" for character in out)
    assert r"call\x1b[31m" in ask(running, "decisions").out


def test_one_decision_shows_attempts_error_and_the_effect_on_the_call(running: RunningGateway) -> None:
    failed = json.loads(ask(running, "decisions", "--failures", "-n", "1000", "--json").out.splitlines()[0])
    run = ask(running, "decisions", failed["request_id"])
    assert run.status == 0
    for line in (
        rf"request id +{failed['request_id']}",
        "caller +[*]+78",
        "duration +[0-9.]+ ms of a budget of 3.0 s",
        r"attempts +1\. \S+ 127\.0\.0\.1:9 after .* ms: unreachable",
        r"verdict +reject \(fallback, unreachable\)",
        "error +.*connection refused",
        "answer +403: .+",
    ):
        assert re.search(line, run.out)
    shown = json.loads(ask(running, "decisions", failed["request_id"], "--json").out)
    assert {name: shown.pop(name) for name in failed} == failed
    assert shown == {"config_revision": None, "hook_body": None, "answer_body": None}  # there is no history


def test_a_request_that_is_not_in_the_journal_is_an_error(running: RunningGateway) -> None:
    run = ask(running, "decisions", "no-such-id")
    assert (run.status, run.out) == (1, "")
    assert run.err.endswith(
        ": request no-such-id is not in the journal (it keeps the last ~2,000 hooks per worker); search the log\n"
    )


@pytest.mark.parametrize("options", [["--verdict", "maybe"], ["--since", "soon"], ["-n", "0"], ["-n", "100001"]])
def test_a_filter_that_cannot_be_is_wrong_usage(running: RunningGateway, options: list[str]) -> None:
    run = ask(running, "decisions", *options)
    assert (run.status, run.out) == (2, "")
    assert options[0].strip("-") in run.err


def test_followed_decisions_go_on_over_a_restart_and_come_once(tmp_path: Path) -> None:
    config = CONFIG.replace("admin: '127.0.0.1:0'", f"admin: '127.0.0.1:{free_port()}'")
    with contextlib.ExitStack() as stack:
        with running_gateway(config, tmp_path) as gateway:
            gateway.hook(callId="before")
            follower = stack.enter_context(Following(gateway.admin))
            follower.wait_for("call=before")
            gateway.hook(callId="meanwhile")
            follower.wait_for("call=meanwhile")
        follower.wait_for("retrying")
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


def test_following_shows_only_what_is_new(running: RunningGateway) -> None:
    shown = len(ask(running, "decisions", "--app", "blocked", "--json").out.splitlines())
    running.hook("connect", appKey="blocked", callId="last-one")
    with Following(running.admin, "-n", "1", "--app", "blocked", "--since", "1h") as follower:
        follower.wait_for("call=last-one")
        running.hook("connect", appKey="blocked", callId="new-one")
        follower.wait_for("call=new-one")
        assert len(follower.text().splitlines()) == 2, (shown, follower.text())


class Following:
    """``gateway decisions --follow`` in a process of its own."""

    def __init__(self, admin: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "decisions", "--follow", "--admin", admin, *options],
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
