"""Opens the store's databases, and says in an operator's words what is wrong with one.

SQLite has two files beside each other, one for the spool and one for the history; PostgreSQL has one database for both.
``Database`` stands for one of the two parts, on either engine: its writer's one connection, and a small pool to read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"

BUSY_TIMEOUT: Final = 5.0
"""Seconds that a transaction waits for that of another process (a command of an operator's)."""
CONNECT_TIMEOUT: Final = 3
STATEMENT_TIMEOUT: Final = 10.0
"""Seconds for one statement of PostgreSQL; migrations, checks and searches set their own."""
_READERS: Final = 4
_WRITERS: Final = 4
"""PostgreSQL's connections that may write: of the writer, of who listens to notices, of commands."""
_CACHE_KIB: Final = 8 * 1024
"""Of each connection to a SQLite file."""
_JOURNAL_LIMIT: Final = 64 * 2**20
"""Bytes to which a write-ahead log is cut back."""
_CHECKPOINT_PAGES: Final = 2000

_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}",
    "PRAGMA synchronous = FULL",
    f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT}",
    f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
)
_WARNING: Final = "gateway.warning"
_POSTGRESQL_OPTIONS: Final = {
    "statement_timeout": f"{int(STATEMENT_TIMEOUT * 1000)}",
    "lock_timeout": "5000",
    # A gateway whose host vanished amid a transaction holds the spool's lock no longer than this.
    "idle_in_transaction_session_timeout": "5000",
}
_SPOOL_OPTIONS: Final = {"synchronous_commit": "on"}
"""What is answered 200 is on the disk, and on a synchronous standby's, also where the server has this off."""
_TABLE_SIZES: Final = sa.text(
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = current_schema() AND c.relname LIKE :tables"
)


class Kind(StrEnum):
    """What is wrong, for those that act upon it."""

    FULL = "full"
    READ_ONLY = "read_only"
    CORRUPT = "corrupt"
    NEWER = "newer"
    UNREACHABLE = "unreachable"
    PERMISSION = "permission"
    BUSY = "busy"
    DISK = "disk"
    """Input or output failed: what was last written may be lost."""
    CONFLICT = "conflict"
    """Two transactions of PostgreSQL were in each other's way: the same again succeeds."""
    OTHER = "other"


class StoreError(Exception):
    """The store cannot do what was asked of it; the message says why, and what to do, in an operator's words."""

    def __init__(self, message: str, kind: Kind = Kind.OTHER) -> None:
        super().__init__(message)
        self.kind = kind


_SPARES_CONNECTION: Final = frozenset((Kind.CONFLICT, Kind.BUSY, Kind.FULL, Kind.READ_ONLY))


def spares_connection(error: StoreError) -> bool:
    """Whether the connection can be used after this error; otherwise it is closed and opened again."""
    return error.kind in _SPARES_CONNECTION


class Part(StrEnum):
    """The two databases of a store."""

    SPOOL = "spool"
    HISTORY = "history"


class StoreUrl(NamedTuple):
    """A configured ``store.url``, taken apart."""

    engine: str
    """``sqlite`` or ``postgresql``."""
    path: Path | None
    """SQLite: the configured file, from which the names of the two real ones are made."""
    url: sa.URL

    def file(self, part: Part) -> Path:
        """SQLite: the file of this part: ``store.spool.db`` for ``store.db``."""
        assert self.path is not None
        return self.path.with_name(f"{self.path.stem}.{part}{self.path.suffix or '.db'}")

    @property
    def lock_file(self) -> Path:
        """SQLite: the file that the process holds which owns the store."""
        assert self.path is not None
        return self.path.with_name(f"{self.path.stem}.lock")

    def __str__(self) -> str:
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)


