"""nginx with the configuration that we give to operators, in front of gateways of a test."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.gateways import ROOT, wait_until
from tests.support.programs import free_port, missing, require

FILES: Final = ROOT / "deploy" / "nginx"
MODULE: Final = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")
EXAMPLE: Final = """            {host = "192.0.2.11", port = 8080, admin = 9180},
            {host = "192.0.2.12", port = 8080, admin = 9180},
"""
"""The gateways of the example."""


class Nginx(NamedTuple):
    """nginx that runs."""

    port: int
    health: str
    """What keepalived asks."""
    errors: Path

    @property
    def url(self) -> str:
        """What a media server is given; a hook goes to ``{url}/{method}``."""
        return f"http://127.0.0.1:{self.port}/rest/my_api"

    def log(self) -> str:
        """What it has logged of itself."""
        return self.errors.read_text(errors="replace")


def nginx_program() -> str:
    """Its path; skips the test where it, or its Lua, is missing."""
    if not MODULE.exists():
        missing("nginx's module for Lua", "libnginx-mod-http-lua")
    if not list(Path("/usr/lib").glob("*/lua/5.1/cjson.so")):
        missing("Lua's cjson", "lua-cjson")
    return require("nginx", "nginx")


def installed(directory: Path, gateways: Sequence[tuple[str, str]], port: int, health: int) -> Path:
    """The example's configuration in *directory*, for these ports of gateways (hooks, admin) on 127.0.0.1."""
    lines = (f'            {{host = "127.0.0.1", port = {hooks}, admin = {admin}}},\n' for hooks, admin in gateways)
    changes = {
        EXAMPLE: "".join(lines),
        "user www-data;\n": "" if os.geteuid() else "user root;\n",
        "worker_rlimit_nofile 16384;\n": "",
        "pid /run/nginx.pid;": f"pid {directory}/nginx.pid;",
        "error_log /var/log/nginx/error.log": f"error_log {directory}/error.log",
        "access_log /var/log/nginx/access.log": f"access_log {directory}/access.log",
        "/etc/nginx/?.lua": f"{FILES}/?.lua",
        "127.0.0.1:8404": f"127.0.0.1:{health}",
        "0.0.0.0:8080": f"127.0.0.1:{port}",
    }
    text = (FILES / "nginx.conf").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"nginx.conf has another form now: {old!r}"
        text = text.replace(old, new)
    (directory / "nginx.conf").write_text(text)
    return directory / "nginx.conf"


def nginx_complaints(text: str) -> str:
    """What nginx says against the operators' configuration with this *text* at its end; nothing if all is well."""
    program = nginx_program()
    with tempfile.TemporaryDirectory(prefix="wcs-nginx-") as name:
        file = installed(Path(name), [("1", "2")], free_port(), free_port())
        file.write_text(file.read_text() + text)
        done = subprocess.run([program, "-t", "-q", "-c", str(file)], capture_output=True, text=True, timeout=30)
        logs = [log.read_text() for log in Path(name).glob("error.log")]
    return done.stdout + done.stderr + "".join(logs)


@contextmanager
def nginx(gateways: Sequence[tuple[str, str]]) -> Iterator[Nginx]:
    """nginx before gateways with these ports (hooks, admin), of 127.0.0.1."""
    program = nginx_program()
    with tempfile.TemporaryDirectory(prefix="wcs-nginx-") as name:
        directory = Path(name)
        port, health = free_port(), free_port()
        file = installed(directory, gateways, port, health)
        process = subprocess.Popen(
            [program, "-c", str(file), "-g", "daemon off;"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            errors = directory / "error.log"
            assert wait_until((directory / "nginx.pid").exists), errors.read_text()
            yield Nginx(port, f"http://127.0.0.1:{health}/health", errors)
        finally:
            process.terminate()
            process.wait(30)
