"""``gateway spool`` and ``gateway decisions`` with a store: what operators see and do after an outage."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.recording.format import decode_record
from tests.cli.commands import gateway
from tests.cli.watched import ask
from tests.support.direct_store import KEY, DirectStore
from tests.support.gateways import LISTEN, ROOT, RunningGateway, running_gateway, wait_until
from tests.telemetry.test_journal import decision

CONFIG: Final = (
    LISTEN
    + f"""
store: {{url: "sqlite:store.db"}}
history: {{key: "{KEY}"}}
defaults: {{spool: on, timeout: 1s}}
upstreams: {{php: {{url: "http://127.0.0.1:9/rest", breaker: off}}}}
apps: {{billing: {{upstream: php}}, blocked: {{static: reject}}}}
"""
)
NUMBER: Final = "+4930123456"
OLD: Final = 1234
"""Decisions of the history, more than one page has."""
CALLS: Final = ("c1", "c1", "c2", "c3")

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that keeps four events, and does not deliver them; with a history of two hours ago."""
    directory = tmp_path_factory.mktemp("kept")
    store = DirectStore(directory)
    began = time.time() - 7200
    store.decide(*(decision(time=began + number / 100, request_id=f"old-{number}", app="old") for number in range(OLD)))
    store.close()
    with running_gateway(CONFIG, directory) as running:
        assert wait_until(lambda: running.get("/api/spool").json()["store"]["up"]), running.log.read_text()
        assert ask(running, "spool", "pause").out == "redelivery of all events is paused\n"
        for number, call in enumerate(CALLS):
            answer = running.hook("CallStatusEvent", appKey="billing", callId=call, caller=NUMBER, number=number)
            assert answer.status_code == 200
        yield running


def lines(running: RunningGateway, *args: str) -> list[str]:
    run = ask(running, "spool", *args)
    assert run.status == 0, run
    return run.out.splitlines()


def test_the_status_says_how_much_waits_and_that_it_is_paused(kept: RunningGateway) -> None:
    shown = lines(kept, "status")
    assert re.fullmatch(r"spool +4 events wait \([0-9.]+ KiB\), the oldest for .+ · paused", shown[0])
    assert re.fullmatch(r"store +sqlite, up; spool [0-9.]+ [KM]iB, history [0-9.]+ [KM]iB.*", shown[1])
    assert "all redelivery is paused: gateway spool resume" in shown
    assert not any(line.startswith("forecast") for line in shown)
    assert any(re.match(r"php +4 .* paused *$", line) for line in shown)
    assert any(re.match(r"store +4 events wait .* paused", line) for line in ask(kept, "status").out.splitlines())
    assert json.loads(ask(kept, "spool", "status", "--json").out)["events"] == 4


def test_events_are_listed_and_filtered(kept: RunningGateway) -> None:
    shown = lines(kept, "list")
    assert len(shown) == 4
    assert all(NUMBER not in line for line in shown)
    assert [re.search("call=(.*?) ", line)[1] for line in shown] == list(CALLS)  # type: ignore[index]
    assert re.match(r" +1  \S+  waiting +php +billing +CallStatusEvent +unreachable +0 failures", shown[0])
    assert re.match(r" +2  \S+  queued ", shown[1])
    assert len(lines(kept, "list", "--call-id", "c1", "--json")) == 2
    assert lines(kept, "list", "--app", "blocked") == []
    assert ask(kept, "spool", "list", "--dead").err == "gateway: no kept event matches\n"
    cut = ask(kept, "spool", "list", "-n", "3")
    assert (len(cut.out.splitlines()), cut.err) == (
        3, "gateway: there are more: these are the first 3 events; use filters or --limit\n"
    )  # fmt: skip


def test_one_event_is_shown_masked_and_whole(kept: RunningGateway) -> None:
    masked = "\n".join(lines(kept, "show", "1"))
    assert re.search(r"caller +[*]+56\n", masked)
    assert NUMBER not in masked
    whole = "\n".join(lines(kept, "show", "1", "--unmasked"))
    assert f'"caller": "{NUMBER}"' in whole
    assert json.loads(ask(kept, "spool", "show", "1", "--json").out)["masked"] is True
    missing = ask(kept, "spool", "show", "99")
    assert (missing.status, missing.out) == (1, "")
    assert missing.err.endswith(": no such event: it was delivered or dropped, or never kept\n")


def test_an_export_is_private_whole_and_a_recording(kept: RunningGateway, tmp_path: Path) -> None:
    run = ask(kept, "spool", "export", "-o", "events.jsonl")
    assert (run.status, run.out, run.err) == (0, "", "gateway: 4 events written\n")
    exported = (tmp_path / "events.jsonl").read_bytes()
    assert [json.loads(bytes(decode_record(line).hook))["callId"] for line in exported.splitlines()] == list(CALLS)
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o077 == 0
    again = ask(kept, "spool", "export", "-o", "events.jsonl")
    assert (again.status, again.err) == (2, "gateway: events.jsonl: exists already; nothing was written\n")
    assert ask(kept, "spool", "export", "--call-id", "c2").out.encode() in exported
    failed = gateway("spool", "export", "-o", "none.jsonl", "--admin", "127.0.0.1:1")
    assert failed.status == 1
    assert not (tmp_path / "none.jsonl").exists()


