"""Starts real gateways for the tests: a process of its own, a file of configuration, ports that the system picks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent.parent
START_LIMIT = 90.0  # beside other tests, a gateway of several workers may take long
STOP_LIMIT = 60.0

LISTEN = "server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}\n"
"""Begins most tests' configurations."""


class Answer(NamedTuple):
    """An answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def detail(self) -> str:
        """What a refusal says for people (RFC 9457, section 3.1.4)."""
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["title"]
        return str(problem["detail"])


def read_answer(stream: BinaryIO, *, to_head: bool = False) -> Answer:
    """The next answer off a connection that may bring more; *to_head*: the request was a HEAD.

    Stricter than a client: AssertionError for a header field that stands twice, or an answer cut short.
    """
    status = stream.readline()
    assert status.startswith(b"HTTP/1.1 "), status
    headers: dict[str, str] = {}
    while (line := stream.readline()) != b"\r\n":
        name, colon, value = line.decode("latin-1").partition(":")
        assert colon, line
        assert value.endswith("\r\n"), line
        assert name.lower() not in headers, line
        headers[name.lower()] = value.strip(" \r\n")
    length = 0 if to_head else int(headers["content-length"])
    body = stream.read(length)
    assert len(body) == length
    return Answer(int(status[9:12]), headers, body)


@dataclass
class RunningGateway:
    """A gateway process and what it has said."""

    process: subprocess.Popen[bytes]
    config: Path
    log: Path
    hooks: str = ""
    """host:port of the hook listener."""
    admin: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=20.0))
    _read: int = 0
    _lines: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The URL to set on the media server, without the method."""
        return f"http://{self.hooks}/rest/my_api"

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, whole lines only."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            whole, end, _ = log.read().rpartition(b"\n")
        self._lines += [_parsed(line) for line in whole.split(b"\n") if end]
        self._read += len(whole) + len(end)
        return list(self._lines)

    def access_lines(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "verdict" in line]

    def access_line(self, request_id: str) -> dict[str, Any]:
        """The one access line of the hook with this request id."""
        self.wait_for_line(lambda line: "verdict" in line and line["request_id"] == request_id)
        lines = [line for line in self.access_lines() if line["request_id"] == request_id]
        assert len(lines) == 1, lines
        return lines[0]

    def wait_for_line(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> dict[str, Any]:
        """The first log line that is *wanted*."""
        found: dict[str, Any] | None = wait_until(
            lambda: next((line for line in self.lines() if wanted(line)), None), seconds
        )
        assert found is not None, self.log.read_text()
        return found

    def hook(
        self,
        method: str = "OnCallEvent",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """Send a hook as the media server does; *fields* make the body where none is given."""
        content = body if body is not None else json.dumps({"appKey": "defaultApp", **fields}).encode()
        sent = {"Content-Type": "application/json;charset=UTF-8", **(headers or {})}
        return self.client.post(f"{self.url}/{method}", content=content, headers=sent)

    def connect(self) -> socket.socket:
        """A connection to the hook listener, for bytes of the test's own making."""
        host, port = self.hooks.rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=20)

    def send(self, raw: bytes, *, to_head: bool = False) -> Answer:
        """Send these bytes on a connection of their own, and read one answer."""
        with self.connect() as sock, sock.makefile("rb") as stream:
            sock.sendall(raw)
            return read_answer(stream, to_head=to_head)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask the admin port."""
        return self.client.get(f"http://{self.admin}{path}", **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Tell the admin port."""
        return self.client.post(f"http://{self.admin}{path}", **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def write_config(self, text: str) -> None:
        """Replace the configuration's file as an editor does: a new file renamed into place."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)

    def reloads(self, result: str | None = None) -> list[dict[str, Any]]:
        """The log's lines of reloads so far: all, or those that ended so."""
        lines = [line for line in self.lines() if line.get("event") == "reload"]
        return [line for line in lines if result in (None, line["result"])]

    def reload(self, text: str) -> dict[str, Any]:
        """Put *text* in force, and return what POST /-/reload reports, with all that has changed since.

        The gateway looks at its file by itself, and where it does so between the two steps here, its own reload has the
        changes and the one by hand has none: so they are taken from the log, which has both.
        """
        known = len(self.reloads())
        self.write_config(text)
        answer = self.post("/-/reload")
        report: dict[str, Any] = answer.json()
        assert (answer.status_code, report["result"]) == (200, "success"), answer.text

        def since() -> list[dict[str, Any]]:
            """The lines of the reloads since, once the one by hand is among them."""
            lines = self.reloads()[known:]
            return lines if "admin" in [line["trigger"] for line in lines] else []

        lines = wait_until(since)
        assert lines, self.log.read_text()
        report["changes"] = [change for line in lines for change in line["changes"]]
        return report

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT)


def wait_until(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until *check* returns something true, and return it; its last word when the time is over."""
    deadline = time.monotonic() + seconds
    while not (result := check()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return result


@contextlib.contextmanager
def running_gateway(
    config: str,
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "gateway"),
    pass_fds: Sequence[int] = (),
) -> Iterator[RunningGateway]:
    """``gateway run`` with this configuration; ready when the block begins, gone when it ends."""
    path = directory / "gateway.yaml"
    path.write_text(config)
    log = directory / "gateway.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*program, "run", "-c", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            pass_fds=pass_fds,
        )
    gateway = RunningGateway(process, path, log)
    try:
        ready = wait_until(lambda: _ready_line(gateway), START_LIMIT)
        assert ready, f"the gateway did not start:\n{log.read_text()}"
        gateway.hooks, gateway.admin = ready["hooks"][0], ready["admin"]
        yield gateway
    finally:
        gateway.client.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError as exc:
        raise AssertionError(f"a line of the log is no JSON: {line!r}") from exc
    return parsed


def _ready_line(gateway: RunningGateway) -> dict[str, Any] | None:
    if gateway.process.poll() is not None:
        raise AssertionError(f"the gateway ended at its start:\n{gateway.log.read_text()}")
    return next((line for line in gateway.lines() if line.get("event") == "ready"), None)
