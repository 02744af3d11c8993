"""``gateway demo``: an embedded backend that does as the callee says, a gateway before it, hooks and their verdicts."""

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
defaults:
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


class Behaviour(NamedTuple):
    """What the embedded backend does for a callee that begins with this name."""

    callee: str
    does: str


BEHAVIOURS: Final = (
    Behaviour("PPP005", "accepts: 200, the hook's own JSON"),
    Behaviour("REFUSE", "refuses: 403, empty"),
    Behaviour("HANG", "hangs: never answers"),
    Behaviour("NOTICE", "prints a PHP notice before its JSON, status 200"),
    Behaviour("EMPTY", "dies of a fatal error: 200, empty"),
    Behaviour("ERROR", "fails: 500 with an error page"),
    Behaviour("LOGIN", "redirects to a login page: 302"),
    Behaviour("CLOSE", "closes the connection without a byte"),
)


class DemoBackend:
    """A backend on loopback that accepts, refuses, hangs and breaks according to the callee."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Serve there and return the port; raises StartError if that cannot be."""
        try:
            server = await asyncio.start_server(self._serve, host, port, limit=_MAX_REQUEST)
        except OSError as exc:
            raise StartError(f"the demo's backend cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def aclose(self) -> None:
        """Stop, whatever hangs."""
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
        gone = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while (answer := await self._answer(await _read_request(reader))) is not None:
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _answer(self, body: bytes) -> bytes | None:
        callee = str(json.loads(body).get("callee", ""))
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


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return await reader.readexactly(int(value))
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
class _Shown:
    does: str
    status: int
    decision: Decision


async def run_demo(loaded: Loaded, writer: LogWriter) -> None:
    """Play the backends of the configuration, show the samples' verdicts, then serve until a signal."""
    backend = DemoBackend()
    decisions: asyncio.Queue[Decision] = asyncio.Queue()
    try:
        await _play_backends(backend, loaded)
        gateway = Gateway(_readable(loaded), writer, listeners=(decisions.put_nowait,))
        serving = asyncio.create_task(gateway.serve())
        started = asyncio.create_task(gateway.started.wait())
        await asyncio.wait((serving, started), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            showing = asyncio.create_task(_show(gateway, decisions))
            await asyncio.wait((serving, showing), return_when=asyncio.FIRST_COMPLETED)
            if not showing.done():
                showing.cancel()  # a signal came amid the samples
            with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                await showing
        started.cancel()
        await serving
    finally:
        await backend.aclose()


def _readable(loaded: Loaded) -> Loaded:
    """The same with log lines for people."""
    log = loaded.config.log.model_copy(update={"format": "console"})
    return replace(loaded, config=loaded.config.model_copy(update={"log": log}))


async def _play_backends(backend: DemoBackend, loaded: Loaded) -> None:
    targets = [target for upstream in loaded.config.upstreams.values() for target in upstream.targets]
    addresses = {url.netloc: url for url in (httpx.URL(target.url) for target in targets)}
    for url in addresses.values():
        if url.scheme != "http" or url.host not in ("127.0.0.1", "localhost", "::1"):
            raise StartError(f"the demo plays backends on loopback only, and {url} is elsewhere")
        await backend.listen(url.host, url.port or 80)


async def _show(gateway: Gateway, decisions: asyncio.Queue[Decision]) -> None:
    base = f"http://{gateway.hook_address}/rest/my_api"
    shown: list[_Shown] = []
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as client:
        for does, method, hook in _samples():
            response = await client.post(f"{base}/{method}", json=hook)
            shown.append(_Shown(does, response.status_code, await decisions.get()))
    await asyncio.sleep(0.1)  # the access lines of these hooks come before the table, not amid it
    console = Console()
    console.print()
    console.print(_table(shown))
    console.print(
        f"\nServing. Hooks: {base}/<Method>   Console: http://{gateway.admin_address}/   Ctrl-C ends it.\n"
        "Try, in another terminal (callees: " + ", ".join(entry.callee for entry in BEHAVIOURS) + "):\n"
        f"  curl -i {base}/OnCallEvent -d '"
        '{"appKey":"defaultApp","callee":"REFUSE"}\'\n',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _samples() -> list[tuple[str, str, Mapping[str, Any]]]:
    samples = [
        (entry.does, "OnCallEvent", sample_hook(callee=entry.callee, number=number))
        for number, entry in enumerate(BEHAVIOURS, 1)
    ]
    samples.append(
        ("hangs at a mere notification (CallStatusEvent)", "CallStatusEvent", sample_hook(callee="HANG", number=90))
    )
    samples.append(("is not asked: app blocked is static", "OnCallEvent", sample_hook("blocked", number=91)))
    samples.append(("is not asked: app stranger is not configured", "OnCallEvent", sample_hook("stranger", number=92)))
    return samples


def _table(shown: list[_Shown]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("the backend", "→ the media server gets", "→ why", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for row in shown:
        ruling = row.decision.ruling
        colour = "green" if row.status == 200 else "red"
        why = f"{ruling.source}: {ruling.reason}" + (f" ({ruling.error})" if ruling.error else "")
        milliseconds = f"{row.decision.duration * 1000:.1f}"
        table.add_row(row.does, f"[{colour}]{row.status} {ruling.verdict}[/]", why, milliseconds)
    return table