def parse_url(text: str) -> StoreUrl:
    """Take a URL apart: ``sqlite:/absolute/path`` with any number of slashes, or ``postgresql://…``.

    It may also be as the configuration gives it to SQLAlchemy: percent-encoded, and with the driver's name.

    Raises StoreError where it is neither.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme == SQLITE:
        if not rest.startswith("/") or not rest.strip("/"):
            raise StoreError(
                f"store.url: {text!r} names no absolute path: write sqlite:///var/lib/wcs-gateway/store.db"
            )
        path = Path("/" + unquote(rest).lstrip("/"))
        return StoreUrl(SQLITE, path, sa.URL.create(SQLITE, database=str(path)))
    if colon and scheme in (POSTGRESQL, f"{POSTGRESQL}+psycopg", "postgres"):
        try:
            url = sa.make_url(f"{POSTGRESQL}:{rest}").set(drivername=f"{POSTGRESQL}+psycopg")
        except (sa.exc.ArgumentError, ValueError):
            pass
        else:
            return StoreUrl(POSTGRESQL, None, url)
    raise StoreError("store.url: write sqlite:///path/to/store.db, or postgresql://user:password@host/database")


class Database:
    """The spool's or the history's database. Made without connecting; errors come from its methods, as StoreError.

    One thread writes, in ``write``; any thread reads, in ``read``, beside it.
    """

    def __init__(self, where: StoreUrl, part: Part) -> None:
        """Raises StoreError where PostgreSQL's driver is not installed."""
        self.where = where
        self.part = part
        self.engine_name = where.engine
        self._writer = self._make_engine(writes=True)
        self._readers = self._make_engine(writes=False)

    def __repr__(self) -> str:
        return f"<Database {self.part} of {self.where}>"

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of SQLite's."""
        return self.engine_name == SQLITE

    @property
    def is_shared(self) -> bool:
        """Whether other gateways may write to it too."""
        return not self.is_sqlite

    @property
    def dialect(self) -> sa.Dialect:
        """For which statements are compiled."""
        return self._writer.dialect

    @property
    def file(self) -> Path:
        """SQLite: its file."""
        return self.where.file(self.part)

    def connect(self) -> sa.Connection:
        """The writer's connection, in no transaction. Raises StoreError."""
        with translated(self):
            self._make_file()
            return self._writer.connect()

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction of its own that may write; committed at the end. Raises StoreError."""
        with translated(self):
            self._make_file()
            with self._writer.connect() as connection, connection.begin():
                yield connection

    @contextlib.contextmanager
    def read(self, timeout: float | None = None) -> Iterator[sa.Connection]:
        """A transaction that reads, and sees one state of the database throughout. Raises StoreError.

        *timeout*: seconds for each statement on PostgreSQL; None leaves the ordinary one.
        """
        with translated(self):
            self._make_file()
        with translated(self), self._readers.connect() as connection, connection.begin():
            if timeout is not None and not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
            yield connection

    def cut(self, connection: sa.Connection) -> None:
        """PostgreSQL: end a connection under a thread that waits for it; that thread sees an error."""
        driver: Any = connection.connection.driver_connection
        with contextlib.suppress(OSError, ValueError, sa.exc.SQLAlchemyError):
            wire = socket.socket(fileno=os.dup(driver.fileno()))
            with wire:
                wire.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Close the writer's connections, so that the next one is new."""
        self._writer.dispose()

    def close(self) -> None:
        """Close all connections that nobody uses."""
        self._writer.dispose()
        self._readers.dispose()

    def size(self) -> int:
        """Bytes on disk: the file with its write-ahead log, or the tables of this part. Raises StoreError."""
        if self.is_sqlite:
            return sum(path.stat().st_size for path in self.files() if path.exists())
        with self.read() as connection:
            return int(connection.execute(_TABLE_SIZES, {"tables": f"{self.part}%"}).scalar_one())

    def files(self) -> list[Path]:
        """SQLite: the file, its write-ahead log, and the index of that."""
        return [self.file, *(self.file.with_name(self.file.name + end) for end in ("-wal", "-shm"))]

    # --- how it is opened ---

    def _make_file(self) -> None:
        """SQLite: what callers say is in it, so not for everyone to read; its log gets the same mode."""
        if self.is_sqlite and not self.file.exists():
            self.file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o640))
            with contextlib.suppress(OSError):  # which SQLite reports itself, with all that it knows
                os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # it has what callers said

    def _make_engine(self, *, writes: bool) -> sa.Engine:
        if self.is_sqlite:
            url = self.where.url.set(database=str(self.file))
            engine = sa.create_engine(
                url,
                poolclass=sa.QueuePool,
                pool_size=1 if writes else _READERS,
                max_overflow=0,
                pool_timeout=30,
                connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT, "isolation_level": None},
            )
            sa.event.listen(engine, "connect", functools.partial(_prepare_sqlite, writes=writes))
            sa.event.listen(engine, "begin", _begin_immediate if writes else _begin_deferred)
            return engine
        try:
            return self._make_postgresql(writes=writes)
        except ModuleNotFoundError as exc:
            raise StoreError(
                "store.url: PostgreSQL needs a driver: pip install 'wcs-gateway[postgresql]'", Kind.OTHER
            ) from exc

    def _make_postgresql(self, *, writes: bool) -> sa.Engine:
        settings = _POSTGRESQL_OPTIONS | (_SPOOL_OPTIONS if self.part is Part.SPOOL else {})
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        given = self.where.url.query.get("options")
        engine = sa.create_engine(
            self.where.url,
            pool_size=_WRITERS if writes else _READERS,
            max_overflow=0,
            pool_timeout=30,
            pool_pre_ping=True,
            pool_recycle=1800,
            isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
            connect_args={
                "connect_timeout": int(str(self.where.url.query.get("connect_timeout", CONNECT_TIMEOUT))),
                "application_name": self.where.url.query.get("application_name", f"wcs-gateway {self.part}"),
                "options": f"{options} {given}" if given else options,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )
        sa.event.listen(engine, "connect", _note_warnings)
        return engine


def checkpoint(connection: sa.Connection) -> bool:
    """SQLite: have everything in the main file, and the log empty; False where others read, so that it is not yet."""
    driver: Any = connection.connection.driver_connection
    is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def shrink(connection: sa.Connection, pages: int = 1000, spare: float = 0.0) -> bool:
    """SQLite: give at most so many free pages back to the file system, in a transaction.

    Whether more than *spare* of the file was free; if not, nothing was done.
    """
    driver: Any = connection.connection.driver_connection
    (free,) = driver.execute("PRAGMA freelist_count").fetchone()
    (every,) = driver.execute("PRAGMA page_count").fetchone()
    if free <= spare * every:
        return False
    for _ in range(min(free, pages)):
        driver.execute("PRAGMA incremental_vacuum(1)")  # Python's module makes one step, so one page, of each
    return True


class Databases(NamedTuple):
    """Both parts of a store."""

    where: StoreUrl
    spool: Database
    history: Database

    @property
    def parts(self) -> tuple[Database, Database]:
        """The spool and the history."""
        return self.spool, self.history

    def close(self) -> None:
        """Close all connections that nobody uses."""
        self.spool.close()
        self.history.close()


def open_databases(url: str) -> Databases:
    """Both databases of this ``store.url``; nothing is connected yet. Raises StoreError where the URL is not usable."""
    where = parse_url(url)
    return Databases(where, Database(where, Part.SPOOL), Database(where, Part.HISTORY))


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry, *, writes: bool) -> None:
    cursor = connection.cursor()
    try:
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        if writes:
            # Before there is any table; no effect afterwards.
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            cursor.execute("PRAGMA journal_mode = WAL")
        else:
            cursor.execute("PRAGMA query_only = ON")
    finally:
        cursor.close()


