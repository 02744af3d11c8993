"""How many CPU instructions the gateway executes per hook, counted by valgrind's callgrind in a real process.

Time varies with the machine and with what else runs on it; this count hardly does, so a test can hold it to a recorded
figure. It covers everything that the process does in user space, Python's own interpreter and the C extensions
included, and nothing of the kernel. Run it from the repository::

    python -m tests.bench.instructions             instructions per hook
    python -m tests.bench.instructions --profile   and the C functions that they go to
    python -m tests.bench.instructions --python    and the time per Python function, by cProfile
    python -m tests.bench.instructions --apps N    with N apps, to which the hooks go in turn
    python -m tests.bench.instructions --caches    and how often the memory caches, as simulated, lack what is wanted
    make bench-record                              record the figure for this Python and machine

The hooks, of 3,600 bytes each, go one after the other over one keep-alive connection, and from the gateway over one to
the backend. Each has a call id of its own, so that no two are duplicates. The access log is off.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import pstats
import re
import shutil
import signal
import socket
import socketserver
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from .hooks import APP_MARK, CALL_MARK, app_name, call_body, raw_request

HOOKS: Final = 1000
"""Counted."""
WARM_UP: Final = 200
"""Sent before: Python specialises its bytecode for what it has seen, and the connections come up."""
ALLOWED: Final = 0.20
"""Above the recorded figure, as a part of it; beyond it the test fails."""
RECORDED: Final = Path(__file__).with_name("instructions.json")

_ROOT: Final = Path(__file__).parent.parent.parent
_SHOWN: Final = 40
_PYTHON_HOOKS: Final = 5000
_START_LIMIT: Final = 180.0
_STOP_LIMIT: Final = 60.0
_HOOK_LIMIT: Final = 30.0
"""Seconds, like those above: under valgrind everything takes about fifty times as long."""
_COMMAND_LIMIT: Final = 30.0
_STRIDE: Final = 7919
"""From one hook's app to the next one's: prime, so that all have their turn, and no two neighbours in memory."""
_IDLE: Final = 6.0
"""Seconds without a hook, to learn what is executed by the clock."""
_CONFIG: Final = """\
server: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0"}}
log: {{access: off}}
upstreams: {{backend: {{url: "http://127.0.0.1:{port}/rest/my_api"}}}}
apps:
"""
_CONFIG_APP: Final = "  {app}: {{upstream: backend, dedupe: 1ms}}\n"
"""Each hook is remembered so briefly that the next finds it expired, as happens to every hook in the long run."""
_HOOK: Final = raw_request(call_body(3600), "gateway.example.net:8080")
"""But for its app and its call id."""
_CACHES: Final = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64")
"""Of callgrind: 32 KiB each for instructions and data, and behind them 1 MiB in place of a core's own second cache."""
_PROFILED: Final = """\
import cProfile, os, runpy, sys
profile, file, leave = cProfile.Profile(), sys.argv.pop(1), os._exit
def end(status):
    profile.dump_stats(file)
    leave(status)
os._exit = end  # by which the gateway ends
del sys.argv[1]  # -m
profile.enable()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs ``-m MODULE ARGUMENTS`` with a profile: its start is in it too, which thousands of hooks outweigh."""
_ANNOTATED: Final = re.compile(r"\s*(?P<count>[\d,]+) \([\d. ]+%\)\s+\S+:(?P<name>.+?)(?:'\d+)?(?: \[.*\])?$")
"""A row of callgrind_annotate: count, share, file, function, how deep in itself, and the object's file."""


class ToolError(Exception):
    """Valgrind is missing, or something did not do what it should; the message is for the person who ran this."""


class Misses(NamedTuple):
    """What a hook wants of the memory and the simulated caches lack; without what goes by the clock."""

    first: float
    """Of 32 KiB of instructions, and as much of data."""
    second: float
    """Of 1 MiB behind them."""


class Counted(NamedTuple):
    """What callgrind has counted."""

    hooks: int
    instructions: int
    """Of all threads together, while these hooks were sent."""
    by_the_clock: float
    """Of them, those that would have been executed in that time without a hook: timers, the watch of the file."""
    dump: Path
    """Callgrind's file, for as long as its directory lives."""
    misses: Misses | None = None

    @property
    def per_hook(self) -> float:
        """Instructions per hook; the same on a machine that is slow or busy."""
        return (self.instructions - self.by_the_clock) / self.hooks


