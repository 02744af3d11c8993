"""``gateway store``: real stores on disk, sound and damaged ones, with and without a process that has them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.policy.history import Bodies
from gateway.store.maintenance import hold
from tests.cli.commands import Run, gateway
from tests.support.direct_store import KEY, DirectStore
from tests.support.gateways import ROOT
from tests.support.kept_events import event
from tests.telemetry.test_journal import decision

CONFIG: Final = f"""
store: {{url: "sqlite:store.db"}}
history: {{key: "{KEY}", bodies: all}}
defaults: {{spool: on}}
upstreams: {{php: {{url: "http://127.0.0.1:9"}}}}
apps: {{a: {{upstream: php}}}}
"""
NUMBER: Final = "+4930987654"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a configuration with a filled store lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    store = DirectStore(tmp_path, bodies=Bodies.ALL)
    store.keep(event(1), event(2))
    store.decide(decision(request_id="one", fields={"caller": NUMBER}), decision(request_id="two"))
    store.close()
    return tmp_path


def damage(file: Path) -> None:
    with file.open("r+b") as data:
        data.write(b"garbage" * 1000)


def checked() -> Run:
    return gateway("store", "check")


def test_a_sound_store_is_described(place: Path) -> None:
    run = checked()
    assert (run.status, run.err) == (0, "")
    spool, history = (line.split() for line in run.out.splitlines()[1:])
    assert (spool[:3], spool[-1]) == (["spool", "sound", "2"], str(place / "store.spool.db"))
    assert (history[:3], history[-1]) == (["history", "sound", "2"], str(place / "store.history.db"))
    assert json.loads(gateway("store", "check", "--json").out)["sound"] is True


def test_a_damaged_file_is_reported_and_moved_aside_only_if_told_to(place: Path) -> None:
    damage(place / "store.history.db")
    run = checked()
    assert run.status == 1
    assert "DAMAGED" in run.out
    assert "is damaged" in run.out
    assert (place / "store.history.db").exists()
    moved = gateway("store", "check", "--move-aside")
    assert moved.status == 0
    assert "moved aside: " in moved.out
    assert not (place / "store.history.db").exists()
    assert checked().status == 0
    assert "nothing is damaged" in gateway("store", "check", "--move-aside").out


def test_a_damaged_file_is_not_moved_away_under_a_gateway(place: Path) -> None:
    damage(place / "store.history.db")
    with hold(f"sqlite:{place}/store.db"):
        run = gateway("store", "check", "--move-aside")
    assert run.status == 1
    assert "stop that gateway" in run.err
    assert (place / "store.history.db").exists()


def test_a_store_that_was_never_used_is_no_error(place: Path) -> None:
    for file in place.glob("store.*"):
        file.unlink()
    assert checked().status == 0
    assert gateway("store", "forget", "--caller", NUMBER).out == "removed from 0 decisions\n"


def test_what_is_too_old_is_dropped(place: Path) -> None:
    with contextlib.closing(sqlite3.connect(place / "store.spool.db")) as database, database:
        database.execute("UPDATE spool_event SET expires = received + 3600")  # as if kept in 2023, when they came
    run = gateway("store", "prune")
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("2 events dropped, ")
    assert json.loads(gateway("store", "prune", "--json").out)["events"] == 0


def test_decisions_that_are_too_old_are_removed(place: Path) -> None:
    assert gateway("store", "prune").status == 0  # they are of 2023
    history = checked().out.splitlines()[2].split()
    assert history[:3] == ["history", "sound", "0"]


def test_a_backup_is_private_and_brings_everything_back(place: Path) -> None:
    run = gateway("store", "backup", "b.tar")
    assert (run.status, run.err) == (0, "")
    assert run.out.endswith(", 2 events and 2 decisions\n")
    assert (place / "b.tar").stat().st_mode & 0o077 == 0
    for file in place.glob("store.*.db"):
        damage(file)
    restored = gateway("store", "restore", "b.tar", "--yes")
    assert (restored.status, restored.err) == (0, "")
    assert restored.out.startswith("restored: 2 events and 2 decisions, as of ")
    assert restored.out.count("kept: ") == 2
    assert checked().status == 0


def test_a_restore_asks_first_and_is_refused_while_the_store_is_in_use(place: Path) -> None:
    gateway("store", "backup", "b.tar")
    run = gateway("store", "restore", "b.tar")
    assert (run.status, run.err) == (2, "gateway: store restore replaces spool and history: confirm with --yes\n")
    with hold(f"sqlite:{place}/store.db"):
        run = gateway("store", "restore", "b.tar", "--yes")
    assert (run.status, run.out) == (1, "")
    assert "stop that gateway" in run.err


@pytest.mark.slow
def test_a_backup_on_a_full_disk_leaves_nothing_behind(place: Path) -> None:
    run = subprocess.run(
        ["bash", "-c", f"ulimit -f 20; exec {sys.executable} -m gateway store backup b.tar"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert run.stderr.startswith("gateway: ")
    assert sorted(path.name for path in place.iterdir() if "b.tar" in path.name) == []


def test_a_number_is_forgotten(place: Path) -> None:
    run = gateway("store", "forget", "--caller", "0049 30 987654")
    assert (run.status, run.out) == (0, "removed from 1 decision\n")
    assert json.loads(gateway("store", "forget", "--callee", NUMBER, "--json").out) == {"decisions": 0}


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["check", "-c", "missing.yaml"], 2, "missing.yaml: not found"),
        (["check", "-c", "plain.yaml"], 2, "gateway: plain.yaml: no store is configured"),
        (["forget"], 2, "gateway: store forget: name the number: --caller NUMBER"),
        (["forget", "--caller", "sip:"], 2, "gateway: sip:: is not a phone number"),
        (["forget", "--caller", "1", "-c", "bare.yaml"], 2, "gateway: bare.yaml: history is not configured"),
        (["backup", "gateway.yaml"], 2, "gateway: gateway.yaml: exists already; nothing was written"),
        (["backup", "nowhere/b.tar"], 2, "gateway: nowhere/b.tar: its folder does not exist"),
        (["restore", "missing.tar"], 2, "gateway: missing.tar: not found"),
        (["restore", "."], 2, "gateway: .: is no file"),
        (["restore", "gateway.yaml", "--yes"], 1, "gateway: gateway.yaml is no backup of a store"),
    ],
)
def test_mistakes_have_a_message_and_no_traceback(place: Path, args: list[str], status: int, message: str) -> None:
    (place / "plain.yaml").write_text("apps: {}\n")
    (place / "bare.yaml").write_text('store: {url: "sqlite:store.db"}\n')
    run = gateway("store", *args)
    assert (run.status, run.out) == (status, "")
    assert run.err.startswith(message)