def _note_warnings(connection: Any, record: ConnectionPoolEntry) -> None:
    def note(diagnostic: Any) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            record.info[_WARNING] = diagnostic.message_primary

    connection.add_notice_handler(note)


def take_warning(connection: sa.Connection) -> str | None:
    """PostgreSQL: what it warned of since the last call. A commit with a warning is not on the standby it waits for."""
    warning: str | None = connection.info.pop(_WARNING, None)
    return warning


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


# --- what is wrong ---


@contextlib.contextmanager
def translated(database: Database) -> Iterator[None]:
    """Errors of SQLAlchemy, the drivers and the system become StoreError."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as exc:
        raise translate(exc, database) from exc


def translate(error: BaseException, database: Database) -> StoreError:
    """What this error of SQLAlchemy, a driver or the system means to an operator."""
    if isinstance(error, StoreError):
        return error
    orig = getattr(error, "orig", None) or error
    if isinstance(orig, sqlite3.Error):
        return _of_sqlite(orig, database)
    if isinstance(orig, OSError) and not hasattr(orig, "sqlstate"):
        return _of_system(orig, database)
    if database.is_sqlite or not hasattr(orig, "sqlstate"):
        return StoreError(f"the {database.part} database: {_first_line(orig)}", Kind.OTHER)
    return _of_postgresql(orig, database, disconnected=getattr(error, "connection_invalidated", False))


def _of_sqlite(error: sqlite3.Error, database: Database) -> StoreError:
    file, name = database.file, getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(name.split("_")[:2])
    said = _first_line(error)
    match primary:
        case "SQLITE_FULL":
            return StoreError(f"no space left for {file}: make room on its file system", Kind.FULL)
        case "SQLITE_READONLY":
            return StoreError(
                f"{file} cannot be written: it, its folder or its file system is read-only", Kind.READ_ONLY
            )
        case "SQLITE_CORRUPT" | "SQLITE_NOTADB":
            return StoreError(
                f"{file} is damaged ({said}): restore a backup, or have it moved aside with"
                f" `gateway store check --move-aside`",
                Kind.CORRUPT,
            )
        case "SQLITE_CANTOPEN" | "SQLITE_PERM" | "SQLITE_AUTH":
            return _cannot_open(database, said)
        case "SQLITE_BUSY" | "SQLITE_LOCKED":
            return StoreError(f"{file} is locked by another process for more than {BUSY_TIMEOUT:g} s", Kind.BUSY)
        case "SQLITE_IOERR":
            return StoreError(
                f"{file}: reading or writing failed ({name}): look at the disk and the kernel log", Kind.DISK
            )
        case _:
            return StoreError(f"{file}: {said}", Kind.OTHER)


def _cannot_open(database: Database, said: str) -> StoreError:
    file = database.file
    try:
        if not file.parent.is_dir():
            return StoreError(f"{file} cannot be opened: the folder {file.parent} does not exist", Kind.PERMISSION)
    except OSError as exc:
        return _of_system(exc, database)
    needed = next(
        (path for path in (file.parent, *database.files()) if path.exists() and not os.access(path, os.W_OK)), None
    )
    if needed is not None:
        return StoreError(f"{file} cannot be opened: no permission to write {needed}", Kind.PERMISSION)
    return StoreError(f"{file} cannot be opened ({said})", Kind.PERMISSION)


def _of_system(error: OSError, database: Database) -> StoreError:
    named = error.filename or (database.file if database.is_sqlite else database.where)
    said = (error.strerror or str(error)).lower()
    kinds = {
        errno.ENOSPC: Kind.FULL,
        errno.EDQUOT: Kind.FULL,
        errno.EROFS: Kind.READ_ONLY,
        errno.EACCES: Kind.PERMISSION,
        errno.EPERM: Kind.PERMISSION,
        errno.EIO: Kind.DISK,
    }
    return StoreError(f"{named}: {said}", kinds.get(error.errno or 0, Kind.OTHER))


def _of_postgresql(error: Any, database: Database, *, disconnected: bool) -> StoreError:
    state, said = error.sqlstate or "", _first_line(error)
    where = f"PostgreSQL at {database.where.url.host or 'its local socket'}"
    if state in ("40001", "40P01"):
        return StoreError(f"{where}: {said}", Kind.CONFLICT)
    if state in ("57014", "55P03", "25P03"):
        return StoreError(f"{where} is slow, or another gateway holds its lock: {said}", Kind.UNREACHABLE)
    if state.startswith("53"):
        return StoreError(f"{where} is out of space or connections: {said}", Kind.FULL)
    if state == "25006":
        return StoreError(f"{where} is read-only, perhaps a standby: {said}", Kind.READ_ONLY)
    if state.startswith("28") or state == "42501":
        return StoreError(f"{where} denies access: {said}", Kind.PERMISSION)
    if state.startswith(("XX", "58")):
        return StoreError(f"{where} reports damage or a failing disk: {said}", Kind.CORRUPT)
    is_operational = any(kind.__name__ in ("OperationalError", "InterfaceError") for kind in type(error).__mro__)
    if disconnected or state.startswith(("08", "57")) or (not state and is_operational):
        return StoreError(f"{where} is not reachable: {said}", Kind.UNREACHABLE)
    return StoreError(f"{where}: {said}", Kind.OTHER)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
