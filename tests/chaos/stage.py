"""The gateway of a run with all that stands around it: files, disks, backends, callers, the admin port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos import processes
from tests.chaos.configs import History, Place, Rules, text_of
from tests.chaos.facts import CALLER, SECRET, Held, Windows
from tests.chaos.oracle import Oracle, Violations
from tests.support.faulty import Certificates

ROOT: Final = Path(__file__).parent.parent.parent
START: Final = 20.0
TAKEN_WITHIN: Final = 12.0
"""Seconds in which a good configuration is in force, however it was put there."""
BACK_WITHIN: Final = 40.0
"""Seconds in which both workers serve again."""


class Tail:
    """The lines that a file gains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def raw(self) -> list[bytes]:
        """Whole lines since the last look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._at += len(whole) + len(end)
        return whole.split(b"\n") if end else []

    def lines(self) -> list[dict[str, Any]]:
        """The same as JSON; what is none is left out."""
        parsed = []
        for line in self.raw():
            with contextlib.suppress(ValueError):
                parsed.append(json.loads(line))
        return parsed


class Helper:
    """A process of ours that obeys lines and answers with lines."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT / "tests",
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Close what it reads, and wait; it is killed if that does not end it."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, directory: Path, size: str) -> None:
        directory.mkdir()
        self.path = directory
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(directory)], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise OSError(done.stderr.strip())

    def fill(self) -> None:
        """Leave not a byte."""
        with contextlib.suppress(OSError), (self.path / "filler").open("ab", buffering=0) as filler:
            for size in (2**20, 4096, 1):
                with contextlib.suppress(OSError):
                    while filler.write(b"\0" * size) == size:
                        pass

    def free(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def unmount(self) -> str:
        """What is wrong with that; empty where nothing is."""
        done = subprocess.run(["umount", str(self.path)], capture_output=True, text=True)
        if done.returncode != 0:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True)
        return done.stderr.strip()


