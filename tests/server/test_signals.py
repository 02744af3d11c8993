"""Every signal, at every moment of a gateway's life, to its process, its workers, and as process 1."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.server.signals import MEANINGS, WORKER_MEANINGS, Meaning, signal_name
from tests.support.faulty import FaultyBackend, gated_case
from tests.support.gateways import ROOT, START_LIMIT, STOP_LIMIT, RunningGateway, running_gateway, wait_until
from tests.support.programs import require

HARMLESS: Final = sorted(number for number, meaning in MEANINGS.items() if meaning in (Meaning.IGNORE, Meaning.RELOAD))
IGNORED: Final = {signal_name(number) for number, meaning in MEANINGS.items() if meaning is Meaning.IGNORE}
ENDING: Final = sorted(number for number, meaning in MEANINGS.items() if meaning in (Meaning.DRAIN, Meaning.END))
LEFT: Final = "CHLD CONT URG WINCH PIPE XFSZ".split()
"""What the system or Python ignores."""
FAULTS: Final = "ABRT BUS FPE ILL SEGV SYS TRAP".split()
RUN: Final = (sys.executable, "-m", "gateway")
AS_FIRST: Final = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *RUN)


def configuration(workers: int, backend: str = "http://127.0.0.1:1") -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
            "upstreams": {"gated": {"url": backend}},
            "apps": {"open": {"static": "allow"}, "gated": {"upstream": "gated", "timeout": "14s"}},
        }
    )


def caught_by(pid: int) -> int:
    """The signals for which a process has handlers: bit 0 is signal 1."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1], 16) if (found := re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)) else 0


def holds(pid: int, numbers: Sequence[int]) -> bool:
    return all(caught_by(pid) >> (number - 1) & 1 for number in numbers)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Started:
    """A gateway that has just been started, with its handlers installed and nothing imported."""

    def __init__(self, directory: Path, workers: int, program: Sequence[str] = RUN) -> None:
        self.config, self.log = directory / "gateway.yaml", directory / "gateway.log"
        self.config.write_text(configuration(workers))
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*program, "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        if program is not RUN:
            assert wait_until(lambda: children_of(self.process.pid))
        self.pid = self.process.pid if program is RUN else children_of(self.process.pid)[0]
        assert wait_until(lambda: holds(self.pid, list(MEANINGS)), START_LIMIT), self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def line(self, event: str) -> dict[str, Any] | None:
        return next((line for line in self.lines() if line.get("event") == event), None)


@contextlib.contextmanager
def started(directory: Path, workers: int, program: Sequence[str] = RUN) -> Iterator[Started]:
    gateway = Started(directory, workers, program)
    try:
        yield gateway
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(STOP_LIMIT)


def test_every_signal_there_is_has_a_meaning() -> None:
    left = {getattr(signal, f"SIG{name}") for name in (*LEFT, *FAULTS, "KILL", "STOP")}
    assert set(MEANINGS) == signal.valid_signals() - left
    assert set(WORKER_MEANINGS) == set(MEANINGS)


