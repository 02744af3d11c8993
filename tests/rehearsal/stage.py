"""What runs in the rehearsal: PHP under Apache, the candidate, the gateway; and how hooks are sent and judged."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.procstat import cpu_seconds
from tests.rehearsal.day import CLIENT_CONFIG, Hook, Session
from tests.rehearsal.sending import Sending, Sent
from tests.support.gateways import ROOT, RunningGateway, running_gateway, wait_until
from tests.support.programs import Backend, apache_php, free_port

PHP_WORKERS: Final = 8
SENDING_LIMIT: Final = 60.0
"""Seconds that one sending may take, however slow the machine."""
SETTLE_LIMIT: Final = 20.0
"""Seconds for what is to become true after the last answer: a counter, a line of the log."""
SELDOM: Final = 0.25
STOP_LIMIT: Final = 10.0


class Candidate:
    """The new backend's process, which comes and goes on one port."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/rest/my_api"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, as_ported: bool) -> None:
        """Serve; *as_ported* with the planted mistakes."""
        self.stop()
        arguments = ["--as-ported"] if as_ported else []
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.rehearsal.candidate", str(self.port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        process = self._process
        assert wait_until(lambda: process.poll() is not None or _accepts(self.port), SETTLE_LIMIT)
        assert process.poll() is None, self._log.read_text()

    def turn_bad(self) -> None:
        """Answer 500 to every hook from now on."""
        self._signal(signal.SIGUSR1)

    def turn_well(self) -> None:
        """Answer as before."""
        self._signal(signal.SIGUSR2)

    def kill(self) -> None:
        """End at once, hooks in hand or not."""
        self._signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End, and wait for the end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_LIMIT)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@dataclass(frozen=True)
class Expected:
    """What is right in a step; the rules are the same for both backends."""

    refused: Callable[[Hook], bool] = lambda hook: hook.refused
    client_configs: Sequence[Mapping[str, Any] | None] = (CLIENT_CONFIG,)
    """What an answer to connect may set for its session."""
    may_be_affected: Callable[[Sent], bool] = lambda _: False
    """Whether the gateway may have answered otherwise here than the backends' rules are."""


@dataclass
class Row:
    """One step, as the table has it."""

    step: str
    hooks: int = 0
    allow: int = 0
    reject: int = 0
    affected: int = 0
    """Answered otherwise than the backends' rules are: what the step costs the callers."""
    lost: int = 0
    wrong: int = 0
    """Answers that nothing explains."""
    cpu_us: float | None = None
    """User and system time of the gateway's process per hook."""
    plain: bool = False
    """Whether the configuration had nothing special: what other steps' CPU time is measured by."""
    seen: str = ""
    answers: list[Sent] = field(default_factory=list, repr=False)


