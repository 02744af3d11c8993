"""How each contender, and the backend behind all of them, is configured and started."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.bench.hooks import app_name
from tests.bench.processes import (
    BenchError,
    Cpus,
    accepts,
    ask,
    await_that,
    closed_port,
    filled,
    free_port,
    program,
    running,
)

_HERE: Final = Path(__file__).resolve().parent
_PIECE: Final = 1500
"""Bytes of an answer per variable: nginx takes no word longer than 4095."""


class Kind(StrEnum):
    """Who takes part."""

    GATEWAY = "gateway"
    HAPROXY = "haproxy"
    AIOHTTP = "aiohttp"
    """On asyncio's own event loop, as its documentation runs it."""
    AIOHTTP_UVLOOP = "aiohttp-uvloop"
    TUTORIAL = "tutorial"
    """Starlette and httpx."""


_PROGRAMS: Final = {
    Kind.AIOHTTP: ("aiohttp_proxy.py",),
    Kind.AIOHTTP_UVLOOP: ("aiohttp_proxy.py", "--uvloop"),
    Kind.TUTORIAL: ("tutorial_proxy.py",),
}
"""Files beside this one, and options after their arguments."""


class Behind(StrEnum):
    """What stands behind the contender."""

    KEEPALIVE = "keepalive"
    CLOSE = "close"
    """Closes the connection after every answer."""
    REFUSE = "refuse"
    """Answers 403."""
    DOWN = "down"
    """Nobody listens: the gateway's breaker is open, HAProxy's server is marked as down."""


@dataclass(frozen=True)
class Setting:
    """How one contender is set up."""

    behind: Behind = Behind.KEEPALIVE
    apps: int = 10
    access_log: bool = False
    tls: bool = False
    workers: int = 1


@dataclass(frozen=True)
class Ports:
    """The backend's ports, all on 127.0.0.1."""

    keepalive: int
    close: int
    refuse: int
    down: int

    def of(self, behind: Behind) -> int:
        port: int = getattr(self, behind.value)
        return port


@dataclass
class Workshop:
    """What everything that is started has in common."""

    directory: Path
    cpus: Cpus
    gateway: str
    """The command."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def path(self, name: str) -> Path:
        """A new file's path."""
        return self.directory / f"{next(self.numbers)}-{name}"

    def cpus_of(self, setting: Setting) -> str:
        return self.cpus.contender if setting.workers == 1 else self.cpus.both


@dataclass(frozen=True)
class Contender:
    """One that runs."""

    kind: Kind
    setting: Setting
    process: subprocess.Popen[bytes]
    port: int
    admin: int = 0
    """The gateway's admin port."""
    config: Path | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def expected_status(self) -> int:
        """What every hook must be answered with."""
        if self.setting.behind is Behind.DOWN:
            return 503 if self.kind is Kind.HAPROXY else 403
        return 403 if self.setting.behind is Behind.REFUSE else 200


@contextlib.contextmanager
def backend(shop: Workshop, answer_size: int) -> Iterator[Ports]:
    """The nginx behind everyone, on the load's CPU; its yes has so many bytes."""
    directory = shop.path("nginx")
    directory.mkdir()
    answer = _answer(answer_size)
    pieces = [answer[at : at + _PIECE] for at in range(0, len(answer), _PIECE)]
    with closed_port() as down:
        ports = Ports(free_port(), free_port(), free_port(), down)
        text = filled(
            "nginx.conf",
            directory=directory,
            keepalive=ports.keepalive,
            close=ports.close,
            refuse=ports.refuse,
            pieces="\n".join(f"        set $piece{n} '{_quoted(piece)}';" for n, piece in enumerate(pieces)),
            answer="".join(f"${{piece{n}}}" for n in range(len(pieces))),
        )
        file = shop.path("nginx.conf")
        file.write_text(text)
        output = shop.path("nginx.log")
        command = [program("nginx", "nginx-light"), "-e", "stderr", "-p", str(directory), "-c", str(file)]
        with running(command, cpus=shop.cpus.load, output=output) as process:
            await_that(lambda: accepts(ports.refuse), process, output)
            yield ports


