"""Plays power cuts: what a process wrote below a directory is rebuilt with any part lost of what was not synced.

``shim()`` compiles the library that writes the journal (``powercut.c``), ``environment`` has a process load it, and
``PowerCuts`` rebuilds the directory as a disk may have it after the power was cut at some moment.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import mmap
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.programs import require

_SOURCE: Final = Path(__file__).parent / "powercut.c"
_RECORD: Final = struct.Struct("<QQQII")
SECTOR: Final = 512
"""Bytes that a disk writes wholly or not at all."""
(OPEN, CREATE, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNC_FAILED, UNLINK, RENAME, SYNC_DIRECTORY) = range(1, 11)
_LOSSES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How likely it is that an unsynced write is lost: one of these for each cut."""


@functools.cache
def shim() -> Path:
    """The compiled library; skips the test where there is no compiler."""
    compiler = require("gcc", "gcc and libc6-dev")
    directory = Path(tempfile.mkdtemp(prefix="wcs-powercut-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = directory / "powercut.so"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    done = subprocess.run([*command, "-lpthread"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return library


def environment(directory: Path, journal: Path, faults: Path | None = None) -> dict[str, str]:
    """What a process must find in its environment, so that its changes below *directory* are journalled."""
    values = {
        "LD_PRELOAD": str(shim()),
        "POWERCUT_DIRECTORY": str(directory.resolve()),
        "POWERCUT_JOURNAL": str(journal),
    }
    return values if faults is None else {**values, "POWERCUT_FAULTS": str(faults)}


class Faults:
    """What goes wrong with the writes and syncs of a process from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(12))

    def set(self, *, sync: int = 0, write: int = 0, delay: float = 0.0) -> None:
        """The errno of each sync and of each write; 0: they succeed. *delay*: seconds that each sync takes longer."""
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), 12) as control:
            control[:] = struct.pack("<iii", sync, write, round(delay * 1000))


class _Record(NamedTuple):
    time: float
    """Of ``time.monotonic()``."""
    file: int
    offset: int
    kind: int
    data: bytes


@dataclass
class _Change:
    """A write, or with ``data`` None a truncation."""

    offset: int
    data: bytes | None
    durable: bool = False


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    """As it surely is on the disk."""
    pending: list[_Change] = field(default_factory=list)
    applied: int = 0
    """Changes that are in ``content``, or were made before."""
    begun: dict[int, int] = field(default_factory=dict)
    """By the number of a sync: how many changes there were when it began."""


@dataclass
class _Entry:
    """A change of a directory: ``file`` is at ``name`` from now on; None: nothing is."""

    name: str
    file: _File | None
    durable: bool = False
    source: str | None = None
    """Of a renaming."""


class PowerCuts:
    """Reads a journal once, from its begin to its end, and rebuilds the directory at rising moments."""

    def __init__(self, journal: Path, seed: int = 0) -> None:
        self._dice = random.Random(seed)
        self._records = list(_read(journal))
        self._next = 0
        self._open: dict[int, _File] = {}
        """By inode."""
        self._entries: list[_Entry] = []
        self.syncs = sum(record.kind == SYNC_END for record in self._records)

    @property
    def times(self) -> list[float]:
        """The moments of all records."""
        return [record.time for record in self._records]

    def moments(self, count: int) -> list[float]:
        """So many moments, rising, chosen by chance among those of the records."""
        return sorted(self._dice.choice(self._records).time for _ in range(count))

    def rebuild(self, moment: float, directory: Path) -> None:
        """Write into an empty directory what the disk may have if the power is cut at this moment."""
        while self._next < len(self._records) and self._records[self._next].time <= moment:
            self._take(self._records[self._next])
            self._next += 1
        loss = self._dice.choice(_LOSSES)
        names: dict[str, _File] = {}
        for entry in self._entries:
            if entry.durable or self._dice.random() >= loss:
                if entry.source is not None:
                    names.pop(entry.source, None)
                if entry.file is None:
                    names.pop(entry.name, None)
                else:
                    names[entry.name] = entry.file
        for name, file in names.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content(file, loss))

    def _content(self, file: _File, loss: float) -> bytes:
        content = bytearray(file.content)
        for change in file.pending:
            if change.durable or self._dice.random() >= loss:
                _apply(change, content)
            elif change.data is not None and self._dice.random() < 0.5:
                self._tear(change, content)
        return bytes(content)

    def _tear(self, change: _Change, content: bytearray) -> None:
        """Of a lost write some sectors are on the disk all the same."""
        assert change.data is not None
        start, end = change.offset, change.offset + len(change.data)
        for sector in range(start // SECTOR * SECTOR, end, SECTOR):
            if self._dice.random() < 0.5:
                first, last = max(sector, start), min(sector + SECTOR, end)
                _apply(_Change(first, change.data[first - start : last - start]), content)

    # --- the journal ---

    def _take(self, record: _Record) -> None:
        file = self._open.get(record.file)
        if record.kind == CREATE or (record.kind == OPEN and file is None):
            file = self._open[record.file] = _File()
            # One that was there before the journal began is not supported: its content would be unknown.
            assert record.kind == CREATE, f"{record.data!r} was there before the journal began"
            self._entries.append(_Entry(record.data.decode(), file))
        elif record.kind == UNLINK:
            self._entries.append(_Entry(record.data.decode(), None))
        elif record.kind == RENAME:
            source, target = record.data.decode().split("\0")
            self._entries.append(_Entry(target, self._at(source), source=source))
        elif record.kind == SYNC_DIRECTORY:
            for entry in self._entries:
                entry.durable = True
        elif file is not None:
            self._change(file, record)

    def _at(self, name: str) -> _File | None:
        """The file of this name, as the running system sees it."""
        found: _File | None = None
        for entry in self._entries:
            if entry.name == name:
                found = entry.file
            elif entry.source == name:
                found = None
        return found

    def _change(self, file: _File, record: _Record) -> None:
        if record.kind == WRITE:
            file.pending.append(_Change(record.offset, record.data))
        elif record.kind == TRUNCATE:
            file.pending.append(_Change(record.offset, None))
        elif record.kind == SYNC_BEGIN:
            file.begun[record.offset] = file.applied + len(file.pending)
        elif record.kind == SYNC_END:
            self._make_durable(file, file.begun.pop(record.offset))
        elif record.kind == SYNC_FAILED:
            # The kernel marks the pages as clean: no later sync writes them.
            end = file.begun.pop(record.offset) - file.applied
            for change in file.pending[:end]:
                if not change.durable and self._dice.random() < 0.5:
                    change.offset, change.data = 0, b""

    def _make_durable(self, file: _File, end: int) -> None:
        """The changes up to this number are on the disk, and so is the name of the file (as on ext4, XFS, Btrfs)."""
        for change in file.pending[: max(0, end - file.applied)]:
            change.durable = True
        done = 0
        while done < len(file.pending) and file.pending[done].durable:
            _apply(file.pending[done], file.content)
            done += 1
        del file.pending[:done]
        file.applied += done
        for entry in self._entries:
            if entry.file is file and entry.source is None:
                entry.durable = True


def _apply(change: _Change, content: bytearray) -> None:
    if change.data is None:
        if change.offset < len(content):
            del content[change.offset :]
        else:
            content.extend(bytes(change.offset - len(content)))
        return
    if len(content) < change.offset:
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _read(journal: Path) -> Iterator[_Record]:
    with contextlib.closing(journal.open("rb")) as file:
        while head := file.read(_RECORD.size):
            time, inode, offset, length, kind = _RECORD.unpack(head)
            yield _Record(time / 1e9, inode, offset, kind, file.read(length))
