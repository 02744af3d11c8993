"""Recording through a real gateway, and what was recorded played against real backends."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.recording.replay.test_replay import REFUSED, Backend, Reply, Run, as_json, echo
from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import php_server

PATIENCE: Final = 10.0
_sessions = itertools.count()


def configuration(upstream: str, path: Path | None, workers: int = 1, **record: Any) -> str:
    config: dict[str, Any] = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
        "upstreams": {"old": {"url": upstream}},
        "apps": {
            "defaultApp": {"upstream": "old", "timeout": "10s"},
            "blocked": {"static": "reject"},
            "lenient": {"upstream": "old", "timeout": "10s", "fallback": "allow"},
        },
    }
    if path is not None:
        config["record"] = {"path": str(path), **record}
    return json.dumps(config)


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("hooks.jsonl*"))


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files(directory) for line in path.read_bytes().splitlines()]


def wait_for(directory: Path, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(records(directory)) >= count, PATIENCE)
    found = records(directory)
    assert len(found) == count, found[:3]
    return found


def volley(gateway: RunningGateway, count: int, connections: int = 8) -> list[httpx.Response]:
    """So many hooks, two of each session, over several connections."""

    async def every() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(trust_env=False, timeout=20.0, limits=limits) as client:
            bodies = [
                json.dumps(
                    {"appKey": "defaultApp", "sessionId": f"s{number // 2}", "caller": f"+493012{number % 50:05}"}
                )
                for number in range(count)
            ]
            return await asyncio.gather(*(client.post(f"{gateway.url}/OnCallEvent", content=body) for body in bodies))

    return asyncio.run(every())


@pytest.fixture
def old() -> Iterator[Backend]:
    """The backend of then: refuses whom it does not like, and answers otherwise with a field of its own."""

    def decide(method: str, hook: Any) -> Reply:
        if hook.get("status") == "UNWANTED":
            return 403, b""
        return echo(method, {**hook, "by": "old"}) if hook.get("amend") else echo(method, hook)

    with Backend(decide) as backend:
        yield backend


def test_hooks_are_recorded_with_their_decisions_and_nothing_that_is_secret(tmp_path: Path, old: Backend) -> None:
    with running_gateway(configuration(old.url, tmp_path / "hooks.jsonl"), tmp_path) as gateway:
        numbers: dict[str, Any] = {"caller": "+4930123456", "callee": "112"}
        sent = gateway.hook(headers={"Authorization": "WCS S3cr3t"}, sessionId="s1", authToken="S3cr3t", **numbers)
        gateway.hook(status="UNWANTED")
        gateway.hook(appKey="blocked")
        gateway.hook(method="OnSomethingNew", amend=True)
        assert gateway.hook(appKey="unknown").status_code == 403
        found = wait_for(tmp_path, 4)
        # They are counted once they are written.
        assert wait_until(lambda: gateway.metric("gateway_recorded_hooks_total", outcome="written") == 4, PATIENCE)
    one, refused, static, amended = found
    assert (one["request_id"], one["app"], one["method"]) == (sent.headers["x-request-id"], "defaultApp", "OnCallEvent")
    assert (one["verdict"], one["source"], one["status"], one["upstream"]) == ("allow", "backend", 200, "old")
    assert one["hook"]["caller"].startswith("+49")
    assert (one["hook"]["callee"], one["hook"]["authToken"]) == ("112", "***")
    assert (refused["verdict"], refused["status"], refused["answer"]) == ("reject", 403, None)
    assert static["source"] == "static"
    assert (amended["method"], amended["answer"]["by"]) == ("OnSomethingNew", "old")
    text = (tmp_path / "hooks.jsonl").read_text()
    assert "S3cr3t" not in text
    assert "30123456" not in text
    assert stat.S_IMODE((tmp_path / "hooks.jsonl").stat().st_mode) == 0o600


def test_without_record_nothing_is_written_and_a_reload_turns_it_on_and_off_at_once(
    tmp_path: Path, old: Backend
) -> None:
    path = tmp_path / "hooks.jsonl"
    with running_gateway(configuration(old.url, None), tmp_path) as gateway:

        def reload(text: str) -> None:
            assert gateway.reload(text)["changes"] == ["record changed"]

        gateway.hook(n=1)
        before = threads_of(gateway.pid)
        reload(configuration(old.url, path))
        gateway.hook(n=2)
        wait_for(tmp_path, 1)
        assert threads_of(gateway.pid) == before + 1
        reload(configuration(old.url, path, mask=["n"]))
        gateway.hook(n=123456, caller="+4930123456")
        wait_for(tmp_path, 2)
        reload(configuration(old.url, None))
        gateway.hook(n=4)
        assert wait_until(lambda: threads_of(gateway.pid) == before, PATIENCE)
    two, three = (record["hook"] for record in records(tmp_path))
    assert two["n"] == 2
    assert three["caller"] == "+4930123456"
    assert three["n"] != 123456


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_what_is_queued_when_the_gateway_ends_is_written(tmp_path: Path, old: Backend) -> None:
    with running_gateway(configuration(old.url, tmp_path / "hooks.jsonl"), tmp_path) as gateway:
        volley(gateway, 100)
        assert gateway.stop() == 0
    assert len(records(tmp_path)) == 100


def test_two_workers_write_one_recording_with_the_same_pseudonyms_and_none_of_its_lines_torn(
    tmp_path: Path, old: Backend
) -> None:
    path = tmp_path / "hooks.jsonl"
    config = configuration(old.url, path, workers=2, max_size="64KiB", files=50)
    with running_gateway(config, tmp_path) as gateway:
        answers = volley(gateway, 600, connections=16)
        assert {answer.status_code for answer in answers} == {200}
        served = gateway.metric("gateway_recorded_hooks_total", outcome="written")
        wait_for(tmp_path, 600)
        assert served <= 600
        assert wait_until(lambda: gateway.metric("gateway_recorded_hooks_total", outcome="written") == 600, PATIENCE)
    found = records(tmp_path)
    assert len({record["request_id"] for record in found}) == 600
    assert len({record["run"] for record in found}) == 1
    assert len({record["hook"]["caller"] for record in found}) == 50
    assert len(files(tmp_path)) > 3
    assert all(file.stat().st_size <= 64 * 1024 for file in files(tmp_path))


def test_a_sample_takes_sessions_whole_whichever_worker_has_them(tmp_path: Path, old: Backend) -> None:
    config = configuration(old.url, tmp_path / "hooks.jsonl", workers=2, sample="25%")
    with running_gateway(config, tmp_path) as gateway:
        volley(gateway, 400, connections=16)
        assert gateway.stop() == 0
    sessions = Counter(record["hook"]["sessionId"] for record in records(tmp_path))
    assert set(sessions.values()) == {2}
    assert 20 <= len(sessions) <= 85


def test_failures_only(tmp_path: Path) -> None:
    with FaultyBackend() as backend:
        config = configuration(backend.url_of("close_without_a_byte"), tmp_path / "hooks.jsonl", failures_only=True)
        with running_gateway(config, tmp_path) as gateway:
            gateway.hook(appKey="blocked")
            gateway.hook(appKey="lenient")
            gateway.client.close()  # else its connection would be given its time
            assert gateway.stop() == 0
    (record,) = records(tmp_path)
    assert (record["source"], record["reason"], record["verdict"], record["answer"]) == (
        "fallback", "unreachable", "allow", "same",
    )  # fmt: skip


def test_a_directory_that_goes_away_costs_the_recording_and_no_hook(tmp_path: Path, old: Backend) -> None:
    directory = tmp_path / "records"
    directory.mkdir()
    with running_gateway(configuration(old.url, directory / "hooks.jsonl"), tmp_path) as gateway:
        gateway.hook()
        wait_for(directory, 1)
        directory.rename(tmp_path / "away")
        assert gateway.hook().status_code == 200
        gateway.wait_for_line(lambda line: "hooks are not recorded" in line.get("message", ""))
        assert gateway.metric("gateway_recorded_hooks_total", outcome="dropped") == 1
        os.rename(tmp_path / "away", directory)
        assert gateway.hook().status_code == 200
        wait_for(directory, 2)


def test_what_was_recorded_agrees_with_its_own_backend_and_finds_what_another_does_otherwise(
    tmp_path: Path, old: Backend
) -> None:
    path = tmp_path / "hooks.jsonl"
    with running_gateway(configuration(old.url, path), tmp_path) as gateway:
        for number in range(30):
            status = "UNWANTED" if number % 10 == 3 else "PENDING"
            session = f"s{number}"
            gateway.hook(sessionId=session, caller=f"+49301234{number:02}", status=status, amend=number % 5 == 0)
        gateway.hook(method="connect", sessionId="s1")
        wait_for(tmp_path, 31)
    assert Run(path, "--to", old.url, "--compare", "body").status == 0

    def decide(method: str, hook: Any) -> Reply:
        return echo(method, {**hook, "by": "new"} if hook.get("amend") else hook)

    with Backend(decide) as new:
        report = as_json(path, "--to", new.url, "--compare", "body")
    assert report["disagreements"] == {"bodies differ": 6, REFUSED["verdict"] + " became allow": 3}
    assert report["paths"] == {"by": 6}
    assert report["left_out"] == {"connect": 1}


@pytest.mark.real
def test_hooks_recorded_before_real_php_agree_when_they_are_played_to_it_again(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    callees = ["PPP005", "REFUSE", "BOM", "112", "+4930123456"] * 4
    with php_server() as php:
        # This backend decides by the callee's own words: those must stay.
        with running_gateway(configuration(php.url, path, mask=["caller"]), tmp_path) as gateway:
            for number, callee in enumerate(callees):
                gateway.hook(sessionId=f"s{number}", caller="+4930999999", callee=callee)
            wait_for(tmp_path, len(callees))
        before = len(php.hooks())
        report = as_json(path, "--to", php.url, "--compare", "body", "--concurrency", "4")
        assert len(php.hooks()) == before + len(callees)
    assert report["agreements"] == 16
    assert report["disagreements"] == {}
    assert report["failures"] == {"bad_answer": 4}  # the byte-order marks, which failed then too
