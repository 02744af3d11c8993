"""The value of a reference may be a secret, in any key: the reference is shown as the file has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.faulty.certificates import make_certificates
from tests.support.gateways import ROOT, running_gateway

SECRETS: Final = {
    name: f"hunter2-{name.lower()}"
    for name in ("RECORD", "TRACES", "SERVICE", "PATH", "HEALTH", "USER", "PASSWORD", "HEADER", "TOKEN", "NAME", "FILE")
}
ENVIRONMENT: Final = {f"SECRET_{name}": value for name, value in SECRETS.items()}
PAGES: Final = "/metrics /api/status /api/upstreams /api/activity /api/insights /api/decisions /api/config".split()


def reference(name: str) -> str:
    return f"${{env:SECRET_{name}}}"


def configuration(directory: Path, workers: int) -> str:
    """A reference in every text that names no host, port, rule or number."""
    tls = {"certificate": f"{directory}/{reference('FILE')}.pem", "key": f"{directory}/{reference('FILE')}.key"}
    upstream = {
        "url": f"https://127.0.0.1:1/{reference('PATH')}",
        "health": {"path": f"/{reference('HEALTH')}", "interval": "1s"},
        "headers": {"X-Key": reference("HEADER")},
        "credentials": {"username": reference("USER"), "password": reference("PASSWORD")},
        "tls": {**tls, "server_name": f"{reference('NAME')}.example"},
    }
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
        "admin": {"token": reference("TOKEN")},
        "record": {"path": f"{directory}/none/{reference('RECORD')}.jsonl"},
        "tracing": {
            "endpoint": f"http://127.0.0.1:1/{reference('TRACES')}",
            "service_name": reference("SERVICE"),
            "sample": 1,
        },
        "upstreams": {"u": upstream},
        "apps": {"a": {"upstream": "u", "timeout": "1s"}},
    }
    return json.dumps(config, indent=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_page_no_line_and_no_command_shows_what_a_reference_stands_for(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    certificate, key = make_certificates(tmp_path).valid
    certificate.rename(tmp_path / f"{SECRETS['FILE']}.pem")
    key.rename(tmp_path / f"{SECRETS['FILE']}.key")
    (tmp_path / "none").mkdir()
    (tmp_path / "hook.json").write_text('{"appKey": "a"}')
    said: dict[str, str] = {}
    with running_gateway(configuration(tmp_path, workers), tmp_path) as gateway:
        (tmp_path / "none").rmdir()  # so that the recording cannot be written
        for _ in range(3):
            gateway.hook(appKey="a")
        for words in ("hooks are not recorded", "does not accept spans"):
            gateway.wait_for_line(lambda line, words=words: words in line.get("message", ""))  # type: ignore[misc]
        (tmp_path / "none").mkdir()
        headers = {"Authorization": f"Bearer {SECRETS['TOKEN']}"}
        for page in PAGES:
            answer = gateway.get(page, headers=headers)
            assert answer.status_code == 200, page
            said[page] = answer.text
        for command in ("check", "explain hook.json"):
            done = subprocess.run(
                [sys.executable, "-m", "gateway", *command.split(), "-c", str(gateway.config)],
                capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            said[command] = done.stdout + done.stderr
        gateway.write_config(configuration(tmp_path, workers).replace('"a": {', '"a": {"oops": 1, '))
        said["reload"] = gateway.post("/-/reload", headers=headers).text
        gateway.client.close()
        assert gateway.stop() == 0
        said["log"] = gateway.log.read_text()
    shown = [(where, value) for where, text in said.items() for value in SECRETS.values() if value in text]
    assert shown == []
    assert reference("RECORD") in said["check"]
    assert reference("PATH") in said["explain hook.json"]
    assert reference("RECORD") in said["/api/insights"]
