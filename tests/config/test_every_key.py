"""Every key of the schema, and anything that may be written there: a message with its place, or a gateway that serves.

The keys are found in the schema itself, so a new one is tried without a word here. A thorough run tries more.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from gateway.admin.dry_run import prove
from gateway.config import Config, ConfigError, Loaded, json_schema, load, loads
from gateway.config.source.problems import DEFECT

from .keys import Document, Place, Raw, fill, places, put, value_at, written
from .served import serve, told_by_commands, without_network

PROFILE: Final = settings.get_current_profile_name()
PEM: Final = Path(__file__).parent / "pem"
SECRET: Final = "7331-s3cret-7331"
"""Stands for every secret; no message, no screen and no log may have it."""
REFERENCES: Final = {
    "TEXT": "7331-text", "SECONDS": "7331s", "NUMBER": "7331", "NETWORK": "10.73.31.9/8", "HOST": "7331.example",
    "URL": "http://7331.example/x", "ADDRESS": "127.7.33.1:7331", "EMPTY": "",
    "LINES": "7331\n7331", "ODD": "7331\x1b[31mé",
}  # fmt: skip
"""What else a reference may bring in: no message may have it either."""
HIDDEN: Final = ("7331", "73.31", "7.33.1")
TOKEN: Final = "${env:EVERY_KEY_SECRET}"

BASE: Final[Document] = {
    "server": {
        "listen": ["127.0.0.1:0"], "admin": "127.0.0.1:0",
        "tls": {"certificate": "certificate.pem", "key": "key.pem"},
    },
    "admin": {"token": TOKEN},
    "record": {"path": "hooks.jsonl"},
    "store": {"url": "sqlite:store.db"},
    "history": {"key": TOKEN},
    "state": {
        "url": f"rediss://gateway:{TOKEN}@127.0.0.1:1/0",
        "tls": {"ca": "certificate.pem", "certificate": "certificate.pem", "key": "key.pem"},
    },
    "tracing": {"endpoint": "http://127.0.0.1:4318", "sample": 1, "headers": {"X-Key": TOKEN}},
    "defaults": {
        "upstream": [{"name": "u", "weight": 1}, {"name": "v", "weight": 0}],
        "rules": [{"callee": "112", "verdict": "allow"}],
    },
    "upstreams": {
        "u": {
            "url": "http://127.0.0.1:1/x", "headers": {"X-Key": TOKEN}, "health": {},
            "credentials": {"username": "wcs", "password": TOKEN},
        },
        "v": {"url": "http://backend.example/y"},
        "w": {
            "url": "https://backend.example/z", "health": {},
            "tls": {"ca": "certificate.pem", "certificate": "certificate.pem", "key": "key.pem"},
        },
        "t": {"targets": [{"url": "http://127.0.0.1:1"}, {"url": "http://backend.example", "backup": True}]},
    },
    "apps": {
        "a": {},
        "b": {"static": "allow", "credentials": {"username": "wcs", "password": TOKEN}},
        "c": {"upstream": "v", "signature": {"keys": [TOKEN], "upstream_key": TOKEN}},
        "d": {
            "upstream": [{"name": "u", "weight": 95}, {"name": "v", "weight": 5}], "failover": ["w"],
            "rules": [{"caller": "+4930*", "verdict": "reject"}], "shadow": {"upstream": "t"},
            "methods": {"OnCallEvent": {"timeout": "1s"}},
        },
    },
    "unknown_app": "a",
    "hook_types": {"X": "event"},
}  # fmt: skip

NEEDED: Final = ("store", "defaults", "upstreams", "apps")
"""The sections without which no key can be tried; of the others, each key meets its own."""

UGLY: Final = re.compile(
    r"Traceback|Input should|object at 0x|<class|NoneType|not in tuple|codec|invalid literal|unhashable|Errno|\{text\}"
    r"|must be must|, not , "
).search
"""Words that Python means for programmers."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration's directory, with its certificates; references can be resolved, and nothing is connected to."""
    directory = tmp_path_factory.mktemp("home")
    for file in PEM.iterdir():
        shutil.copy(file, directory)
    with pytest.MonkeyPatch.context() as environment, without_network():
        environment.setenv("EVERY_KEY_SECRET", SECRET)
        for name, value in REFERENCES.items():
            environment.setenv(f"EVERY_KEY_{name}", value)
        environment.chdir(directory)
        yield directory


@functools.cache
def known(directory: Path) -> tuple[Place, ...]:
    """Every place, each with documents that have a valid value there."""
    schema = json_schema()
    found = tuple(places(schema))

    def takes(document: Document) -> bool:
        try:
            loads(written(document, ascii_only=False), str(directory / "gateway.yaml"))
        except ConfigError:
            return False
        return True

    assert takes(BASE)
    for place in found:
        fill(place, schema, _base_for(place), takes)
    return found