class Stage:
    """Everything that faults act upon. The files' lock is held while the configuration is changed or reloaded."""

    def __init__(
        self, directory: Path, seed: int, rate: float, certificates: tuple[Certificates, Certificates] | None
    ) -> None:
        self.directory = directory
        self.certificates = certificates
        self.history = History()
        self.windows = Windows()
        self.held: list[Held] = []
        self.oracle = Oracle(self.history, self.windows, self.held)
        self.files = asyncio.Lock()
        self.counts: Counter[str] = Counter()
        """Faults by kind."""
        self.expected_deaths: set[int] = set()
        self.pids: set[int] = set()
        """Every process of the gateway's that was seen."""
        self._seed, self._rate = seed, rate
        self._log_lines: list[dict[str, Any]] = []
        self.disks: dict[str, Disk] = {}
        self.disk_trouble = ""
        self.started = time.monotonic()
        self.step = 0
        self.last_refusal = ""
        """Why the admin port gave no answer, the last time."""
        self.gave_way = 0
        """Connections to the admin port that were cut before their request had come."""

    @property
    def violations(self) -> Violations:
        return self.oracle.violations

    def wrong(self, kind: str, what: str) -> None:
        """Note a violation that is not a hook's."""
        self.violations.add(kind, f"step {self.step}: {what}")

    # --- beginning and end ---

    def mount(self) -> None:
        """Make the disks, where that is allowed."""
        try:
            self.disks["record"] = Disk(self.directory / "record", "8m")
            self.disks["log"] = Disk(self.directory / "log", "160m")
        except OSError as exc:
            self.disk_trouble = str(exc)
        for name in ("record", "log"):
            (self.directory / name).mkdir(exist_ok=True)

    def begin(self, rules: Rules) -> None:
        """Start backends, gateway and callers."""
        self.config = self.directory / "gateway.yaml"
        self.log = self.directory / "log" / "gateway.log"
        self.backend = Helper("tests.chaos.backend", str(self.directory / "backend.jsonl"))
        ports = json.loads(self.backend.read())
        hooks, admin = free_ports(2)
        self.hooks, self.admin = hooks, admin
        self.place = Place(f"127.0.0.1:{hooks}", f"127.0.0.1:{admin}", ports,
                           self.directory / "record" / "hooks.jsonl", self._install_tls())  # fmt: skip
        self.history.may_come(rules, time.monotonic())
        self.config.write_text(text_of(rules, self.place))
        with self.log.open("ab") as out:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
                env={**os.environ, "CHAOS_SECRET": SECRET},
            )  # fmt: skip
        self._called = Tail(self.directory / "load.jsonl")
        self._asked = Tail(self.directory / "backend.jsonl")
        self._logged = Tail(self.log)
        deadline = time.monotonic() + START
        while not any(line.get("event") == "ready" for line in self.log_lines()):
            if self.gateway.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        authorities = [] if self.certificates is None else [str(one.ca) for one in self.certificates]
        self.load = Helper("tests.chaos.load", str(self.directory / "load.jsonl"), self.place.hooks, str(self._rate),
                           str(self._seed), *authorities)  # fmt: skip

    def _install_tls(self) -> dict[str, str] | None:
        if self.certificates is None:
            return None
        self.certificate, self.key = self.directory / "server.pem", self.directory / "server.key"
        certificate, key = self.certificates[0].valid
        self.certificate.write_bytes(certificate.read_bytes())
        self.key.write_bytes(key.read_bytes())
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def order_load(self, order: str) -> str:
        """Tell the callers; what they say."""
        self.load.tell(order)
        return self.load.read()

    def end(self) -> None:
        """End what still runs."""
        for name in ("load", "backend"):
            if (helper := getattr(self, name, None)) is not None:
                helper.end()
        gateway = getattr(self, "gateway", None)
        if gateway is not None and gateway.poll() is None:
            gateway.terminate()
            try:
                gateway.wait(15)
            except subprocess.TimeoutExpired:
                gateway.kill()
                gateway.wait()
        for pid in self.pids:
            if is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)

    # --- what is there ---

    def workers(self) -> list[int]:
        """The workers that live, by age."""
        found = sorted(processes.children(self.gateway.pid))
        self.pids.update(found)
        return found

    def log_lines(self) -> list[dict[str, Any]]:
        """Every line so far that is no hook's."""
        self._log_lines += [line for line in self._logged.lines() if "verdict" not in line]
        return self._log_lines

    async def judge(self) -> None:
        """Let the oracle see what is new."""
        called, asked = self._called.lines(), self._asked.lines()
        self.oracle.tell_asked([*asked, *self._asked.lines()])  # a backend writes before its answer goes out
        self.oracle.tell_called(called)
        self.oracle.judge()
        await asyncio.sleep(0)

    async def until(self, check: Callable[[], Any], seconds: float) -> Any:
        """Wait until it is so; what it says at the end."""
        deadline = time.monotonic() + seconds
        while not (result := check()) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return result

    async def ask(self, path: str, method: str = "GET", timeout: float = 5.0) -> httpx.Response | None:
        """Ask the admin port, on a connection of its own as probes do; None where there is no answer in time.

        Where a crowd holds every place, the newest connection can be the one that gives way, before its request has
        come: such a one is asked once more.
        """
        for _ in range(2):
            try:
                async with asyncio.timeout(timeout), httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
                    return await client.request(method, f"http://{self.place.admin}{path}")
            except (httpx.RemoteProtocolError, httpx.ReadError) as exc:
                self.last_refusal = repr(exc)
                self.gave_way += 1
            except (httpx.HTTPError, TimeoutError, OSError) as exc:
                self.last_refusal = repr(exc)
                return None
        return None

    async def shows(self, certificate: Path) -> bool:
        """Whether new connections come to be shown this certificate."""
        wanted = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        deadline = time.monotonic() + TAKEN_WITHIN
        while time.monotonic() < deadline:
            answer = await self.call()
            if answer is not None and answer[1] == wanted:
                return True
            await asyncio.sleep(0.1)
        return False

    async def call(self) -> tuple[bytes, bytes | None] | None:
        """What the hook port says to a media server's GET, and the certificate it shows; None where it says nothing."""
        context = None
        if self.certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.hooks, ssl=context, local_addr=(CALLER, 0)
                )
                try:
                    writer.write(b"GET / HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
                    secured = writer.get_extra_info("ssl_object")
                    shown = None if secured is None else secured.getpeercert(binary_form=True)
                    said = await reader.read(100)
                    return (said, shown) if said else None
                finally:
                    writer.transport.abort()
        return None

    # --- the configuration ---

    def write(self, text: str | bytes, *, rename: bool) -> None:
        """Put a file there: a new one renamed into place, or written over the old one."""
        data = text if isinstance(text, bytes) else text.encode()
        if rename:
            new = self.config.with_suffix(".new")
            new.write_bytes(data)
            os.replace(new, self.config)
        else:
            self.config.write_bytes(data)

    async def in_force(self, rules: Rules) -> bool:
        """Wait until the configuration is the one in force, for all workers; a violation where it does not come."""
        deadline = time.monotonic() + TAKEN_WITHIN
        word = re.compile(rf"\b{rules.revision}\b[^']*added")
        while time.monotonic() < deadline:
            said = any(
                line.get("event") == "reload" and any(word.search(str(change)) for change in line.get("changes", ()))
                for line in self.log_lines()[-200:]
            )
            if not said:
                answer = await self.ask("/api/config", timeout=1.0)
                said = answer is not None and answer.status_code == 200 and f'"{rules.revision}"' in answer.text
            if said:
                self.history.is_in_force(rules, time.monotonic())
                return True
            if self.gateway.poll() is not None:
                return False
            await asyncio.sleep(0.1)
        self.wrong("not_taken", f"{rules.revision}, a good configuration, is not in force after {TAKEN_WITHIN:g} s")
        return False

    async def both_serve(self) -> bool:
        """Wait until there are two workers that serve; a violation where that takes too long."""
        deadline = time.monotonic() + BACK_WITHIN
        while time.monotonic() < deadline and self.gateway.poll() is None:
            if len(self.workers()) == 2:
                answer = await self.ask("/metrics", timeout=2.0)
                if answer is not None and "\ngateway_workers 2.0" in answer.text:
                    return True
            await asyncio.sleep(0.1)
        self.wrong("not_back", f"two workers do not serve after {BACK_WITHIN:g} s: {self.workers()}")
        return False


def is_ours(pid: int) -> bool:
    """Whether the process is a gateway of this interpreter's still: a number can have become another's."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"gateway" in command and processes.is_alive(pid)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


@contextlib.contextmanager
def connections(host: str, port: int, count: int, source: str) -> Iterator[list[socket.socket]]:
    """Connections that do nothing by themselves; fewer where no more are to be had."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.5)
            try:
                sock.bind((source, 0))
                sock.connect((host, port))
            except OSError:
                continue
            sock.setblocking(False)
            socks.append(sock)
        yield socks


__all__ = ["CALLER", "Disk", "Helper", "Stage", "connections", "free_ports", "is_ours"]
