"""``gateway demo``: a backend that behaves as the callee says, a gateway in front, sample hooks and their verdicts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gateway.config import Loaded
from gateway.model.decision import Decision
from gateway.server.single import Gateway
from gateway.server.sockets import StartError
from gateway.telemetry.log import LogWriter

DEMO_CONFIG: Final = """\
server: {listen: 127.0.0.1:8080, admin: 127.0.0.1:9180}
log: {format: console}
store: {url: "sqlite:store.db"}
history: {}
defaults:
  spool: {}
  methods:
    StreamKeepAliveEvent:
      fallback: {timeout: allow, unreachable: allow, overload: allow, bad_answer: allow, error_status: allow}
upstreams:
  legacy-php: {url: http://127.0.0.1:8081/rest/my_api}
apps:
  defaultApp:
    upstream: legacy-php
    timeout: 2s
    fallback: {timeout: allow, unreachable: allow}
    methods:
      OnCallEvent: {timeout: 1500ms, fallback: reject}
  blocked: {static: reject}
"""

_MAX_REQUEST: Final = 1024 * 1024
_JSON: Final = b"Content-Type: application/json\r\n"
_STORE_LOOKS: Final = 50
_STORE_PAUSE: Final = 0.1
"""Seconds between two looks whether the store is up."""


class Behaviour(NamedTuple):
    """What the demo backend does for a callee that starts with this name."""

    callee: str
    does: str


BEHAVIOURS: Final = (
    Behaviour("PPP005", "allows: 200, the hook's own JSON"),
    Behaviour("REFUSE", "rejects: 403, empty"),
    Behaviour("HANG", "hangs: never answers"),
    Behaviour("NOTICE", "prints a PHP notice before the JSON: 200"),
    Behaviour("EMPTY", "stops with a fatal error: 200, empty"),
    Behaviour("ERROR", "fails: 500 with an error page"),
    Behaviour("LOGIN", "redirects to a login page: 302"),
    Behaviour("CLOSE", "closes the connection without an answer"),
)


class DemoBackend:
    """A backend on loopback that allows, rejects, hangs or fails, depending on the callee."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises StartError if that fails."""
        try:
            server = await asyncio.start_server(self._serve, host, port, limit=_MAX_REQUEST)
        except OSError as exc:
            raise StartError(f"the demo backend cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def aclose(self) -> None:
        """Stop, including requests that hang."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        errors = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
        with contextlib.suppress(*errors):
            while (answer := await self._answer(*await _read_request(reader))) is not None:
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes | None:
        callee = str(json.loads(body).get("callee", ""))
        if b"\r\nx-gateway-redelivery:" in head.lower():  # by then the trouble is over
            return _response(b"200 OK", body, _JSON)
        if callee.startswith("HANG"):
            await asyncio.Event().wait()
        if callee.startswith("CLOSE"):
            return None
        if callee.startswith("REFUSE"):
            return _response(b"403 Forbidden", b"")
        if callee.startswith("ERROR"):
            return _response(b"500 Internal Server Error", b"<h1>It broke</h1>", b"Content-Type: text/html\r\n")
        if callee.startswith("LOGIN"):
            return _response(b"302 Found", b"", b"Location: /login.php\r\n")
        if callee.startswith("EMPTY"):
            return _response(b"200 OK", b"")
        if callee.startswith("NOTICE"):
            notice = b"<br />\n<b>Notice</b>:  Undefined index: sip in <b>/srv/api.php</b> on line <b>12</b><br />\n"
            return _response(b"200 OK", notice + body, _JSON)
        return _response(b"200 OK", body, _JSON)


async def _read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return head, await reader.readexactly(int(value))
    raise ValueError("no Content-Length")


def _response(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def sample_hook(app_key: str = "defaultApp", callee: str = "PPP005", number: int = 1) -> Mapping[str, Any]:
    """An OnCallEvent as the media server sends it."""
    return {
        "nodeId": "ah20GKYnbYKxjJmdh1zDs6c1lWkn0Q0t@46.101.108.90",
        "appKey": app_key,
        "sessionId": "/8.8.8.8:56046/46.101.108.90:8443",
        "callId": f"pbx-8BD6EE910B71BE609010-{3433 + number}@h79n40.etc.tario.ru",
        "incoming": True,
        "status": "PENDING",
        "caller": "PPP009",
        "callee": callee,
        "hasAudio": True,
        "hasVideo": False,
        "mediaProvider": "WebRTC",
        "isMsrp": False,
        "holdForTransfer": False,
    }


@dataclass(frozen=True)
class _Outcome:
    does: str
    status: int
    decision: Decision


async def run_demo(loaded: Loaded, writer: LogWriter) -> None:
    """Start the demo backends, show the verdicts of sample hooks, then serve until a signal."""
    backend = DemoBackend()
    decisions: asyncio.Queue[Decision] = asyncio.Queue()
    try:
        await _start_backends(backend, loaded)
        gateway = Gateway(_with_console_log(loaded), writer, listeners=(decisions.put_nowait,))
        serving = asyncio.create_task(gateway.serve())
        started = asyncio.create_task(gateway.started.wait())
        await asyncio.wait((serving, started), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            samples = asyncio.create_task(_show_samples(gateway, decisions))
            await asyncio.wait((serving, samples), return_when=asyncio.FIRST_COMPLETED)
            if not samples.done():
                samples.cancel()  # a signal came during the samples
            with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                await samples
        started.cancel()
        await serving
    finally:
        await backend.aclose()


def _with_console_log(loaded: Loaded) -> Loaded:
    """The configuration with log lines for people."""
    log = loaded.config.log.model_copy(update={"format": "console"})
    return replace(loaded, config=loaded.config.model_copy(update={"log": log}))


async def _start_backends(backend: DemoBackend, loaded: Loaded) -> None:
    targets = [target for upstream in loaded.config.upstreams.values() for target in upstream.targets]
    addresses = {url.netloc: url for url in (httpx.URL(target.url) for target in targets)}
    for url in addresses.values():
        if url.scheme != "http" or url.host not in ("127.0.0.1", "localhost", "::1"):
            raise StartError(f"demo backends run on loopback only, and {url} is not on loopback")
        await backend.listen(url.host, url.port or 80)


async def _show_samples(gateway: Gateway, decisions: asyncio.Queue[Decision]) -> None:
    base = f"http://{gateway.hook_address}/rest/my_api"
    outcomes: list[_Outcome] = []
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as client:
        await _wait_for_store(client, gateway.admin_address)
        for does, method, hook in _samples():
            response = await client.post(f"{base}/{method}", json=hook)
            outcomes.append(_Outcome(does, response.status_code, await decisions.get()))
    await asyncio.sleep(0.1)  # so that the access log lines come before the table
    console = Console()
    console.print()
    console.print(_table(outcomes))
    console.print(
        f"\nServing. Hooks: {base}/<Method>   Console: http://{gateway.admin_address}/   Ctrl-C to stop.\n"
        "Try this in another terminal (callees: " + ", ".join(entry.callee for entry in BEHAVIOURS) + "):\n"
        f"  curl -i {base}/OnCallEvent -d '"
        '{"appKey":"defaultApp","callee":"REFUSE"}\'\n',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


async def _wait_for_store(client: httpx.AsyncClient, admin: str) -> None:
    """Give the store, if there is one, some seconds: the sample of an event is then kept."""
    for _ in range(_STORE_LOOKS):
        answer = await client.get(f"http://{admin}/api/spool")
        store = answer.json()["store"] if answer.status_code == httpx.codes.OK else {}
        if store.get("up") or not store.get("configured"):
            return
        await asyncio.sleep(_STORE_PAUSE)


def _samples() -> list[tuple[str, str, Mapping[str, Any]]]:
    samples = [
        (entry.does, "OnCallEvent", sample_hook(callee=entry.callee, number=number))
        for number, entry in enumerate(BEHAVIOURS, 1)
    ]
    samples.append(
        (
            "hangs on an event (CallStatusEvent): delivered later",
            "CallStatusEvent",
            sample_hook(callee="HANG", number=90),
        )
    )
    samples.append(("not contacted: app blocked is static", "OnCallEvent", sample_hook("blocked", number=91)))
    samples.append(("not contacted: app stranger is not configured", "OnCallEvent", sample_hook("stranger", number=92)))
    return samples


def _table(outcomes: list[_Outcome]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("backend", "→ answer to the media server", "→ reason", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for row in outcomes:
        ruling = row.decision.ruling
        colour = "green" if row.status == 200 else "red"
        reason = f"{ruling.source}: {ruling.reason}" + (f" ({ruling.error})" if ruling.error else "")
        milliseconds = f"{row.decision.duration * 1000:.1f}"
        table.add_row(row.does, f"[{colour}]{row.status} {ruling.verdict}[/]", reason, milliseconds)
    return table
