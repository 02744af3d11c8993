"""Every option and argument of every command, given what nobody means: a message and an exit status, at once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from gateway.cli.main import app
from tests.cli.commands import Run, gateway, shell
from tests.cli.test_entry import RECORDED
from tests.support.gateways import RunningGateway
from tests.support.programs import require

LONG: Final = "9" * 400
HUGE: Final = [LONG, f"-{LONG}", f"{LONG}s", "1e400"]
TEXTS: Final = [
    "",
    "*" * 5000,
    "a\0b",
    "\udcff",
    "²",
    f"http://h:{LONG}",
    f"http://x{LONG}",
    "http://xn--zzzz",
    "h..h:1",
]
PLACES: Final = ["/dev/zero", "/dev/full", "/dev/tty", "/proc/kmsg", "directory", "pipe", "sparse"]
NAMES_A_FILE: Final = {"file", "files", "config", "token_file", "json"}
SECONDS: Final = 20.0
MEMORY: Final = 512 * 2**20
"""Bytes more than there were: a file without an end would take all."""
ENDS_WITH_2: Final = {"timeout", "concurrency", "limit", "rate", "since", "until", "at"}
COMMANDS: Final[dict[str, Any]] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PLACED: Final = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.name != "help" and not getattr(parameter, "is_flag", False)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hook.json").write_bytes(b'{"appKey": "defaultApp"}')
    (tmp_path / "recorded.jsonl").write_text(json.dumps(RECORDED) + "\n")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    return tmp_path


@contextlib.contextmanager
def shorten() -> Iterator[None]:
    """Neither time nor memory without end."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError("it hangs")

    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def arguments(name: str, parameter: Any, value: str, running: RunningGateway) -> list[str]:
    """The command with what it requires, and *value* for one parameter."""
    usual = {"file": "hook.json", "files": "recorded.jsonl", "to": "http://127.0.0.1:1", "admin": running.admin}
    given = {**usual, parameter.name: value}
    found = [name]
    for other in COMMANDS[name].params:
        if other is parameter or other.required or other.name == "admin":
            found += (
                [given[other.name]]
                if other.param_type_name == "argument"
                else [f"{other.opts[-1]}={given[other.name]}"]
            )
    return found


@pytest.mark.parametrize(("name", "parameter"), PLACED, ids=[f"{name}-{it.name}" for name, it in PLACED])
def test_no_value_of_an_option_brings_a_traceback_hangs_or_takes_all_memory(
    name: str, parameter: Any, place: Path, running: RunningGateway
) -> None:
    for value in (*HUGE, *TEXTS, *(PLACES if parameter.name in NAMES_A_FILE else ())):
        words = arguments(name, parameter, value, running)
        with shorten():
            run = gateway(*words)  # Run itself refuses a traceback
        assert run.status in (0, 1, 2), (words, run)
        if value in HUGE and parameter.name in ENDS_WITH_2:
            assert run.status == 2, (words, run)
            assert run.err


@pytest.mark.parametrize("command", ["send -u http://127.0.0.1:1", "explain -c gateway.yaml"])
@pytest.mark.parametrize("file", ["/dev/zero", "/dev/tty", "/proc/kmsg", "directory", "pipe", "sparse"])
@pytest.mark.usefixtures("config", "place")
def test_a_hook_that_is_no_file_or_has_no_end_is_told_as_bad_usage(command: str, file: str) -> None:
    with shorten():
        run = gateway(*command.split(), file)
    assert_bad_usage(run, file)


@pytest.mark.parametrize("command", ["send -u http://127.0.0.1:1", "explain -c gateway.yaml"])
@pytest.mark.usefixtures("config")
def test_a_hook_from_a_standard_input_without_an_end_is_told_as_bad_usage(command: str, place: Path) -> None:
    assert_bad_usage(shell(f"ulimit -v 1000000; gateway {command} - </dev/zero", place), "-")


def assert_bad_usage(run: Run, file: str) -> None:
    assert (run.status, run.out) == (2, "")
    assert len(run.err.splitlines()) == 1
    assert run.err.startswith(f"gateway: {file}: ")


def test_a_hook_may_come_through_a_pipe_that_somebody_writes_to(config: Path) -> None:
    require("bash", "bash")
    for hook in (
        '<(echo \'{"appKey": "open"}\')',
        '<(sleep 0.2; echo \'{"appKey": "open"}\')',
        "/dev/stdin <hook.json",
    ):
        (config.parent / "hook.json").write_text('{"appKey": "open"}')
        run = shell(f"gateway explain -c gateway.yaml {hook}", config.parent)
        assert (run.status, run.err) == (0, ""), run
        assert "open" in run.out


def test_a_report_is_written_to_no_pipe_that_nobody_reads(place: Path) -> None:
    with shorten():
        run = gateway("replay", "recorded.jsonl", "--to", "http://127.0.0.1:1", "--all-methods", "--json", "pipe")
    assert run.status == 2
    assert "pipe: No such device or address" in run.err