class Recorded(NamedTuple):
    """A figure that ``make bench-record`` has written."""

    instructions_per_hook: int
    python: str
    """Version and compiler."""
    valgrind: str
    date: str


# --- the figure on record ---


def build_key() -> str:
    """Names what a figure was counted for: implementation and version of Python, and the machine's architecture."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}-{platform.machine()}"


def figure_for(key: str, figures: Mapping[str, Recorded]) -> Recorded | None:
    """The figure to hold a build of Python to: its own, else the highest of the same minor version and architecture.

    Builds of one minor version are alike but for how they were optimised: with profiles, 6 to 8 % fewer instructions.
    """

    def kind(key: str) -> tuple[str, list[str], str]:
        implementation, version, machine = key.split("-")
        return implementation, version.split(".")[:2], machine

    alike = (figure for other, figure in figures.items() if kind(other) == kind(key))
    return figures.get(key) or max(alike, key=lambda figure: figure.instructions_per_hook, default=None)


def recorded(path: Path = RECORDED) -> Mapping[str, Recorded]:
    """The figures on record by ``build_key()``."""
    if not path.exists():
        return {}
    return {key: Recorded(**entry) for key, entry in json.loads(path.read_text()).items()}


def record(per_hook: float, path: Path = RECORDED) -> None:
    """Put a figure on record for this Python and machine, and leave the others as they are."""
    figures = dict(recorded(path))
    figures[build_key()] = Recorded(
        instructions_per_hook=round(per_hook),
        python=this_python(),
        valgrind=_output([_program("valgrind"), "--version"]).strip(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    entries = {key: entry._asdict() for key, entry in sorted(figures.items())}
    path.write_text(json.dumps(entries, indent=2) + "\n")


def regression(per_hook: float, figure: Recorded) -> str | None:
    """What is to be said of a figure that is too far above the one on record; None if it is not."""
    excess = per_hook / figure.instructions_per_hook - 1
    if excess <= ALLOWED:
        return None
    return (
        f"a hook takes {per_hook:,.0f} instructions, {excess:.0%} more than the {figure.instructions_per_hook:,} "
        f"recorded on {figure.date} under Python {figure.python}; this is {this_python()}. "
        "`python -m tests.bench.instructions --profile --python` shows where they go; "
        "`make bench-record` records the new figure, if that is the price of something worth it."
    )


def this_python() -> str:
    """Version and compiler of the interpreter that runs."""
    return f"{platform.python_version()} ({platform.python_compiler()})"


# --- counting ---


def count(
    directory: Path, *, hooks: int = HOOKS, warm_up: int = WARM_UP, apps: int = 1, caches: bool = False
) -> Counted:
    """Start a gateway under callgrind, send it hooks, and count. Raises ToolError."""
    valgrind, vgdb = _program("valgrind"), _program("vgdb")
    control = f"--vgdb-prefix={directory / 'control'}"
    command = [
        valgrind,
        "-q",
        "--tool=callgrind",
        "--instr-atstart=no",
        *(_CACHES if caches else ()),
        f"--callgrind-out-file={directory / 'callgrind.out'}",
        control,
        sys.executable,
    ]
    with _backend() as port, _gateway(command, port, directory, apps) as running:

        def tell(*words: str) -> None:
            _output([vgdb, control, f"--pid={running.process.pid}", *words])

        with _Sender(running.address, apps) as sender:
            tell("instrumentation", "on")
            sender.send(max(warm_up, apps))  # an app's first hook makes its series
            tell("zero")
            idle_began = time.monotonic()
            time.sleep(_IDLE)
            tell("dump")  # which zeroes too
            began = time.monotonic()
            sender.send(hooks)
            tell("dump")
            ended = time.monotonic()
        idle, dump = (directory / f"callgrind.out.{number}" for number in (1, 2))
        clock = (ended - began) / (began - idle_began)
        by_the_clock, totals = {event: number * clock for event, number in _totals(idle).items()}, _totals(dump)

        def missed(*events: str) -> float:
            return sum(totals[event] - by_the_clock[event] for event in events) / hooks

        misses = Misses(missed("I1mr", "D1mr", "D1mw"), missed("ILmr", "DLmr", "DLmw")) if caches else None
        return Counted(hooks, totals["Ir"], by_the_clock["Ir"], dump, misses)


def _totals(dump: Path) -> dict[str, int]:
    """What callgrind has counted, by the name of the event."""
    words: dict[str, list[str]] = {}
    with dump.open() as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in ("events", "totals"):
                words[name] = rest.split()
    totals = dict(zip(words.get("events", ()), map(int, words.get("totals", ())), strict=True))
    if not totals.get("Ir"):
        raise ToolError("callgrind has counted nothing")
    return totals


# --- what is shown ---


def c_functions(counted: Counted, *, inclusive: bool, shown: int = _SHOWN) -> str:
    """The C functions that executed most instructions per hook; *inclusive*: with those that they called."""
    command = [_program("callgrind_annotate"), f"--inclusive={'yes' if inclusive else 'no'}", "--threshold=100"]
    counts: dict[str, int] = {}
    for line in _output([*command, str(counted.dump)]).splitlines():
        row = _ANNOTATED.match(line)
        if row is None:
            continue
        count, name = int(row["count"].replace(",", "")), row["name"]
        if not inclusive:
            counts[name] = counts.get(name, 0) + count  # one row a source file from which code was inlined
        elif count <= counted.instructions:  # one that calls itself is counted as often as it is on the stack
            counts[name] = max(counts.get(name, 0), count)
    most = sorted(counts.items(), key=lambda item: -item[1])[:shown]
    return "\n".join(
        f"{count / counted.instructions:7.2%} {count / counted.hooks:12,.0f}  {name}" for name, count in most
    )


def python_functions(directory: Path, *, hooks: int = _PYTHON_HOOKS, shown: int = _SHOWN) -> str:
    """The Python functions that took most time by themselves, as cProfile tells it; of the hooks alone."""
    profile = directory / "profile"
    command = [sys.executable, "-c", _PROFILED, str(profile)]
    with _backend() as port, _gateway(command, port, directory) as running, _Sender(running.address) as sender:
        sender.send(WARM_UP)
        sender.send(hooks)
    report = io.StringIO()
    pstats.Stats(str(profile), stream=report).sort_stats("tottime").print_stats(shown)
    lines = report.getvalue().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.lstrip().startswith("ncalls"))
    places = sorted((f"{_ROOT}{os.sep}", *(f"{path}{os.sep}" for path in set(sysconfig.get_paths().values()))))
    text = "\n".join(lines[begin:]).rstrip()
    for place in reversed(places):  # the longest of those that begin alike comes first
        text = text.replace(place, "")
    return text


# --- the gateway, its backend and its client ---


class _Running:
    """A gateway process and where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.address = self._wait_until_ready()

    def said(self) -> str:
        """The end of its log, for the message of an error."""
        return self._log.read_text(errors="replace")[-2000:]

    def _wait_until_ready(self) -> tuple[str, int]:
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            for line in self._log.read_text(errors="replace").splitlines():
                if '"event":"ready"' in line:
                    host, _, port = json.loads(line)["hooks"][0].rpartition(":")
                    return host, int(port)
            if self.process.poll() is not None:
                raise ToolError(f"the gateway ended at its start: {self.said()}")
            time.sleep(0.05)
        raise ToolError(f"the gateway was not ready after {_START_LIMIT:g} s: {self.said()}")


