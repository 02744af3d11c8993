"""The store: the file or the database in which the gateway keeps events and decisions."""

from __future__ import annotations

import errno
import os
import re
import stat
from importlib.util import find_spec
from typing import Annotated, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from pydantic import Field, SecretStr, ValidationInfo
from pydantic_core import core_schema

from gateway.config.sections.addresses import find_unfit_for_path, parse_authority
from gateway.config.sections.fields import Section
from gateway.config.sections.tls import absolute_path, context_directory
from gateway.config.sections.types import ReadAs, Value, either, invalid, text_schema
from gateway.config.source.display import mask_text

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_DRIVER: Final = "psycopg"
_LASTING: Final = frozenset((errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP))
"""What no other user, and no disk that is mounted later, makes good: an error, where others are warnings."""
_PARTS: Final = ("spool", "history")
"""Of ``store.db``, the files are ``store.spool.db`` and ``store.history.db``."""
EXAMPLE: Final = "sqlite:store.db"
_FILE: Final = f"{EXAMPLE} for a file beside this one, or sqlite:///var/lib/wcs-gateway/store.db"
_DATABASE: Final = "postgresql://USER:${env:PGPASSWORD}@HOST/DATABASE"
_FORM: Final = f"must be {_FILE}, or {_DATABASE}"
_NO_FILE: Final = f"must name a file: write {_FILE}"
_PARAMETERS: Final = (
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "target_session_attrs"),
    *("connect_timeout", "application_name", "host"),
)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_split_url = re.compile(
    r"(?s)postgres(?:ql)?://(?:(?P<user>.*)@)?(?P<hosts>[^@/?#]*)/(?P<name>[^@/?#]+)(?:\?(?P<more>[^@#]*))?"
).fullmatch
_split_shown = re.compile(
    r"(?s)(?P<before>postgres(?:ql)?://(?:\$\{[^}]*\}|[^:@/?$])*:)(?P<password>.*)(?P<after>@[^@]*)"
).fullmatch
_has_password = re.compile(r"(?s)postgres(?:ql)?://(?:\$\{[^}]*\}|[^:@$])*:.*@.*").fullmatch


class StoreSettings(NamedTuple):
    """Where the store is."""

    engine: str
    """``sqlite`` or ``postgresql``."""
    path: str
    """Of SQLite, absolute: of ``/d/store.db``, the databases are ``/d/store.spool.db`` and ``/d/store.history.db``."""
    url: SecretStr
    """For ``gateway.store.engine.parse_url``, with the password: SQLite's with the absolute path."""


def parse_store_url(text: str, directory: str) -> StoreSettings:
    """What a URL of the configuration names; relative paths start at the *directory*.

    Raises ValueError; its message holds nothing of the URL, which may have a password anywhere.
    """
    scheme, colon, rest = text.partition(":")
    if find_unfit_for_path(text):
        raise ValueError("must not contain control characters such as a line break")
    if not colon or scheme.lower() not in (SQLITE, POSTGRESQL, "postgres"):
        if scheme.lower().startswith((POSTGRESQL + "+", "postgres+")):
            raise ValueError(f"must begin with postgresql://, without a driver: write {_DATABASE}")
        raise ValueError(_FORM)
    if scheme.lower() == SQLITE:
        path = _sqlite_path(rest, directory)
        return StoreSettings(SQLITE, path, SecretStr(f"{SQLITE}:{quote(path)}"))
    return StoreSettings(POSTGRESQL, "", SecretStr(_database_url(f"{scheme.lower()}:{rest}")))


def _sqlite_path(rest: str, directory: str) -> str:
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise ValueError(f"has only two slashes: write {_FILE}")
        rest = "/" + rest.lstrip("/")  # SQLAlchemy has a fourth one for absolute paths
        if rest.count("/") == 1 and len(rest) > 1:
            raise ValueError(f"names a file in the root directory: write {_FILE}")
    if not rest or rest.startswith(":"):
        raise ValueError(_NO_FILE)
    if "?" in rest or "#" in rest:
        raise ValueError("must end with the file's path: a query (?) or fragment (#) is not allowed")
    if os.path.basename(rest) in ("", ".", ".."):
        raise ValueError(_NO_FILE)
    try:
        return os.path.normpath(absolute_path(rest, directory))
    except ValueError as exc:
        raise ValueError(_NO_FILE) from exc


def _database_url(text: str) -> str:
    parts = _split_url(text)
    if parts is None:
        raise ValueError(f"must name a host and a database: write {_DATABASE}")
    user, colon, password = (parts["user"] or "").partition(":")
    if colon and not user:
        raise ValueError(f"has a password without a user: write {_DATABASE}")
    login = f"{quote(unquote(user), safe='')}:{quote(unquote(password), safe='')}" if colon else quote(unquote(user))
    return f"{POSTGRESQL}://{login}{'@' if user else ''}{_hosts_and_rest(parts['hosts'], parts)}"


