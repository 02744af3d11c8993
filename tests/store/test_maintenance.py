"""What an operator does with a store: each command on a real one, sound or damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store.engine import Databases, Kind, Part, StoreError, open_databases
from gateway.store.maintenance import backup, check, hold, move_aside, prune, restore
from gateway.store.messages import Settle
from gateway.store.migrate import migrate, newest
from gateway.store.requests import EventFilter
from gateway.store.schema import META, spool_count
from gateway.store.spool import Spool
from tests.store.spooled import START, make_event


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return f"sqlite:{tmp_path}/store/store.db"


@pytest.fixture
def store(url: str) -> Iterator[Databases]:
    """A store with three events."""
    databases = open_databases(url)
    for database in databases.parts:
        migrate(database)
    keep(databases, 3)
    yield databases
    databases.close()


def keep(databases: Databases, events: int, **options: float) -> None:
    spool = Spool(databases.spool, clock=lambda: START)
    for at in range(events):
        with databases.spool.write() as connection:
            spool.add(connection, [make_event(f"call {at}", **options)])  # type: ignore[arg-type]


def calls(url: str) -> list[str | None]:
    databases = open_databases(url)
    try:
        with databases.spool.read() as connection:
            return [view.event.call_id for view in Spool(databases.spool).list_events(connection, EventFilter()).events]
    finally:
        databases.close()


def damage(file: Path) -> None:
    """Overwrite the middle of a database."""
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(8 * 4096))


# --- check ---


def test_a_sound_store(url: str, store: Databases) -> None:
    found = check(url)
    spool, history = found.parts
    assert found.is_sound
    assert not found.is_held
    assert (spool.part, spool.rows, spool.oldest, spool.schema) == ("spool", 3, START, newest(Part.SPOOL))
    assert spool.place == str(store.spool.file)
    assert spool.size > 0
    assert (history.part, history.rows, history.oldest, history.schema) == ("history", 0, None, newest(Part.HISTORY))


def test_nothing_is_made_where_there_is_no_store(url: str, tmp_path: Path) -> None:
    found = check(url)
    assert found.is_sound
    assert [(part.rows, part.size, part.schema) for part in found.parts] == [(None, 0, None)] * 2
    assert list((tmp_path / "store").iterdir()) == []


def test_a_damaged_file_is_named_and_the_other_one_is_sound(url: str, store: Databases) -> None:
    store.close()
    damage(store.spool.file)
    spool, history = check(url).parts
    assert str(store.spool.file) in spool.problems[0]
    assert not check(url).is_sound
    assert history.problems == []


def test_counts_that_differ_from_the_events_are_reported(url: str, store: Databases) -> None:
    with store.spool.write() as connection:
        connection.execute(spool_count.update().values(events=7))
    assert check(url).parts[0].problems == ["1 counts of the spool differ from its events"]


def test_a_newer_database_is_a_problem_in_words(url: str, store: Databases) -> None:
    meta = META[Part.HISTORY]
    with store.history.write() as connection:
        connection.execute(meta.update().values(number=99))
    assert "belongs to a newer gateway" in check(url).parts[1].problems[0]


@pytest.mark.parametrize("store_url", [pytest.param("postgresql", marks=pytest.mark.process)], indirect=True)
def test_a_store_on_postgresql(databases: Databases, store_url: str) -> None:
    for database in databases.parts:
        migrate(database)
    keep(databases, 2)
    found = check(store_url)
    assert found.is_sound
    assert [(part.rows, part.schema) for part in found.parts] == [(2, newest(Part.SPOOL)), (0, newest(Part.HISTORY))]
    assert found.parts[0].size > 0
    assert found.is_held  # by this test
    assert prune(store_url, ["app"]).is_spool_left_out
    databases.close()
    assert not check(store_url).is_held
    assert prune(store_url, ["app"]).events == 2  # they came long ago
    with pytest.raises(StoreError, match="back it up with pg_dump"):
        backup(store_url, Path("/nowhere"))
    with pytest.raises(StoreError, match="restore it with pg_restore"):
        restore(store_url, Path("/nowhere"))
    with pytest.raises(StoreError, match="no file to move aside"):
        move_aside(store_url, Part.SPOOL)
    with hold(store_url), hold(store_url):
        pass


# --- who owns it ---


def test_a_store_has_one_owner(url: str) -> None:
    with hold(url):
        assert check(url).is_held
        with (
            pytest.raises(StoreError, match=rf"another process \(pid {os.getpid()}\) uses the store at") as caught,
            hold(url),
        ):
            pass
        assert caught.value.kind is Kind.BUSY
    assert not check(url).is_held
    with hold(url):
        pass


def test_what_replaces_files_waits_for_the_gateway_to_end(url: str, store: Databases, tmp_path: Path) -> None:
    backup(url, tmp_path / "backup")
    with hold(url):
        for action in (lambda: restore(url, tmp_path / "backup"), lambda: move_aside(url, Part.SPOOL)):
            with pytest.raises(StoreError, match="stop that gateway"):
                action()
    assert calls(url) == ["call 0", "call 1", "call 2"]


# --- prune ---


def test_prune_drops_what_is_too_old_and_gives_room_back(url: str, store: Databases) -> None:
    keep(store, 200, max_age=60.0)
    store.close()
    pruned = prune(url, ["app"])
    assert pruned.events == 203
    assert pruned.bytes > 0
    assert not pruned.is_spool_left_out
    assert calls(url) == []


def test_prune_leaves_other_apps_and_a_gateway_that_runs_alone(url: str, store: Databases) -> None:
    assert prune(url, ["another"]).events == 0
    with hold(url):
        assert prune(url, ["app"]).is_spool_left_out
    assert len(calls(url)) == 3


# --- backup and restore ---


def test_a_backup_brings_back_what_there_was(url: str, store: Databases, tmp_path: Path) -> None:
    made = backup(url, tmp_path / "backup")
    assert (made.events, made.decisions) == (3, 0)
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    with store.spool.write() as connection:
        Spool(store.spool).settle(connection, [Settle(1, "delivered")])
    keep(store, 1)
    store.close()
    assert calls(url) == ["call 1", "call 2", "call 0"]
    restored = restore(url, tmp_path / "backup")
    assert restored.events == 3
    assert calls(url) == ["call 0", "call 1", "call 2"]
    assert check(url).is_sound
    kept = [Path(name) for name in restored.moved]
    assert [path.suffix for path in kept[:1]] == [f".before-restore-{kept[0].suffix.rpartition('-')[2]}"]
    assert all(path.exists() for path in kept)
    assert not list(tmp_path.glob(".*"))  # nothing temporary stays
    assert not list((tmp_path / "store").glob(".*"))


def test_a_restore_needs_no_store_before(url: str, store: Databases, tmp_path: Path) -> None:
    backup(url, tmp_path / "backup")
    elsewhere = f"sqlite:{tmp_path}/new.db"
    assert restore(elsewhere, tmp_path / "backup").moved == []
    assert calls(elsewhere) == ["call 0", "call 1", "call 2"]


def test_a_backup_beside_a_gateway_that_writes_is_one_state(url: str, store: Databases, tmp_path: Path) -> None:
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            keep(store, 20)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.1)
        made = backup(url, tmp_path / "backup")
    finally:
        ending.set()
        writer.join()
    elsewhere = f"sqlite:{tmp_path}/new.db"
    restore(elsewhere, tmp_path / "backup")
    with contextlib.closing(sqlite3.connect(tmp_path / "new.spool.db")) as restored:
        assert restored.execute("SELECT count(*) FROM spool_event").fetchone() == (made.events,)
    assert made.events >= 3
    assert check(elsewhere).is_sound


def test_what_is_no_backup_or_was_changed_replaces_nothing(url: str, store: Databases, tmp_path: Path) -> None:
    backup(url, tmp_path / "backup")
    data = (tmp_path / "backup").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"this is no backup" * 1000,
        "cut": data[: len(data) // 2],
        "changed": data[:20000] + bytes([data[20000] ^ 1]) + data[20001:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError, match=rf"{name} is no backup of a store, or is damaged"):
            restore(url, tmp_path / name)
    with pytest.raises(StoreError, match="nowhere: no such file or directory"):
        restore(url, tmp_path / "nowhere")
    with tarfile.open(tmp_path / "strange", "w") as archive:
        archive.add(tmp_path / "text", "../../evil")
    with pytest.raises(StoreError, match="strange is no backup of a store"):
        restore(url, tmp_path / "strange")
    assert calls(url) == ["call 0", "call 1", "call 2"]
    assert not list((tmp_path / "store").glob("*before*"))


def test_a_backup_of_a_damaged_store_is_not_written(url: str, store: Databases, tmp_path: Path) -> None:
    store.close()
    damage(store.spool.file)
    with pytest.raises(StoreError, match="is damaged"):
        backup(url, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_where_there_is_nothing_there_is_no_backup(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is nothing to back up"):
        backup(url, tmp_path / "backup")
    with pytest.raises(StoreError, match=r"missing.*: no such file or directory"):
        backup(url, tmp_path / "missing" / "backup")


# --- moving aside ---


def test_a_damaged_file_is_moved_aside_and_the_other_one_stays(url: str, store: Databases) -> None:
    store.close()
    damage(store.spool.file)
    moved = move_aside(url, Part.SPOOL)
    assert [Path(name).name.startswith("store.spool.db.damaged-") for name in moved] == [True] * len(moved)
    assert not store.spool.file.exists()
    assert store.history.file.exists()
    migrate(store.spool)
    assert check(url).is_sound
