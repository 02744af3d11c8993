"""What an operator does with a store: check, prune, backup, restore, moving a damaged file aside.

Each function opens the store itself, by its URL, so that it works while no gateway runs; all but ``restore`` and
``move_aside`` also work beside one that runs. All raise StoreError.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec
import sqlalchemy as sa

from gateway.store.decisions import ID_STEP
from gateway.store.engine import (
    BUSY_TIMEOUT,
    Database,
    Databases,
    Kind,
    Part,
    StoreError,
    StoreUrl,
    checkpoint,
    open_databases,
    parse_url,
    shrink,
    translated,
)
from gateway.store.migrate import migrate, read_version
from gateway.store.schema import history_block, spool_event
from gateway.store.spool import Spool
from gateway.store.spool_queries import inconsistencies

_FORMAT: Final = 1
"""Of backups."""
_MANIFEST: Final = "manifest.json"
_PAGES: Final = 256
"""That are copied at once."""
_PROBLEMS: Final = 20
_LONG: Final = 600.0
"""Seconds that a query of a check may take."""


_OTHER_SESSIONS: Final = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name LIKE 'wcs-gateway%'"
)


class PartCheck(msgspec.Struct, frozen=True):
    """How one of the two databases is."""

    part: str
    """``spool`` or ``history``."""
    place: str
    """The file, or the server without its password."""
    problems: list[str]
    """What is wrong, in plain words; empty where nothing is."""
    size: int
    """Bytes."""
    rows: int | None
    """Kept events, or decisions; None where they cannot be counted."""
    oldest: float | None
    """Unix time of the oldest one."""
    schema: int | None
    """Version of the tables; None where there are none yet."""


class StoreCheck(msgspec.Struct, frozen=True):
    """How a store is."""

    engine: str
    parts: list[PartCheck]
    is_held: bool
    """Whether a gateway that runs uses it."""

    @property
    def is_sound(self) -> bool:
        """Whether no problem was found."""
        return not any(part.problems for part in self.parts)


class Pruned(msgspec.Struct, frozen=True):
    """What ``prune`` removed."""

    events: int
    bytes: int
    """That the files have become smaller."""
    is_spool_left_out: bool
    """Whether this was left to the gateway that runs; it drops what is too old by itself."""


class BackupReport(msgspec.Struct, frozen=True):
    """A backup that was written or restored."""

    file: str
    bytes: int
    time: float
    """Unix time at which it was made."""
    events: int
    decisions: int
    moved: list[str] = []
    """Restore: where the files that were there before are now."""


class _Copy(msgspec.Struct, frozen=True):
    """One database in a backup."""

    part: str
    file: str
    size: int
    sha256: str
    rows: int


class _Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int
    time: float
    copies: list[_Copy]


# --- who owns it ---


@contextmanager
def hold(url: str) -> Iterator[None]:
    """Own the store until the end of the block. StoreError where another process does. Nothing on PostgreSQL, which
    several gateways share."""
    where = parse_url(url)
    if where.path is None:
        yield
        return
    descriptor = _take_lock(where)
    try:
        yield
    finally:
        os.close(descriptor)


def _take_lock(where: StoreUrl) -> int:
    database = Database(where, Part.SPOOL)
    with translated(database):
        where.lock_file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(where.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # the pid is for people; a full disk must not matter
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as exc:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreError(
            f"another process (pid {owner or 'unknown'}) uses the store at {where}: stop that gateway, or give each"
            f" gateway a store of its own, or PostgreSQL to all",
            Kind.BUSY,
        ) from exc
    return descriptor


def _is_used(databases: Databases) -> bool:
    """Whether a gateway has the store open. To be asked before this process has other connections to it."""
    where = databases.where
    if where.path is None:
        with databases.spool.read() as connection:
            return bool(connection.scalar(_OTHER_SESSIONS))
    if not where.lock_file.exists():
        return False
    try:
        descriptor = os.open(where.lock_file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- check and prune ---


def check(url: str) -> StoreCheck:
    """Read everything and say what is wrong. Long for large databases; harms nothing, also beside a gateway."""
    databases = open_databases(url)
    try:
        try:
            is_used = _is_used(databases)
        except StoreError:  # each part will say so
            is_used = False
        parts = [_check(database) for database in databases.parts]
        return StoreCheck(databases.where.engine, parts, is_used)
    finally:
        databases.close()


def _check(database: Database) -> PartCheck:
    problems: list[str] = []
    size, rows, oldest, schema = 0, None, None, None
    try:
        schema = read_version(database)
        size = database.size()
        if schema is not None:
            with database.read(_LONG) as connection, translated(database):
                if database.is_sqlite:
                    found = connection.exec_driver_sql(f"PRAGMA integrity_check({_PROBLEMS})").scalars()
                    problems += [f"{database.file}: {line}" for line in found if line != "ok"]
                rows, oldest = count_rows(connection, database.part)
                if database.part is Part.SPOOL:
                    problems += inconsistencies(connection)
    except StoreError as exc:
        problems.append(str(exc))
    place = str(database.file if database.is_sqlite else database.where)
    return PartCheck(
        part=database.part, place=place, problems=problems, size=size, rows=rows, oldest=oldest, schema=schema
    )


def count_rows(connection: sa.Connection, part: Part) -> tuple[int, float | None]:
    """Kept events or decisions, and the Unix time of the oldest one."""
    if part is Part.SPOOL:
        row = connection.execute(sa.select(sa.func.count(), sa.func.min(spool_event.c.received))).one()
        return int(row[0]), row[1]
    of_blocks = sa.select(sa.func.sum(history_block.c.decisions), sa.func.min(history_block.c.first))
    decisions, first = connection.execute(of_blocks).one()
    return int(decisions or 0), None if first is None else first / ID_STEP / 1e6


def prune(url: str, apps: Collection[str], history: Callable[[sa.Connection], bool] | None = None) -> Pruned:
    """Drop events of these configured apps that are too old, and give free room back to the file system.

    *history*: ``History.maintain``, to do the same for decisions. All of it is left to a gateway that runs.
    """
    databases = open_databases(url)
    try:
        if _is_used(databases):
            return Pruned(0, 0, is_spool_left_out=True)
        before = _sizes(databases)
        with hold(url):
            for database in databases.parts:
                migrate(database)
            events = _expire(databases.spool, apps)
            while history is not None and _step(databases.history, history):
                pass
            for database in databases.parts:
                while database.is_sqlite and _step(database, shrink):
                    pass
                if database.is_sqlite:
                    with contextlib.closing(database.connect()) as connection:
                        checkpoint(connection)
        return Pruned(events, max(before - _sizes(databases), 0), is_spool_left_out=False)
    finally:
        databases.close()


def _expire(database: Database, apps: Collection[str]) -> int:
    spool = Spool(database)
    events = 0
    while True:
        with database.write() as connection:
            step = spool.expire(connection, apps)
        events += step.events
        if step.next is None:
            return events


def _step(database: Database, action: Callable[[sa.Connection], bool]) -> bool:
    with database.write() as connection:
        return action(connection)


def _sizes(databases: Databases) -> int:
    return databases.spool.size() + databases.history.size()


# --- backup and restore ---


def backup(url: str, file: Path) -> BackupReport:
    """Copy both databases, each in one state, into one file (a tar with a list of checksums), beside a gateway.

    SQLite only; for PostgreSQL the StoreError says to use pg_dump.
    """
    databases = open_databases(url)
    if databases.where.path is None:
        raise StoreError("the store is on PostgreSQL: back it up with pg_dump, as your other databases")
    made = time.time()
    with _errors_of(file), tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as name:
        folder = Path(name)
        try:
            copies = [_copy(database, folder) for database in databases.parts if read_version(database) is not None]
        finally:
            databases.close()
        if not copies:
            raise StoreError(f"{databases.where}: there is nothing to back up")
        partial = folder / "backup.tar"
        with partial.open("wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            manifest = msgspec.json.encode(_Manifest(_FORMAT, made, copies))
            entry = tarfile.TarInfo(_MANIFEST)
            entry.size, entry.mode, entry.mtime = len(manifest), 0o600, int(made)
            archive.addfile(entry, io.BytesIO(manifest))
            for copy in copies:
                archive.add(folder / copy.file, copy.file)
        _sync(partial)
        size = partial.stat().st_size
        partial.chmod(0o600)  # it has what callers said
        partial.replace(file)
        _sync(file.parent)
    return _report(file, size, made, copies)


def _copy(database: Database, folder: Path) -> _Copy:
    """One database, as it is at one moment."""
    target = folder / f"store.{database.part}.db"
    with translated(database):
        source = sqlite3.connect(database.file, timeout=BUSY_TIMEOUT, isolation_level=None)
        copy = sqlite3.connect(target, isolation_level=None)
        with contextlib.closing(source), contextlib.closing(copy):
            # One transaction: what the gateway commits meanwhile would have the copy begin again.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(copy, pages=_PAGES)
            copy.execute("PRAGMA journal_mode = DELETE")
            _refuse_damage(copy, database.file)
    with _connection(target) as connection:
        rows, _ = count_rows(connection, database.part)
    return _Copy(part=database.part, file=target.name, size=target.stat().st_size, sha256=_checksum(target), rows=rows)


def restore(url: str, file: Path) -> BackupReport:
    """Put a backup in the place of both databases, once it has been verified. The old files are kept beside them.

    Refused while a gateway owns the store. Events that were delivered since the backup are delivered again.
    """
    where = parse_url(url)
    if where.path is None:
        raise StoreError("the store is on PostgreSQL: restore it with pg_restore or psql")
    beside = where.path.parent
    with hold(url), _errors_of(beside), tempfile.TemporaryDirectory(prefix=".restore.", dir=beside) as name:
        folder = Path(name)
        manifest = _unpack(file, folder)
        fresh = open_databases(f"sqlite:{folder}/store.db")
        try:
            versions = [read_version(database) for database in fresh.parts]  # refuses what needs a newer gateway
        finally:
            fresh.close()
        moved: list[str] = []
        databases = open_databases(url)
        ending = f".before-restore-{int(time.time())}"
        for old, new, version in zip(databases.parts, fresh.parts, versions, strict=True):
            if version is None:  # the backup does not have it
                continue
            owner = (old.file if old.file.exists() else old.file.parent).stat()
            moved += _rename(old, ending)
            _sync(new.file)
            if os.geteuid() == 0:
                os.chown(new.file, owner.st_uid, owner.st_gid)
            new.file.chmod(0o600)
            new.file.replace(old.file)
        _sync(beside)
    report = _report(file, file.stat().st_size, manifest.time, manifest.copies)
    return msgspec.structs.replace(report, moved=moved)


def _unpack(file: Path, folder: Path) -> _Manifest:
    """The databases of a backup, verified. Raises StoreError where it is not what was written."""
    refused = f"{file} is no backup of a store, or is damaged"
    try:
        with tarfile.open(file, "r:") as archive:
            entry = archive.extractfile(_MANIFEST)
            manifest = msgspec.json.decode(entry.read() if entry else b"", type=_Manifest)
            if manifest.format > _FORMAT:
                raise StoreError(f"{file} was made by a newer gateway: restore it with that one", Kind.NEWER)
            for copy in manifest.copies:
                part = Part(copy.part)
                stream = archive.extractfile(copy.file)
                target = folder / f"store.{part}.db"
                with target.open("wb") as out:
                    shutil.copyfileobj(_found(stream), out)
                if _checksum(target) != copy.sha256:
                    raise StoreError(f"{refused}: the {part} database is not the one that was written", Kind.CORRUPT)
                with contextlib.closing(sqlite3.connect(target)) as connection:
                    _refuse_damage(connection, file)
    except (tarfile.TarError, msgspec.MsgspecError, KeyError, ValueError, EOFError, sqlite3.Error) as exc:
        raise StoreError(f"{refused} ({exc})", Kind.CORRUPT) from exc
    except OSError as exc:
        raise StoreError(f"{file}: {(exc.strerror or str(exc)).lower()}") from exc
    return manifest


def _found(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("a database is missing")
    return stream


def move_aside(url: str, part: Part) -> list[str]:
    """Rename a damaged SQLite file, and what belongs to it, to ``….damaged-<time>``; the next start makes a new one.

    Refused while a gateway owns the store. Returns the new names.
    """
    where = parse_url(url)
    if where.path is None:
        raise StoreError("the store is on PostgreSQL: there is no file to move aside")
    with hold(url):
        database = Database(where, part)
        with translated(database):
            return _rename(database, f".damaged-{int(time.time())}")


def _rename(database: Database, ending: str) -> list[str]:
    """Give the file, its log and the log's index other names that still belong together."""
    moved: list[str] = []
    base = database.file.with_name(database.file.name + ending)
    for path in database.files():
        if path.exists():
            target = base.with_name(base.name + path.name.removeprefix(database.file.name))
            path.rename(target)
            moved.append(str(target))
    return moved


def _report(file: Path, size: int, made: float, copies: list[_Copy]) -> BackupReport:
    rows = {copy.part: copy.rows for copy in copies}
    return BackupReport(
        file=str(file), bytes=size, time=made, events=rows.get(Part.SPOOL, 0), decisions=rows.get(Part.HISTORY, 0)
    )


def _refuse_damage(connection: sqlite3.Connection, file: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise StoreError(f"{file} is damaged: {found[0]}", Kind.CORRUPT)


@contextmanager
def _connection(file: Path) -> Iterator[sa.Connection]:
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(f"{exc.filename or file}: {(exc.strerror or str(exc)).lower()}") from exc


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