def _hosts_and_rest(hosts: str, parts: re.Match[str]) -> str:
    """The part of the URL after the user: one host as it is written, several as parameters."""
    parameters = _parameters(parts["more"] or "")
    names: list[str] = []
    ports: list[str] = []
    for host in hosts.split(",") if hosts else ():
        try:
            parse_authority(host)
        except ValueError as exc:
            raise ValueError(
                f"must have a host name or an IP address, and a port from 1 to 65535: {_DATABASE}"
            ) from exc
        name, _, port = (
            host.rpartition(":") if re.search(r":[0-9]+$", host) and not host.endswith("]") else (host, "", "")
        )
        names.append(name.strip("[]"))
        ports.append(port or "5432")
    if names and "host" in parameters:
        raise ValueError("has a host twice: before the database's name, and as a parameter")
    database = quote(unquote(parts["name"]), safe="")
    if len(names) > 1:
        parameters |= {"host": ",".join(names), "port": ",".join(ports)}
        hosts = ""
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
    return f"{hosts}/{database}{'?' if query else ''}{query}"


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError as exc:
        raise ValueError("has parameters that are not NAME=VALUE, with & between them") from exc
    for name, value in pairs:
        if name in ("user", "password"):
            raise ValueError(f"must have user and password before the host: write {_DATABASE}")
        if name not in _PARAMETERS or not value or name in found:
            raise ValueError(f"may have these parameters, each once and with a value: {', '.join(_PARAMETERS)}")
        if name == "sslmode" and value not in _SSL_MODES:
            raise ValueError(f"has an sslmode that PostgreSQL does not know: it must be {either(_SSL_MODES)}")
        if name == "connect_timeout" and not re.fullmatch(r"[1-9][0-9]?", value):
            raise ValueError("has a connect_timeout that is not a whole number of seconds from 1 to 99")
        if name == "host" and not value.startswith("/"):
            raise ValueError("has a host as a parameter, which is for the directory of a unix socket: begin it with /")
        found[name] = value
    return found


def mask_store_url(text: str) -> str:
    """The URL as it is written in the file, with references, and with ``***`` for a password."""
    if text.startswith(f"{SQLITE}:"):
        return text
    if not text.startswith(("postgresql://", "postgres://")):
        return mask_text(text)
    if (parts := _split_shown(text)) is not None:
        return parts["before"] + mask_text(parts["password"]) + parts["after"]
    return mask_text(text) if _has_password(text) else text


def _read_url(value: object, info: ValidationInfo) -> StoreSettings:
    if not isinstance(value, str):
        raise invalid(_FORM)
    try:
        return parse_store_url(value, context_directory(info))
    except ValueError as exc:
        raise invalid(str(exc)) from exc


_URL: Final = Value(
    _FORM,
    core_schema.with_info_plain_validator_function(_read_url),
    text_schema(r"sqlite:[^?#]+|postgres(?:ql)?://.+", EXAMPLE, "postgresql://gateway:${env:PGPASSWORD}@db/wcs"),
    mask_store_url,
)


class Store(Section):
    """Where events and decisions are kept: two SQLite files, or a PostgreSQL database that several gateways share."""

    url: Annotated[StoreSettings, _URL] = Field(
        description="sqlite:PATH, from the directory of this file, or sqlite:///ABSOLUTE/PATH: of store.db, the files "
        "are store.spool.db and store.history.db, in a directory that the gateway can write; it is made if it is "
        "missing. Or postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, which needs pip install "
        "'wcs-gateway[postgresql]'; in user and password, % is written %25. Required. Files on a network file system "
        "can be damaged: use PostgreSQL there. The password is secret."
    )


STORE: Final = ReadAs(Store, lambda url: url)


def is_driver_installed() -> bool:
    """Whether PostgreSQL's driver, the optional extra ``postgresql``, is there; it is not loaded."""
    return find_spec(_DRIVER) is not None


def path_problem(path: str) -> tuple[str | None, str | None]:
    """What is wrong with the path of SQLite files, and what only keeps them from being used here and now."""
    above, (stem, suffix) = os.path.dirname(path), os.path.splitext(path)
    parts = [f"{stem}.{part}{suffix or '.db'}" for part in _PARTS]
    try:
        if not stat.S_ISDIR(os.stat(above).st_mode):
            return "is in something that is not a directory", None
        statuses = [_status_of(file) for file in (path, *parts)]
        _status_of(f"{parts[-1]}-journal")  # the longest name that SQLite uses: the system says whether it takes it
    except FileNotFoundError:
        can_make = os.access(_nearest_directory(above), os.W_OK | os.X_OK)
        return None, None if can_make else "its directory does not exist, and this user cannot make it: nothing is kept"
    except ValueError:
        return "has no valid name", None
    except OSError as exc:
        reason = f"its directory cannot be used: {(exc.strerror or type(exc).__name__).lower()}"
        return (reason, None) if exc.errno in _LASTING else (None, f"{reason}: nothing is kept")
    for status in statuses:
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            return f"is {kind}: write the path of a file", None
    there = [file for file, status in zip(parts, statuses[1:], strict=True) if status is not None]
    if not os.access(above, os.W_OK | os.X_OK) or not all(os.access(file, os.W_OK) for file in there):
        return None, "cannot be written by this user: the gateway's own must be able to, or nothing is kept"
    return None, None


def _nearest_directory(path: str) -> str:
    """The directory, or the nearest one above it that exists."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _status_of(path: str) -> os.stat_result | None:
    """The status of a file, links followed; None where there is none. Raises OSError for a name that none can have."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