@contextlib.contextmanager
def contender(
    shop: Workshop, kind: Kind, setting: Setting, ports: Ports, certificate: Certificate
) -> Iterator[Contender]:
    """Start one, and wait until it serves."""
    to = ports.of(setting.behind)
    if kind is Kind.GATEWAY:
        with gateway(shop, setting, to, certificate) as started:
            yield started
        return
    port = free_port()
    output = shop.path(f"{kind}.log")
    if kind is Kind.HAPROXY:
        command = _haproxy(shop, setting, port, to, certificate)
    else:
        names = shop.path("apps")
        names.write_text("\n".join(app_name(number) for number in range(setting.apps)))
        command = [
            sys.executable,
            str(_HERE / _PROGRAMS[kind][0]),
            str(port),
            str(to),
            str(names),
            *_PROGRAMS[kind][1:],
        ]
    with running(command, cpus=shop.cpus_of(setting), output=output) as process:
        await_that(lambda: accepts(port), process, output)
        yield Contender(kind, setting, process, port)


@contextlib.contextmanager
def gateway(
    shop: Workshop,
    setting: Setting,
    to: int,
    certificate: Certificate | None = None,
    *,
    server: str = "",
    more: str = "",
    upstream: str = "",
    app_timeout: str = "3s",
    poll: float = 0.02,
) -> Iterator[Contender]:
    """Start a gateway as a user does, and wait until it is ready; *poll*: seconds between two looks.

    *server* and *upstream* are further lines of these sections, *more* is further sections.
    """
    port, admin = free_port(), free_port()
    if setting.tls:
        assert certificate is not None
        server += f"\n  tls: {{certificate: {certificate.chain}, key: {certificate.key}}}"
    config = shop.path("gateway.yaml")
    config.write_text(
        filled(
            "gateway.yaml",
            port=port,
            admin=admin,
            workers=setting.workers,
            server=server,
            access="all" if setting.access_log else "off",
            more=more,
            backend=to,
            upstream=upstream,
        )
        + apps_section(setting.apps, app_timeout)
    )
    output = shop.path("gateway.log")
    with running([shop.gateway, "run", "-c", str(config)], cpus=shop.cpus_of(setting), output=output) as process:
        await_that(lambda: ask(admin, "/-/ready").status == 200, process, output, poll)
        yield Contender(Kind.GATEWAY, setting, process, port, admin, config)


def apps_section(count: int, timeout: str = "3s") -> str:
    """The gateway's apps, as YAML."""
    lines = (f"  {app_name(number)}: {{upstream: legacy, timeout: {timeout}}}\n" for number in range(count))
    return "apps:\n" + "".join(lines)


def _haproxy(shop: Workshop, setting: Setting, port: int, to: int, certificate: Certificate) -> list[str]:
    names = shop.path("apps.map")
    names.write_text("".join(f"{app_name(number)} legacy\n" for number in range(setting.apps)))
    file = shop.path("haproxy.cfg")
    file.write_text(
        filled(
            "haproxy.cfg",
            workers=setting.workers,
            log_to="log stdout format raw local0" if setting.access_log else "",
            log_format="log global\n    option httplog" if setting.access_log else "",
            port=port,
            tls=f"ssl crt {certificate.combined}" if setting.tls else "",
            map=names,
            backend=to,
            server="disabled" if setting.behind is Behind.DOWN else "",
        )
    )
    return [program("haproxy", "haproxy"), "-db", "-f", str(file)]


@dataclass(frozen=True)
class Certificate:
    """A certificate for loopback, as files."""

    chain: Path
    key: Path
    combined: Path
    """Both in one."""


def make_certificate(directory: Path) -> Certificate:
    """Make one with openssl; raises BenchError where that fails."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem", directory / "combined.pem")
    command = [
        *(program("openssl", "openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(made.key), "-out", str(made.chain)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise BenchError(f"openssl makes no certificate: {done.stderr.strip()[-300:]}")
    made.combined.write_text(made.chain.read_text() + made.key.read_text())
    return made


def _answer(size: int) -> str:
    """A JSON object of so many bytes, its long text full of line ends as an SDP is."""
    empty = json.dumps({"callId": "any", "status": "PENDING", "sdp": ""})
    room = size - len(empty)
    line = "a=candidate:1 1 udp 2130706431 127.0.0.1 31000 typ host\\r\\n"
    lines = line * (room // len(line))
    return empty[:-2] + lines + "x" * (room - len(lines)) + empty[-2:]


def _quoted(text: str) -> str:
    """As nginx reads it between single quotes."""
    return text.replace("\\", "\\\\").replace("'", "\\'")
