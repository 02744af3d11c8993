"""The store's URL: what people write, what it means, and that no message and no screen has its password."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, loads
from gateway.config.sections.store import StoreSettings, mask_store_url, parse_store_url, path_problem
from gateway.store.engine import StoreUrl, parse_url

HERE = "/etc/wcs-gateway"
FILE = "sqlite:store.db for a file beside this one, or sqlite:///var/lib/wcs-gateway/store.db"
DATABASE = "postgresql://USER:${env:PGPASSWORD}@HOST/DATABASE"
FORM = f"must be {FILE}, or {DATABASE}"


def opened(settings: StoreSettings) -> StoreUrl:
    """What the store makes of it."""
    return parse_url(settings.url.get_secret_value())


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:store.db", f"{HERE}/store.db"),
        ("sqlite:data/store.db", f"{HERE}/data/store.db"),
        ("sqlite:../store.db", "/etc/store.db"),
        ("sqlite:store", f"{HERE}/store"),
        ("sqlite:/var/lib/store.db", "/var/lib/store.db"),
        ("sqlite:///var/lib/store.db", "/var/lib/store.db"),
        ("sqlite:////var/lib/store.db", "/var/lib/store.db"),  # as SQLAlchemy has it
        ("SQLite:///var/lib/a b%20é.db", "/var/lib/a b%20é.db"),
    ],
)
def test_a_file_is_beside_the_configuration_or_absolute(url: str, path: str) -> None:
    settings = parse_store_url(url, HERE)
    assert settings[:2] == ("sqlite", path)
    assert str(opened(settings).path) == path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", FORM),
        ("store.db", FORM),
        ("/var/lib/store.db", FORM),
        ("on", FORM),
        ("mysql://u:p@h/d", FORM),
        ("sqlite3:store.db", FORM),
        ("sqlite:", f"must name a file: write {FILE}"),
        ("sqlite://", f"has only two slashes: write {FILE}"),
        ("sqlite:///", f"must name a file: write {FILE}"),
        ("sqlite::memory:", f"must name a file: write {FILE}"),
        ("sqlite:data/", f"must name a file: write {FILE}"),
        ("sqlite:data/..", f"must name a file: write {FILE}"),
        ("sqlite://store.db", f"has only two slashes: write {FILE}"),
        ("sqlite:///store.db", f"names a file in the root directory: write {FILE}"),
        ("sqlite:store.db?mode=ro", "must end with the file's path: a query (?) or fragment (#) is not allowed"),
        ("sqlite:a\nb", "must not contain control characters such as a line break"),
        ("sqlite:" + "x" * 5000, f"must name a file: write {FILE}"),
        ("postgresql+psycopg2://u:p@h/d", f"must begin with postgresql://, without a driver: write {DATABASE}"),
        ("postgresql:u@h/d", f"must name a host and a database: write {DATABASE}"),
        ("postgresql://u:p@h", f"must name a host and a database: write {DATABASE}"),
        ("postgresql://u:p@h/", f"must name a host and a database: write {DATABASE}"),
        ("postgresql://u:p@h/d/e", f"must name a host and a database: write {DATABASE}"),
        ("postgresql://:p@h/d", f"has a password without a user: write {DATABASE}"),
        (
            "postgresql://u:p@h:0x/d",
            f"must have a host name or an IP address, and a port from 1 to 65535: {DATABASE}",
        ),
        ("postgresql://h/d?user=u", f"must have user and password before the host: write {DATABASE}"),
        ("postgresql://h/d?x", "has parameters that are not NAME=VALUE, with & between them"),
        (
            "postgresql://h/d?options=x",
            "may have these parameters, each once and with a value: sslmode, sslrootcert, sslcert, sslkey, "
            "channel_binding, target_session_attrs, connect_timeout, application_name, host",
        ),
        (
            "postgresql://h/d?sslmode=on",
            "has an sslmode that PostgreSQL does not know: it must be disable, allow, prefer, require, verify-ca or "
            "verify-full",
        ),
        (
            "postgresql://h/d?connect_timeout=0",
            "has a connect_timeout that is not a whole number of seconds from 1 to 99",
        ),
        (
            "postgresql:///d?host=h",
            "has a host as a parameter, which is for the directory of a unix socket: begin it with /",
        ),
        (
            "postgresql://h/d?host=/run",
            "has a host twice: before the database's name, and as a parameter",
        ),
    ],
)
def test_a_wrong_form_is_answered_with_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_store_url(url, HERE)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://gw:pw@db.example:5433/wcs", {"host": "db.example", "port": 5433}),
        ("postgres://gw:pw@192.168.1.5/wcs", {"host": "192.168.1.5"}),
        ("postgresql://gw:pw@[2001:db8::1]:5433/wcs", {"host": "2001:db8::1", "port": 5433}),
        ("postgresql://gw:pw@/wcs?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("postgresql://gw:pw@h/wcs?sslmode=verify-full&sslrootcert=/etc/ca.pem",
         {"host": "h", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}),
        ("postgresql://gw:pw@a,[::1]:5433/wcs?target_session_attrs=read-write",
         {"host": "a,::1", "port": "5432,5433", "target_session_attrs": "read-write"}),
    ],
)  # fmt: skip
def test_a_database_is_what_postgresql_is_asked_for(url: str, told: dict[str, object]) -> None:
    settings = parse_store_url(url, HERE)
    assert settings[:2] == ("postgresql", "")
    made = opened(settings).url
    assert made.drivername == "postgresql+psycopg"
    arguments = made.get_dialect()().create_connect_args(made)[1]
    assert arguments == {"user": "gw", "password": "pw", "dbname": "wcs", **told}


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1), st.booleans())
def test_any_password_reaches_the_database_and_nothing_else_does(password: str, is_encoded: bool) -> None:
    """Raw, as a reference brings it in, where a % is written %25; or encoded, as in any URL."""
    written = quote(password, safe="") if is_encoded else password.replace("%", "%25")
    settings = parse_store_url(f"postgresql://gw:{written}@db/wcs", HERE)
    made = opened(settings).url
    assert (made.password, made.host, made.database) == (password, "db", "wcs")


SECRET = "hunter2-S3CRET"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://gw:{SECRET}@db",
        f"postgresql://gw:{SECRET}@db:99999/wcs",
        f"postgresql://gw:{SECRET}@db/wcs?sslmode=on",
        f"postgresql://db/wcs?password={SECRET}",
        f"postgresql://db/wcs?{SECRET}=1",
        f"postgresql+psycopg://gw:{SECRET}@db/wcs",
        f"postgresql:gw:{SECRET}@db/wcs",
        f"mysql://gw:{SECRET}@db/wcs",
        f"gw:{SECRET}@db/wcs",
        f"sqlite:///{SECRET}",
        "${env:STORE_SECRET}",
        "postgresql://gw:${env:STORE_SECRET}@db",
    ],
)
@pytest.mark.parametrize("form", ["store: {{url: '{}'}}", "store: '{}'", "store: {{url: ['{}']}}", "store: ['{}']"])
def test_no_message_has_a_password(url: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", f"x://gw:{SECRET}@db")
    with pytest.raises(ConfigError) as caught:
        loads(form.format(url))
    assert caught.value.problems
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("sqlite:store.db", "sqlite:store.db"),
        ("${env:URL}", "${env:URL}"),
        ("postgresql://gw:hunter2@db/wcs?sslmode=require", "postgresql://gw:***@db/wcs?sslmode=require"),
        ("postgresql://gw:a:b@c@db/wcs", "postgresql://gw:***@db/wcs"),
        ("postgresql://gw:${env:PW}@db:5432/wcs", "postgresql://gw:${env:PW}@db:5432/wcs"),
        ("postgresql://gw:a${env:PW}@db/wcs", "postgresql://gw:***${env:PW}@db/wcs"),
        ("postgresql://${env:USER}:hunter2@db/wcs", "postgresql://${env:USER}:***@db/wcs"),
        ("postgresql://${env:LOGIN}@db/wcs", "postgresql://${env:LOGIN}@db/wcs"),
        ("postgresql://gw@db:5432/wcs", "postgresql://gw@db:5432/wcs"),
        ("postgresql://db:5432/${env:NAME}", "postgresql://db:5432/${env:NAME}"),
        ("${env:SCHEME}://gw:hunter2@db/wcs", "${env:SCHEME}***"),
    ],
)
def test_a_url_is_shown_as_it_is_written_without_the_password(written: str, shown: str) -> None:
    assert mask_store_url(written) == shown


@given(st.text("ab:/@?#%$.{}", max_size=30))
def test_a_password_is_never_shown(password: str) -> None:
    shown = mask_store_url(f"postgresql://gw:{SECRET}{password}@db/wcs")
    assert SECRET not in shown
    assert shown.endswith("@db/wcs")


def test_a_loaded_configuration_shows_no_password_and_can_be_sent_to_the_store() -> None:
    loaded = loads(f"store: {{url: 'postgresql://gw:{SECRET}@db/wcs'}}\nhistory: {{}}\n")
    assert loaded.masked["store"] == {"url": "postgresql://gw:***@db/wcs"}
    assert SECRET not in repr(loaded) + str(loaded.config.store) + loaded.config.model_dump_json()
    again = pickle.loads(pickle.dumps(loaded.config))
    assert again.store == loaded.config.store
    assert SECRET in again.store.url.get_secret_value()


# --- the path ---


def problem_of(path: Path | str) -> tuple[str | None, str | None]:
    return path_problem(str(path))


def test_a_store_that_can_be_made_or_is_there_is_no_problem(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "store.db") == (None, None)
    for name in ("store.spool.db", "store.history.db"):
        (tmp_path / name).touch()
    assert problem_of(tmp_path / "store.db") == (None, None)


def test_a_directory_that_is_missing_is_made_by_the_gateway(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "none/other/store.db") == (None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    """The disk may not be mounted yet: the gateway starts all the same."""
    (tmp_path / "closed").mkdir(mode=0o500)
    assert problem_of(tmp_path / "closed/none/store.db") == (
        None,
        "its directory does not exist, and this user cannot make it: nothing is kept",
    )


def test_a_directory_that_this_user_may_not_enter_is_a_warning(tmp_path: Path) -> None:
    """The gateway's own user may, and if not, hooks are decided all the same."""
    (tmp_path / "closed").mkdir(mode=0)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        found = problem_of(tmp_path / "closed/store.db")
    finally:
        os.seteuid(user)
    assert found == (None, "its directory cannot be used: permission denied: nothing is kept")


def test_what_can_never_be_a_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir.db").mkdir()
    (tmp_path / "odd.spool.db").mkdir()
    assert problem_of(tmp_path / "file/store.db")[0] == "is in something that is not a directory"
    assert problem_of(tmp_path / "file/x/store.db")[0] == "its directory cannot be used: not a directory"
    assert problem_of(tmp_path / "dir.db")[0] == "is a directory: write the path of a file"
    assert problem_of(tmp_path / "odd.db")[0] == "is a directory: write the path of a file"
    assert problem_of(tmp_path / ("x" * 250))[0] == "its directory cannot be used: file name too long"
    assert problem_of("/dev/null")[0] == "is not a regular file: write the path of a file"


def test_the_value_is_read_from_the_directory_of_the_configuration(tmp_path: Path) -> None:
    text = "store: {url: 'sqlite:s/store.db'}\nhistory: {}\n"
    loaded = loads(text, str(tmp_path / "gateway.yaml"))
    assert isinstance(loaded.config.store, StoreSettings)
    assert loaded.config.store.path == str(tmp_path / "s/store.db")