def _base_for(place: Place) -> Document:
    """What the place needs around it, and no more: loading it takes a third of the time."""
    base = {key: BASE[key] for key in BASE if key in (*NEEDED, place.path[0])}
    if "tls" not in place.path:
        base["upstreams"] = {
            name: {k: v for k, v in it.items() if k != "tls"} for name, it in BASE["upstreams"].items()
        }
    return base


@functools.cache
def config_before(directory: Path) -> Config:
    return loads(written(BASE, ascii_only=False), str(directory / "gateway.yaml")).config


# --- the oracle ---


def try_it(text: str, directory: Path) -> bool:
    """Whether it was accepted. Fails for anything that a user should not meet."""
    file = directory / "gateway.yaml"
    file.write_text(text, "utf-8")
    try:
        loaded = load(file, prove)
    except ConfigError as exc:
        refused(exc, text, file)
        return False
    taken(loaded, file)
    return True


def refused(error: ConfigError, text: str, file: Path) -> None:
    assert error.problems
    lines = text.split("\n")
    for problem in error.problems:
        told = str(problem)
        assert told.startswith(f"{file}:{problem.line}:{problem.column}: "), told
        assert 1 <= problem.line <= len(lines) + 1, told
        assert problem.column >= 1, told
        assert problem.path or "YAML" in told or "the file" in told or "an " in told or "a " in told, told
        assert "\n" not in told
        assert len(told) < 1500, told
        assert DEFECT not in told, told
        assert not UGLY(told), told
        unseen(told, text)
    assert error.__cause__ is None
    assert error.__context__ is None


def taken(loaded: Loaded, file: Path) -> None:
    written_down = json.dumps(loaded.masked) + "".join(map(str, loaded.warnings))
    unseen(written_down, file.read_text("utf-8"))
    told = repr(loaded.config) + told_by_commands(file, loaded) + serve(loaded, config_before(file.parent), file.parent)
    assert SECRET not in told
    assert not UGLY(told.replace("hooks are served without", "")), told


def unseen(told: str, text: str) -> None:
    """No value of a reference is shown, unless the file has it too."""
    for hidden in (SECRET, *HIDDEN):
        assert hidden not in told or hidden in text, told


# --- what may be written ---

TEXTS: Final = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(max_codepoint=127), max_size=30),
    st.sampled_from([
        "", " ", "\0", "\n", "a\nb", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\U0001f600", "é" * 200, "x" * 300,
        "x" * 9000, "*" * 300, "*?" * 40, "null", "true", "0x10", "-", "..", "/", "//", "\\", "'", '"', "[", "{", "%",
        "ſat", "Kelvin", "١s", "１s", "0s", "off", "${", "$${env:X}", "${env:NOT_SET}", "${file:/nowhere}", "${x:y}",
        "${env:}", "${file:relative}", "http://", "http://[", "http://[::1", "http://192.168.1.256/x",
        "http://192.168.01.101/x", "http://xn--a-/x",
        "http://a.xn--zzzz99/x", "http://a..b/", "http://h:0/", "http://h:99999/", "http://u:7331@h/", "HTTPS://H/x",
        "https://xn--strae-oqa.de/", "http://h/%zz", "http://h./",
        "[::1%a b]:80", "[fe80::1%eth0]:80", "1.2.3:80", "0x7f.1:80", "unix:/", "unix:relative", "2026-02-30",
        "Mon-Fri 25:00-26:00", "Sat Mars/Phobos", "Sat Europe", "99999999999/s", "0/s", "5/s burst 0", "1e999", "0%",
    ]),
)  # fmt: skip
NUMBERS: Final = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([
        Raw("9" * 400), Raw("-" + "9" * 399), Raw("9" * 5000), Raw("1" + "0" * 20), Raw("0x" + "f" * 300), Raw("0o777"),
        Raw("1e400"), Raw("-1e400"), Raw(".nan"), Raw(".inf"), Raw("-.inf"), Raw("1_000"), Raw("1:30"), Raw("0.1"),
        Raw("1" + "0" * 390 + ".5"), 0, -1, 1, 2**31, 2**63, 2**64, 0.0, -0.0, 5e-324, 0.999, 1.0, 1.0000000001,
    ]),
)  # fmt: skip
REFERENCED: Final = st.builds(
    lambda before, name, after: f"{before}${{{name}}}{after}",
    st.sampled_from(["", "", "", "x", "http://", "$"]),
    st.sampled_from([f"env:EVERY_KEY_{name}" for name in REFERENCES]),
    st.sampled_from(["", "", "", "s", "/x", ":80"]),
)
BARE: Final = st.sampled_from(
    list(map(Raw, ["", "~", "null", "2026-12-24", "yes", "<<", "&a 1", "*a", "!!int 1", "?"]))
)
ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | REFERENCED | BARE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SPARE: Final = st.sampled_from([*"0123456789abzAZ%*?:/.-_ []@#\t\né", "xn--", "00", "ſ", "٣", "1e9", "s", "${env:X}"])