@contextlib.contextmanager
def _gateway(command: Sequence[str], backend_port: int, directory: Path, apps: int = 1) -> Iterator[_Running]:
    """``COMMAND -m gateway run``, ready when the block begins, ended in order when it ends."""
    config, log = directory / "gateway.yaml", directory / "gateway.log"
    own = (_CONFIG_APP.format(app=app_name(_number(app))) for app in range(apps))
    config.write_text(_CONFIG.format(port=backend_port) + "".join(own))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-m", "gateway", "run", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=_ROOT,
            env=_environment(),
        )
    try:
        yield _Running(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Ours without the settings that have Python do more or less than it does by itself.

    A fixed seed of its hash is one: the gateway then keys duplicates otherwise, and the counts repeat without it.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}


class _Agree(socketserver.StreamRequestHandler):
    """A connection of a backend's that allows every hook, with the hook's own body."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while (body := _read_message(self.rfile)) is not None:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)


@contextlib.contextmanager
def _backend() -> Iterator[int]:
    """A backend on loopback, in threads of this process; its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Agree) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class _Sender:
    """A keep-alive connection of a media server's."""

    def __init__(self, address: tuple[str, int], apps: int = 1) -> None:
        self._apps = apps
        self._socket = socket.create_connection(address, timeout=_HOOK_LIMIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream: io.BufferedIOBase = self._socket.makefile("rb")
        self._sent = 0

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, hooks: int) -> None:
        """Send so many hooks, each after the answer to the one before. Raises ToolError for another answer than 200."""
        for _ in range(hooks):
            self._sent += 1
            app = self._sent * _STRIDE % self._apps
            hook = _HOOK.replace(CALL_MARK, b"%016d" % self._sent).replace(APP_MARK, _number(app).encode())
            self._socket.sendall(hook)
            if _read_message(self._stream) != hook.partition(b"\r\n\r\n")[2]:
                raise ToolError(f"hook {self._sent} was not answered with its own body")


