"""The simulated power cut: it takes what was not synced, and nothing else.

The writer is SQLite as the store uses it; without syncs the same writer must be seen to lose rows.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.support.powercut import Faults, PowerCuts, environment

CUTS: Final = 25
ROWS: Final = 150

WRITER: Final = """
import os, sqlite3, sys, time
path, done, synchronous, rows = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute(f"PRAGMA synchronous={synchronous}")
database.execute("PRAGMA wal_autocheckpoint=40")
database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, value BLOB)")
log = os.open(done, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(int(rows)):
    database.execute("INSERT INTO rows VALUES (?, ?)", (number, number.to_bytes(4, "big") * 700))
    os.write(log, f"{number} {time.monotonic()}\\n".encode())
"""
"""Writes a line with its time for each row that is committed."""


def write_rows(tmp_path: Path, synchronous: str) -> list[float]:
    """When each row was committed."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = [sys.executable, "-c", WRITER, str(directory / "rows.db"), str(tmp_path / "done"), synchronous, str(ROWS)]
    subprocess.run(command, env={**os.environ, **environment(directory, tmp_path / "journal")}, check=True)
    return [float(line.split()[1]) for line in (tmp_path / "done").read_text().splitlines()]


def rows_after(cuts: PowerCuts, moment: float, directory: Path) -> list[tuple[int, bytes]] | None:
    """What the database has after a cut at this moment; None where SQLite finds it damaged."""
    directory.mkdir()
    cuts.rebuild(moment, directory)
    with closing(sqlite3.connect(directory / "rows.db")) as database:
        try:
            if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return None
            if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                return []
            return database.execute("SELECT id, value FROM rows ORDER BY id").fetchall()
        except sqlite3.DatabaseError:
            return None


def losses(tmp_path: Path, committed: Sequence[float]) -> tuple[int, int]:
    """How many rows that had been committed are lost, in all cuts together, and how many databases are damaged."""
    cuts = PowerCuts(tmp_path / "journal", seed=1)
    lost = damaged = 0
    for number, moment in enumerate(cuts.moments(CUTS)):
        rows = rows_after(cuts, moment, tmp_path / f"cut-{number}")
        if rows is None:
            damaged += 1
            continue
        assert rows == [(row, row.to_bytes(4, "big") * 700) for row in range(len(rows))], "rows that were never written"
        lost += max(0, sum(one < moment for one in committed) - len(rows))
    return lost, damaged


def test_what_was_synced_is_there_after_any_cut(tmp_path: Path) -> None:
    committed = write_rows(tmp_path, "FULL")
    assert len(committed) == ROWS
    assert PowerCuts(tmp_path / "journal").syncs >= ROWS
    assert losses(tmp_path, committed) == (0, 0)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_without_a_sync_for_each_commit_rows_are_lost(tmp_path: Path, synchronous: str) -> None:
    """The counterpart: if this finds no loss, the one above proves nothing."""
    lost, damaged = losses(tmp_path, write_rows(tmp_path, synchronous))
    assert lost > CUTS
    assert (damaged > 0) == (synchronous == "OFF"), "NORMAL loses only the last commits"


def test_a_sync_that_fails_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    faults = Faults(tmp_path / "faults")
    program = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.write(fd, b'a' * 4096)\n"
        "os.fsync(fd)\n"
        "os.write(fd, b'b' * 512)\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        "for call in (lambda: os.fsync(fd), lambda: os.write(fd, b'c')):\n"
        "    try: call()\n"
        "    except OSError as exc: print(exc.errno)\n"
        "sys.stdout.flush(); sys.stdin.readline()\n"
        "os.fsync(fd)\n"
        "os.rename(sys.argv[1], sys.argv[1] + '2')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory / "file")],
        env={**os.environ, **environment(directory, tmp_path / "journal", faults.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        faults.set(sync=errno.EIO, write=errno.ENOSPC)
        process.stdin.write("\n")
        process.stdin.flush()
        assert [int(process.stdout.readline()) for _ in range(2)] == [errno.EIO, errno.ENOSPC]
        faults.set()
        process.stdin.write("\n")
    found = set()
    for seed in range(30):
        cut = tmp_path / f"cut-{seed}"
        cut.mkdir()
        PowerCuts(tmp_path / "journal", seed).rebuild(time.monotonic(), cut)
        (path,) = cut.iterdir()
        found.add((path.name, path.read_bytes()))
    contents = {content for _, content in found}
    assert contents == {b"a" * 4096, b"a" * 4096 + b"b" * 512}, (
        "the later sync does not make up for the one that failed"
    )
    assert {name for name, _ in found} == {"file", "file2"}, "nor does a sync of the file save a later name"