def test_decisions_come_from_the_history_by_whole_number_and_as_csv(kept: RunningGateway) -> None:
    wait_until(lambda: len(ask(kept, "decisions", "--caller", NUMBER, "--json").out.splitlines()) == 4)
    found = ask(kept, "decisions", "--caller", "0049 30 123456", "--since", "2d", "--csv")
    assert (found.status, found.err) == (0, "")
    assert [line.split(",")[6] for line in found.out.splitlines()] == ["call_id", *CALLS]
    nothing = ask(kept, "decisions", "--caller", "+49301234")
    assert nothing.status == 0
    assert re.search(
        r"no decision matches; the journal goes back to .*, the history (goes back to|is empty)", nothing.err
    )
    assert "--from-log FILE" in nothing.err
    missing = ask(kept, "decisions", "no-such-id")
    assert missing.status == 1
    assert "request no-such-id is neither in the journal nor in the history; the history" in missing.err


def test_the_log_says_the_same_as_the_admin_port(kept: RunningGateway) -> None:
    asked = ask(kept, "decisions", "--csv", "--since", "1h").out
    assert asked.count("\n") == 5
    assert gateway("decisions", "--from-log", kept.log, "--csv").out == asked


def test_as_many_pages_are_read_as_it_takes(kept: RunningGateway) -> None:
    everything = ask(kept, "decisions", "--app", "old", "--json", "-n", "100000")
    ids = [json.loads(line)["request_id"] for line in everything.out.splitlines()]
    assert ids == [f"old-{number}" for number in range(OLD)]
    newest = ask(kept, "decisions", "--app", "old", "--json", "-n", "1100")
    assert newest.out.splitlines() == everything.out.splitlines()[-1100:]
    assert (
        len(ask(kept, "decisions", "--since", "3h", "--until", "119m", "-n", "9999", "--json").out.splitlines()) == OLD
    )
    assert ask(kept, "decisions", "--since", "3h", "--until", "150m").out == ""


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 4), (b"y\n", 3)])
def test_dropping_asks_at_a_terminal(kept: RunningGateway, answer: bytes, left: int) -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "gateway", "spool", "drop", "--call-id", "c2", "--admin", kept.admin]
        dropping = subprocess.Popen(
            command, stdin=theirs, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        os.write(ours, answer)
        _, errors = dropping.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"Delete 1 event without delivering it? [y/N]" in errors
    assert (dropping.returncode, len(lines(kept, "list"))) == (1 if left == 4 else 0, left)
    if left == 3:  # for the tests that follow
        kept.hook("CallStatusEvent", appKey="billing", callId="c2", caller=NUMBER, number="again")


def test_a_decision_in_full_names_the_spool(kept: RunningGateway) -> None:
    request_id = json.loads(ask(kept, "decisions", "-n", "1", "--json").out)["request_id"]
    assert re.search(r"verdict +allow \(spool, unreachable\)", ask(kept, "decisions", request_id).out)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["drop"], 2, "spool drop: say which events: ids, --app, "),
        (["drop", "--waiting"], 2, "spool drop: say which events"),
        (["retry"], 2, "spool retry: say which events"),
        (["drop", "--all", "--app", "a"], 2, "use either --all or filters, not both"),
        (["drop", "1"], 2, "spool drop deletes events without delivering them: confirm with --yes"),
        (["drop", "--yes", "--app", "nobody"], 1, "no kept event matches"),
        (["pause", "--app", "a", "--upstream", "b"], 2, "use either --upstream or --app, not both"),
    ],
)
def test_mistakes_have_a_message_and_change_nothing(
    kept: RunningGateway, args: list[str], status: int, message: str
) -> None:
    run = ask(kept, "spool", *args)
    assert (run.status, run.out) == (status, "")
    assert run.err.startswith(f"gateway: {message}")
    assert len(lines(kept, "list")) == 4


def test_without_a_gateway_or_a_store_each_command_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    for command in (["status"], ["list"], ["show", "1"], ["retry", "1"], ["drop", "1", "-y"], ["export"], ["pause"]):
        run = gateway("spool", *command, "--admin", "127.0.0.1:1")
        assert (run.status, run.out) == (1, "")
        assert run.err.startswith("gateway: no gateway answers at http://127.0.0.1:1: ")
    with running_gateway(LISTEN, tmp_path_factory.mktemp("bare")) as bare:
        run = ask(bare, "spool", "status")
        assert (run.status, run.err) == (0, "")
        assert run.out.startswith("spool    none is configured: no event is kept")
        for command in (["list"], ["drop", "--all", "-y"], ["resume"]):
            run = ask(bare, "spool", *command)
            assert (run.status, run.out) == (1, "")
            assert "no store is configured: nothing is kept" in run.err


def test_after_the_outage_events_are_dropped_retried_and_delivered(kept: RunningGateway) -> None:
    assert ask(kept, "spool", "drop", "--call-id", "c3", "--yes").out == "1 event dropped\n"
    assert json.loads(ask(kept, "spool", "retry", "--app", "billing", "--json").out) == {
        "result": "retried",
        "events": 3,
    }
    assert ask(kept, "spool", "resume").out == "redelivery of all events is resumed\n"
    assert ask(kept, "spool", "resume").out == "redelivery of all events was not changed: it is resumed\n"
    kept.reload(CONFIG.replace("upstream: php}, blocked", "static: allow}, blocked"))
    status = httpx.get(f"http://{kept.admin}/api/spool").json()
    assert (status["paused"], status["events"]) == (False, 3)
    logged = [line["event"] for line in kept.lines() if str(line.get("event")).startswith("spool_")]
    assert {"spool_pause", "spool_export", "spool_drop", "spool_retry", "spool_resume"} <= set(logged)