class Stage:
    """Everything that runs; each sending of hooks begins where the last one ended."""

    def __init__(
        self, gateway: RunningGateway, php: Backend, candidate: Candidate, directory: Path, workers: int
    ) -> None:
        self.gateway = gateway
        self.php = php
        self.candidate = candidate
        self.directory = directory
        self.workers = workers
        self.failures: list[str] = []
        self.rate = 500.0

    def check(self, is_so: object, otherwise: str) -> None:
        """Note a failure of the rehearsal, and go on: the other steps are worth seeing."""
        if not is_so:
            self.failures.append(otherwise)
            print(f"FAILED: {otherwise}", file=sys.stderr, flush=True)

    def configure(self, text: str) -> float:
        """Put another configuration in force by reload; when it was, as Unix time."""
        self.gateway.write_config(text)
        answer = self.gateway.post("/-/reload")
        self.check(answer.status_code == 200, f"a reload was refused: {answer.text}")
        return time.time()

    def send(
        self,
        step: str,
        sessions: Sequence[Session],
        expected: Expected | None = None,
        *,
        rate: float | None = None,
        meanwhile: Callable[[Sending], None] = lambda _: None,
        settled: Callable[[], object] = lambda: True,
    ) -> Row:
        """Send hooks, do something *meanwhile*, wait until the gateway has *settled*, and judge every answer."""
        gateway, before = self.gateway, self._decided()
        cpu = cpu_seconds(gateway.pid)
        with Sending(gateway.hooks, sessions, rate or self.rate, SENDING_LIMIT) as sending:
            meanwhile(sending)
        self.check(comes_true(settled), f"{step}: the gateway has not settled")
        cpu = cpu_seconds(gateway.pid) - cpu
        row = self._judged(step, sending, expected or Expected())
        row.cpu_us = cpu / row.hooks * 1e6
        decided = self._decided() - before
        self.check(decided == row.hooks, f"{step}: {row.hooks} hooks were sent, {decided:g} were counted")
        self.check(row.lost == 0, f"{step}: {row.lost} hooks were lost")
        return row

    def _judged(self, step: str, sending: Sending, expected: Expected) -> Row:
        answers = sending.answers
        row = Row(step, sending.total, answers=answers, lost=sending.total - len(answers))
        for sent in answers:
            if sent.status == 0:
                row.lost += 1
                self.check(row.lost > 3, f"{step}: no answer to {sent.hook.method}: {sent.error}")
                continue
            row.allow += sent.status == 200
            row.reject += sent.status == 403
            if (found := fault(sent, expected)) is None:
                row.affected += 1
                found = "" if expected.may_be_affected(sent) else f"{sent.status} by {sent.proxy_status or 'a backend'}"
            if found:
                row.wrong += 1
                shown = {name: sent.hook.fields.get(name) for name in ("caller", "callee", "sessionId")}
                self.check(row.wrong > 3, f"{step}: {sent.hook.method} {shown}: {found}")
        self.check(row.wrong == 0, f"{step}: {row.wrong} hooks got an answer that nothing explains")
        return row

    def metric(self, name: str, **labels: str) -> float:
        """A metric's sum."""
        return self.gateway.metric(name, **labels)

    def _decided(self) -> float:
        return self.metric("gateway_hooks_total")


def fault(sent: Sent, expected: Expected) -> str | None:
    """What is wrong with an answer; nothing if it is right, None if it is not what the rules say."""
    refused = expected.refused(sent.hook)
    if sent.status not in (200, 403):
        return f"status {sent.status}"
    if (sent.status == 403) != refused:
        return None
    if refused:
        return "a refusal with a body" if sent.body else ""
    try:
        answer = json.loads(sent.body)
    except ValueError:
        return f"no JSON: {sent.body[:80]!r}"
    answer.pop("answeredBy", None)
    config = answer.pop("restClientConfig", None)
    if sent.hook.method == "connect" and config not in expected.client_configs:
        return f"restClientConfig is {config}"
    return "" if answer == sent.hook.fields else f"another body: {answer}"


@contextlib.contextmanager
def set_up(
    configuration: Callable[[str, str, int], str], directory: Path, workers: int = 1
) -> Iterator[tuple[Stage, Callable[[], None]]]:
    """Everything, started; and what stops PHP."""
    with contextlib.ExitStack() as stack:
        apache = stack.enter_context(contextlib.ExitStack())
        php = apache.enter_context(
            apache_php(workers=PHP_WORKERS, keep_alive=False, script=Path(__file__).with_name("legacy.php"))
        )
        candidate = Candidate(directory / "candidate.log")
        stack.callback(candidate.stop)
        gateway = stack.enter_context(running_gateway(configuration(php.url, candidate.url, workers), directory))
        yield Stage(gateway, php, candidate, directory, workers), apache.close


def gateway_command(*arguments: str, limit: float = 90.0) -> subprocess.CompletedProcess[str]:
    """Run a command of the gateway's to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=limit
    )


def comes_true(settled: Callable[[], object]) -> bool:
    """Whether it does within the limit; asked seldom, for each question costs the gateway time."""
    for _ in range(round(SETTLE_LIMIT / SELDOM)):
        if settled():
            return True
        time.sleep(SELDOM)
    return False


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