def test_a_real_time_signal_has_a_name() -> None:
    assert [signal_name(number) for number in (1, signal.SIGRTMIN, signal.SIGRTMIN + 3)] == [
        "SIGHUP", "SIGRTMIN", "SIGRTMIN+3",
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_what_does_not_end_a_gateway_does_not_while_it_starts_serves_and_drains(workers: int, tmp_path: Path) -> None:
    """Sent to the whole process group, as by a terminal: workers get it too, from their first moment on."""
    with gated_case() as gate, FaultyBackend() as backend, started(tmp_path, workers) as gateway:
        gateway.config.write_text(configuration(workers, backend.url_of("gated")))
        while gateway.line("ready") is None:
            assert gateway.process.poll() is None, gateway.log.read_text()
            for number in HARMLESS:
                os.killpg(gateway.pid, number)
            time.sleep(0.05)
        ready = gateway.line("ready")
        assert ready is not None
        noted = {line["signal"] for line in gateway.lines() if "signal" in line}
        assert noted
        assert noted <= IGNORED
        running = RunningGateway(gateway.process, gateway.config, gateway.log, ready["hooks"][0], ready["admin"])
        with running.client:
            assert wait_until(lambda: [line["trigger"] for line in running.reloads("success")][:1] == ["SIGHUP"])
            running.write_config(configuration(workers, backend.url_of("gated")))
            assert running.post("/-/reload").json()["result"] == "success"  # its line may be held back by now
            pids = running.get("/api/status").json()["workers"]
            for number in HARMLESS:
                os.killpg(gateway.pid, number)
            assert running.hook(appKey="open").status_code == 200
            hook = threading.Thread(target=lambda: answers.append(running.hook(appKey="gated").status_code))
            answers: list[int] = []
            hook.start()
            assert wait_until(lambda: backend.requests)
            gateway.process.terminate()
            assert wait_until(lambda: any("stopping" in line.get("message", "") for line in running.lines()))
            for number in HARMLESS:
                os.killpg(gateway.pid, number)
            assert running.get("/api/status").json()["workers"] == pids
            gate.set()
            hook.join(20)
            assert answers == [200]
        assert gateway.process.wait(STOP_LIMIT) == 0
        assert "Traceback" not in gateway.log.read_text()
        assert "worker_died" not in gateway.log.read_text()
        assert gateway.lines()[-1]["message"] == "stopped"


@pytest.mark.parametrize(
    ("workers", "to_all"),
    [
        pytest.param(1, False, id="one worker, to the process"),
        pytest.param(1, True, id="one worker, to the group", marks=pytest.mark.slow),
        pytest.param(2, False, id="two workers, to the process", marks=pytest.mark.slow),
        pytest.param(2, True, id="two workers, to the group"),
    ],
)
def test_what_ends_a_gateway_does_at_any_moment_of_its_start_with_status_0(
    workers: int, to_all: bool, tmp_path: Path
) -> None:
    for step, number in enumerate([*ENDING, *ENDING]):
        with started(tmp_path, workers) as gateway:
            time.sleep(step * 0.08)
            (os.killpg if to_all else os.kill)(gateway.pid, number)
            assert gateway.process.wait(STOP_LIMIT) == 0, (number, gateway.log.read_text())
            assert "Traceback" not in gateway.log.read_text()
            assert "NOT" not in gateway.log.read_text()


@pytest.mark.parametrize("number", ENDING, ids=signal_name)
def test_what_ends_a_gateway_that_serves_does_so_with_status_0_and_in_order(number: int, tmp_path: Path) -> None:
    with running_gateway(configuration(1), tmp_path) as gateway:
        assert gateway.hook(appKey="open").status_code == 200
        gateway.client.close()
        assert gateway.stop(signal.Signals(number)) == 0
        assert gateway.lines()[-1]["message"] == "stopped"


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_that_come_again_and_again_while_it_ends_change_neither_its_status_nor_its_log(
    workers: int, tmp_path: Path
) -> None:
    with started(tmp_path, workers) as gateway:
        assert wait_until(lambda: gateway.line("ready"), START_LIMIT)
        gateway.process.terminate()
        assert wait_until(lambda: any("stopping" in line.get("message", "") for line in gateway.lines()))
        deadline = time.monotonic() + STOP_LIMIT
        while gateway.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN):
                    os.killpg(gateway.pid, number)
            time.sleep(0.002)
        assert gateway.process.returncode == 0
        log = gateway.log.read_text()
        assert "Traceback" not in log
        assert "ignored (" not in log  # as in "Exception ignored"
        assert gateway.lines()[-1]["message"] == "stopped"