def _number(app: int) -> str:
    return f"{app:05d}"


def _read_message(stream: io.BufferedIOBase) -> bytes | None:
    """The body of the next message; None at the connection's end, or if the message is an answer other than 200."""
    start, length = stream.readline(), 0
    if not start or (start.startswith(b"HTTP/") and b" 200 " not in start):
        return None
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return stream.read(length)


# --- programs ---


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolError(f"{name} is not installed (Debian package valgrind)")
    return path


def _output(command: Sequence[str]) -> str:
    """What a program prints. Raises ToolError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_LIMIT)
    except subprocess.TimeoutExpired as exc:
        raise ToolError(f"{' '.join(command)} takes too long") from exc
    if done.returncode != 0:
        raise ToolError(f"{' '.join(command)} fails: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# --- the command ---


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the CPU instructions that the gateway executes per hook.")
    parser.add_argument("--hooks", type=int, default=HOOKS, help="how many to count (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="how often; the median is taken (default: %(default)s)")
    parser.add_argument("--apps", type=int, default=1, help="how many are configured and asked (default: %(default)s)")
    parser.add_argument("--caches", action="store_true", help="count what the simulated caches lack, too")
    parser.add_argument("--record", action="store_true", help="put the figure on record for this Python and machine")
    parser.add_argument("--profile", action="store_true", help="show the C functions that it goes to")
    parser.add_argument("--python", action="store_true", help="show the time per Python function, by cProfile")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep callgrind's file, for kcachegrind")
    arguments = parser.parse_args()
    if min(arguments.hooks, arguments.runs, arguments.apps) < 1:
        parser.error("--hooks, --runs and --apps are at least 1")
    if arguments.record and arguments.apps > 1:
        parser.error("what is on record is the figure for one app")
    return arguments


def _show(arguments: argparse.Namespace, directory: Path) -> None:
    figures = []
    for _ in range(arguments.runs):
        counted = count(directory, hooks=arguments.hooks, apps=arguments.apps, caches=arguments.caches)
        figures.append(counted.per_hook)
        clock = counted.by_the_clock / counted.hooks
        print(
            f"{counted.per_hook:,.0f} instructions per hook, without the {clock:,.0f} that go by the clock", flush=True
        )
        if counted.misses is not None:
            first, second = counted.misses
            print(f"{first:,.0f} misses in caches of 32 KiB, {second:,.0f} in the 1 MiB behind them", flush=True)
    per_hook = statistics.median(figures)
    if len(figures) > 1:
        print(f"median {per_hook:,.0f}, from {min(figures):,.0f} to {max(figures):,.0f}")
    on_record = figure_for(build_key(), recorded())
    if on_record is None:
        print(f"none on record for {build_key()}")
    else:
        excess = per_hook / on_record.instructions_per_hook - 1
        print(f"{excess:+.1%} against {on_record.instructions_per_hook:,} on record of {on_record.date}")
    if arguments.profile:
        for inclusive, title in ((False, "by themselves"), (True, "with what they call")):
            print(f"\nInstructions per hook of C functions {title}:\n{c_functions(counted, inclusive=inclusive)}")
    if arguments.keep:
        shutil.copy(counted.dump, arguments.keep)
    if arguments.python:
        print(f"\nTime per Python function, {_PYTHON_HOOKS} hooks, cProfile's own share included:")
        print(python_functions(directory))
    if arguments.record:
        record(per_hook)
        print(f"recorded in {RECORDED.relative_to(_ROOT)}")


def main() -> None:
    """Entry of ``python -m tests.bench.instructions``."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="gateway-instructions-") as name:
        try:
            _show(arguments, Path(name))
        except (ToolError, OSError) as exc:
            sys.exit(f"instructions: {exc}")


if __name__ == "__main__":
    main()
