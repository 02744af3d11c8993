"""Odd standard streams and ports in use, in real processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml

from tests.cli.commands import PATIENCE, shell
from tests.support.gateways import ROOT, wait_until


def test_a_reader_that_has_seen_enough_is_no_mistake(tmp_path: Path) -> None:
    run = shell("gateway schema | head -n 1", tmp_path)
    assert (run.status, run.out, run.err) == (0, "{\n", "")


REDIRECTED: Final = {
    "gone": "(trap '' PIPE; {}) | true; exit ${{PIPESTATUS[0]}}",
    "closed": "{} >&-",
    "full": "{} >/dev/full",
}


RECORDED: Final = {
    "v": 1, "run": "0a1b2c3d", "time": "2026-01-31T02:41:00Z", "request_id": "r1", "app": "a", "appKey": "a",
    "method": "OnCallEvent", "hook": {"appKey": "a"}, "verdict": "allow", "source": "backend", "reason": "ok",
    "error": "", "status": 200, "answer": "same", "upstream": "u", "target": "t", "duration_ms": 1, "upstream_ms": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("stdout", "command"),
    [
        ("gone", "gateway schema"),
        ("closed", "gateway schema"),
        ("closed", "gateway check"),
        ("closed", "gateway explain hook.json"),
        ("closed", "gateway replay recorded.jsonl --to http://127.0.0.1:1"),
        ("closed", "gateway replay recorded.jsonl --to http://127.0.0.1:1 --json -"),
        ("full", "gateway schema"),
        ("full", "gateway check"),
        ("full", "gateway explain hook.json"),
    ],
)
@pytest.mark.usefixtures("hook_file")
def test_no_command_stumbles_over_its_standard_output(stdout: str, command: str, config: Path) -> None:
    (config.parent / "recorded.jsonl").write_text(json.dumps(RECORDED))
    run = shell(REDIRECTED[stdout].format(command), config.parent)  # Run itself refuses a traceback
    assert run.status in (0, 1)
    assert len([line for line in run.err.splitlines() if not line.endswith("(warning)")]) <= 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_a_terminal_cannot_show_stops_no_command(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("apps: {Zürich–Łódź: {static: allow}}\n", encoding="utf-8")
    run = shell(f"PYTHONIOENCODING={encoding} gateway check", tmp_path)
    assert (run.status, run.err) == (0, "")
    assert "rich" in run.out
    assert ("Zürich–Łódź" in run.out) == (encoding == "utf-8")


@pytest.mark.parametrize("command", ["explain - -c gateway.yaml", "send - -u http://127.0.0.1:1"])
def test_a_closed_standard_input_is_told_as_bad_usage(command: str, config: Path) -> None:
    run = shell(f"gateway {command} <&-", config.parent)
    assert run.status == 2
    assert run.out == ""
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"])
def test_a_gateway_serves_on_when_nobody_takes_its_log(redirected: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        hooks, admin = one.getsockname()[1], other.getsockname()[1]
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"server: {{listen: '127.0.0.1:{hooks}', admin: '127.0.0.1:{admin}'}}\napps: {{open: {{static: allow}}}}\n"
    )
    command = f"exec {sys.executable} -m gateway run -c {path} {redirected}"
    process = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        with httpx.Client(trust_env=False, timeout=10.0) as client:
            assert wait_until(lambda: is_ready(client, admin), PATIENCE)
            for _ in range(20):
                answer = client.post(f"http://127.0.0.1:{hooks}/connect", content=b'{"appKey": "open"}')
                assert (answer.status_code, answer.content) == (200, b'{"appKey": "open"}')
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, err) == (0, b"")


def is_ready(client: httpx.Client, admin: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{admin}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_port_that_is_taken_is_a_failure_at_run_time_that_names_it(key: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "gateway.yaml"
        ports = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", key: address}
        path.write_text(yaml.safe_dump({"server": ports, "apps": {"open": {"static": "allow"}}}))
        run = shell(f"gateway run -c {path}", tmp_path)
    assert (run.status, run.out) == (1, "")
    assert len(run.err.splitlines()) == 1
    assert run.err.startswith("gateway: ")
    assert address in run.err
    assert f"server.{key}" in run.err