@st.composite
def nearly(draw: st.DrawFn, value: Any) -> Any:
    """A valid value with a slip in it."""
    if isinstance(value, bool) or value is None:
        return draw(st.sampled_from([0, 1, "yes", "true", "True", None]))
    if isinstance(value, int | float):
        return draw(st.sampled_from([value + 1, value - 1, -value, value * 1000, float(value), str(value), [value]]))
    if isinstance(value, str):
        return draw(_misspelt(value))
    value = copy.deepcopy(value)
    keys = list(range(len(value))) if isinstance(value, list) else list(value)
    if not keys or draw(st.booleans()):
        return draw(_added_to(value))
    key = draw(st.sampled_from(keys))
    if draw(st.booleans()):
        del value[key]
    else:
        value[key] = draw(nearly(value[key]))
    return value


@st.composite
def _misspelt(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            text = text[:at] + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + draw(SPARE) + text[at:]
        elif kind == 2:
            text = text[:at] + draw(SPARE) + text[at + 1 :]
        elif kind == 3:
            text = text[:at]
        elif kind == 4:
            text = re.sub(r"[0-9]+", lambda found: draw(st.sampled_from(["0", "256", "99999", "-1", "007"])), text)
        else:
            text = draw(st.sampled_from([text.upper(), text * 2, f" {text}", f"{text} ", f"{text}\n", text * 300]))
    return text


def _added_to(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, list):
        most = st.sampled_from([[*value, *value], value * 300, [*value, None], [value]])
        return st.one_of(most, ANYTHING.map(lambda more: [*value, more]))
    return st.builds(lambda name, more: {**value, name: more}, st.text(max_size=10), ANYTHING)


# --- the tests ---


def test_every_key_has_a_document_that_is_taken(home: Path) -> None:
    """Else only refusals of it would be tried: give its field an example in the schema, or add one to PLAUSIBLE."""
    assert [str(place) for place in known(home) if not place.valid] == []


@pytest.mark.slow
@pytest.mark.thorough
def test_what_is_taken_can_be_served(home: Path) -> None:
    """Each key with the values known to be taken; one of them, unless the run is thorough; some keys in a short run."""
    most = None if PROFILE == "thorough" else 1
    some = known(home)[:: 24 if PROFILE == "dev" else 1]
    texts = {written(document, ascii_only=True): place for place in some for _, document in place.valid[:most]}
    for text, place in texts.items():
        assert try_it(text, home), place


ODD: Final[Sequence[Any]] = (
    None, True, "", "\0", "x" * 9000, Raw("9" * 400), -1, Raw(".nan"), [], {}, [[]], {"x": {}}, [None],
    "${env:EVERY_KEY_TEXT}", "${env:EVERY_KEY_SECONDS}", "${env:EVERY_KEY_NETWORK}", "http://192.168.1.256/x", "ſat",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.thorough
def test_every_key_with_odd_values(home: Path) -> None:
    """All of them in a thorough run; else each key meets some, and each value some keys; fewer in a short run."""
    some = {"dev": 17, "thorough": 1}.get(PROFILE, 3)
    for number, place in enumerate(known(home)):
        for value in ODD[number % some :: some]:
            path, document = place.valid[0]
            try_it(written(put(document, path, value), ascii_only=False), home)


@settings(suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_key_with_any_value(home: Path, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(known(home)), label="place")
    path, document = data.draw(st.sampled_from(place.valid))
    value = data.draw(st.one_of(nearly(value_at(document, path)), nearly(value_at(document, path)), ANYTHING))
    text = written(put(document, path, value), ascii_only=data.draw(st.booleans()))
    note(text)
    try_it(text, home)


@settings(suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_name_of_the_user_s_own(home: Path, data: st.DataObject) -> None:
    named = [place for place in known(home) if place.takes_names]
    place = data.draw(st.sampled_from(named), label="place")
    path, document = data.draw(st.sampled_from(place.valid))
    below = value_at(document, path)
    value: Any = next(iter(below.values()), {}) if isinstance(below, dict) else {}
    name = data.draw(TEXTS | REFERENCED)
    text = written(put(document, (*path, name), value), ascii_only=data.draw(st.booleans()))
    note(text)
    try_it(text, home)