def test_a_signal_that_the_parent_had_blocked_or_ignored_has_its_meaning_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(configuration(2))
    log = (tmp_path / "log").open("wb")

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with log, subprocess.Popen([*RUN, "run", "-c", str(path)], stdout=log, cwd=ROOT, preexec_fn=block) as process:  # noqa: PLW1509
        try:
            assert wait_until(lambda: b'"ready"' in (tmp_path / "log").read_bytes(), START_LIMIT)
            (worker, _) = children_of(process.pid)
            os.kill(worker, signal.SIGKILL)
            assert wait_until(lambda: b"signal SIGKILL; it is replaced" in (tmp_path / "log").read_bytes())
            process.terminate()
            assert process.wait(STOP_LIMIT) == 0
        finally:
            process.kill()


# --- as process 1 of a namespace, as in a container ---


@pytest.fixture
def namespaces() -> None:
    require("unshare", "util-linux")
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True)
    if tried.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"unshare: {tried.stderr.strip()}")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR])
def test_process_1_ends_by_a_signal_that_comes_before_anything_is_imported(number: int, tmp_path: Path) -> None:
    with started(tmp_path, 2, AS_FIRST) as gateway:
        os.kill(gateway.pid, number)
        assert gateway.process.wait(STOP_LIMIT) == 0
        assert gateway.log.read_text() == ""


@pytest.mark.usefixtures("namespaces")
def test_process_1_survives_what_it_ignores_and_leaves_no_orphan_a_zombie(tmp_path: Path) -> None:
    with started(tmp_path, 2, AS_FIRST) as gateway:
        for number in HARMLESS:
            os.kill(gateway.pid, number)
        assert wait_until(lambda: gateway.line("ready"), START_LIMIT), gateway.log.read_text()
        for number in HARMLESS:
            os.kill(gateway.pid, number)
        workers = children_of(gateway.pid)
        assert len(workers) == 2
        inside = ["nsenter", "--target", str(gateway.pid), "--pid", "--mount"]
        subprocess.run([*inside, "sh", "-c", "for n in 1 2 3; do sleep 0.3 & done"], check=True)
        assert wait_until(lambda: len(children_of(gateway.pid)) == 5)
        os.kill(workers[0], signal.SIGKILL)  # among the orphans, ours are told apart
        assert wait_until(lambda: gateway.line("worker_died"))
        assert "SIGKILL" in str(gateway.line("worker_died"))
        assert wait_until(lambda: len(children_of(gateway.pid)) == 2)
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.process.wait(STOP_LIMIT) == 0
        assert "Traceback" not in gateway.log.read_text()


# --- the other commands ---

MARKED: Final = """\
import os
import sys
import gateway.cli as cli
run = cli._run
cli._run = lambda: (print("held", file=sys.stderr, flush=True), os.read(0, 1), run())
sys.exit(cli.main())
"""


@pytest.mark.parametrize("delay", [None, 0.0, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("command", [["check"], ["schema"], ["explain", "-"]], ids=" ".join)
def test_ctrl_c_ends_another_command_at_any_moment_without_a_word(
    command: list[str], delay: float | None, tmp_path: Path
) -> None:
    (tmp_path / "gateway.yaml").write_text(configuration(1))
    process = subprocess.Popen(
        [sys.executable, "-c", MARKED, *command],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stderr is not None
    with process:
        assert process.stderr.readline() == b"held\n"
        if delay is not None:  # else it has not begun with what it was told
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(delay)
        process.send_signal(signal.SIGINT)
        status = process.wait(STOP_LIMIT)
        assert (status, process.stderr.read()) in ((130, b""), (-signal.SIGINT, b""), (0, b""))
        assert status == 130 or delay is not None  # it may have been done


def test_another_command_ends_by_sigterm_as_any_program_does(tmp_path: Path) -> None:
    process = subprocess.Popen([*RUN, "explain", "-"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        process.terminate()
        assert process.wait(STOP_LIMIT) == -signal.SIGTERM
        assert process.stderr is not None
        assert process.stderr.read() == b""
