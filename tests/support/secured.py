"""TLS towards a gateway: files that can be replaced under it, configurations, clients and whether they are served."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from tests.support.faulty import Certificates, FaultyBackend
from tests.support.gateways import Answer, RunningGateway, read_answer, wait_until

IMPATIENT: Final = (
    sys.executable,
    "-c",
    "from gateway import cli\nfrom gateway.server import hook_service\n"
    "hook_service.LOOK_AT_CERTIFICATES_EVERY = 0.1\ncli.main()",
)
"""The gateway itself, but it looks every 0.1 s whether certificates' files have changed."""
HANDSHAKE_LIMIT: Final = 2
"""Seconds: read_timeout where a handshake is to run out of time."""
BODY: Final = b'{"appKey":"defaultApp"}'
HOOK: Final = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY), BODY,
)  # fmt: skip


class Files:
    """The PEM files that a gateway's configuration names, to be replaced under it."""

    def __init__(self, directory: Path, pair: tuple[Path, Path], client_ca: Path | None = None) -> None:
        self.certificate, self.key = directory / "server.pem", directory / "server.key"
        self.client_ca = None if client_ca is None else directory / "client-ca.pem"
        self._stamp = time.time() - 1000
        self.install(pair)
        if self.client_ca is not None and client_ca is not None:
            self.put(client_ca.read_bytes(), self.client_ca)

    def install(self, pair: tuple[Path, Path]) -> None:
        self.put(pair[0].read_bytes(), self.certificate)
        self.put(pair[1].read_bytes(), self.key)

    def put(self, data: bytes, path: Path) -> None:
        """A new file renamed into place, with a time of its own, however coarse the file system's clock is."""
        new = path.with_suffix(".new")
        new.write_bytes(data)
        self._stamp += 1
        os.utime(new, (self._stamp, self._stamp))
        os.replace(new, path)

    @property
    def section(self) -> dict[str, str]:
        section = {"certificate": str(self.certificate), "key": str(self.key)}
        return section if self.client_ca is None else {**section, "client_ca": str(self.client_ca)}


def config(
    tls: dict[str, Any] | None, workers: int = 1, backend: FaultyBackend | None = None, case: str = "ok", **more: Any
) -> str:
    """A gateway with an app ``defaultApp``, which allows, or asks the backend; *more* goes into ``server``."""
    server: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "workers": workers,
        "read_timeout": "30s",
        "drain_timeout": "2s",
        **more,
    }
    if tls is not None:
        server["tls"] = tls
    app: dict[str, Any] = {"static": "allow"}
    upstreams = {}
    if backend is not None:
        app, upstreams = {"upstream": "u"}, {"u": {"url": backend.url_of(case), "breaker": "off"}}
    return json.dumps(
        {"server": server, "defaults": {"dedupe": "off"}, "upstreams": upstreams, "apps": {"defaultApp": app}}
    )


def client(trusted: Certificates, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted.ca)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


@contextlib.contextmanager
def secured(
    gateway: RunningGateway, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[tuple[ssl.SSLSocket, BinaryIO]]:
    with (
        gateway.connect() as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as sock,
        sock.makefile("rb") as stream,
    ):
        yield sock, stream


def answer_over_tls(gateway: RunningGateway, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Answer:
    with secured(gateway, context, session) as (sock, stream):
        sock.sendall(HOOK)
        return read_answer(stream)


def is_served(gateway: RunningGateway, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    """Whether a hook gets through, to a handshake and an answer."""
    try:
        return answer_over_tls(gateway, context, session).status == 200
    except (OSError, AssertionError):  # TLS 1.3: a client learns only while reading that it is refused
        return False


def hang_up(gateway: RunningGateway) -> None:
    """SIGHUP, and wait for its reload."""
    reloads = functools.partial(gateway.metric, "gateway_config_reloads_total")
    before = reloads()
    gateway.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: reloads() > before)
