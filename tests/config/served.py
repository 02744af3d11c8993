"""What serving would build of a configuration, built here for good, with hooks decided by it, and no network at all."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import itertools
import json
import logging
import os
import pickle
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
import pytest

from gateway import __version__
from gateway.admin.reload import differences
from gateway.cli.commands.check import check
from gateway.cli.commands.explain import explain
from gateway.config import Config, Loaded
from gateway.http.client.connection import Connection
from gateway.http.client.dialer import Dialer
from gateway.http.client.lookups import LookupThreads
from gateway.server import fd_limits
from gateway.server.hook_service import HookService
from gateway.server.ipc import Build
from gateway.server.main_process import sample_certificates
from gateway.server.pem_cache import PemCache
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics

_ANSWERS: Final = frozenset((200, 401, 403))
_MOST_APPS: Final = 6
_TIME_LIMIT: Final = 20.0
_TROUBLE: Final = ("Traceback", "defect", "exception was never retrieved")


class _CheckedDialer(Dialer):
    """Has OpenSSL take the name that a backend's certificate must bear, which it would at the handshake."""

    async def _dial_tls(self, address: str, tls: ssl.SSLContext, server_name: str) -> Connection:
        tls.wrap_bio(_memory(), _memory(), server_hostname=server_name)
        return await super()._dial_tls(address, tls, server_name)


class _NoNetwork(asyncio.SelectorEventLoop):
    """Every name has an address, at which nobody is; all that is asked for must be valid."""

    async def create_connection(  # type: ignore[override]
        self, factory: Any, host: str, port: int
    ) -> NoReturn:
        ipaddress.ip_address(host)
        assert 0 < port < 65536
        raise ConnectionRefusedError(111, "nobody is there")


async def _look_up(threads: LookupThreads, host: str) -> tuple[str, ...]:
    assert host.isascii(), f"{host!r} would be looked up by the rules of IDNA 2003"
    host.encode("idna")
    return ("127.0.0.1",)


def _memory() -> ssl.MemoryBIO:
    return ssl.MemoryBIO()


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Nothing leaves this process; and what makes it larger or slower for good is left undone."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers[:]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(httpx.HTTPTransport, "handle_request", _refuse)
        patched.setattr("gc.freeze", lambda: None)
        patched.setattr("gc.collect", lambda: 0)  # it would look through all that pytest holds, at each start
        patched.setattr(ssl.SSLContext, "load_default_certs", _trust_nobody)  # as slow: nobody is asked here
        patched.setattr(LookupThreads, "look_up", _look_up)
        patched.setattr("gateway.http.client.pool.Dialer", _CheckedDialer)
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


def _trust_nobody(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    """In place of all the system's authorities."""


def _refuse(transport: httpx.HTTPTransport, request: httpx.Request) -> NoReturn:
    raise httpx.ConnectError(f"nobody is at {request.url}")


def serve(loaded: Loaded, before: Config, directory: Path) -> str:
    """Serve by it, then by the one *before*, and return the log. Raises what a gateway would meet.

    Recordings go to the *directory*.
    """
    log = directory / "log"
    config = _recording_in(directory, loaded.config)
    json.dumps(loaded.masked)
    differences(before, config)
    pickle.loads(pickle.dumps(Build(0, config)))
    PemCache().refresh(config)
    fd_limits.shortage(config)
    with open(log, "wb") as file, asyncio.Runner(loop_factory=_NoNetwork) as runner:
        writer = LogWriter(os.dup(file.fileno()))
        try:
            runner.run(_serve(config, before, writer))
        finally:
            writer.close()
    told = log.read_text("utf-8")
    for trouble in _TROUBLE:
        assert trouble not in told, told
    return told


async def _serve(config: Config, before: Config, writer: LogWriter) -> None:
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: trouble.append(context))
    metrics = Metrics(__version__)
    async with asyncio.timeout(_TIME_LIMIT):
        service = HookService(config, [], metrics, writer)
        await service.start()
        await service.reload(config)
        for app, method in zip(list(config.apps)[:_MOST_APPS], itertools.cycle(("OnCallEvent", "connect"))):
            for name in dict.fromkeys((method, *list(config.apps[app].methods)[:1])):
                await _decide(service, app.replace("*", "").replace("?", "x"), name)
        await asyncio.sleep(0)
        sample_certificates(metrics, config, {})
        metrics.sample()
        metrics.render()
        repr(service.runtime.targets)
        await service.reload(before)
        service.stop(at_once=True)
        await service.wait_for_end()
    assert not trouble


async def _decide(service: HookService, app: str, method: str) -> None:
    application: Any = service._listener.config.app  # what hooks meet behind the front door
    hook = {"appKey": app, "nodeId": "n", "sessionId": "s", "callId": "c", "caller": "+49301", "callee": "112"}
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        answer = await client.post(f"http://gateway/x/{method}", content=json.dumps(hook))
    assert answer.status_code in _ANSWERS, answer
    assert "internal" not in answer.headers.get("proxy-status", "")


def _recording_in(directory: Path, config: Config) -> Config:
    if config.record is None:
        return config
    record = config.record._replace(path=str(directory / "hooks.jsonl"))
    return config.model_copy(update={"record": record})


def told_by_commands(file: Path, loaded: Loaded) -> str:
    """What ``check`` and ``explain`` print of a configuration that is fine."""
    hook = file.with_name("hook.json")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        errors = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        for command in ("check", "explain"):  # it has just been loaded
            patched.setattr(f"gateway.cli.commands.{command}.load_or_fail", lambda path: loaded)
        check(file)
        for app, method in zip(loaded.config.apps, itertools.cycle(("OnCallEvent", "connect", "X"))):
            hook.write_text(json.dumps({"appKey": app, "callee": "112"}), "utf-8")
            explain(str(hook), method, file, None)
    return out.getvalue() + errors.getvalue()
