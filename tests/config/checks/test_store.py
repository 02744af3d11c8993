"""Store, history and spool: what each needs of the others, and of the machine."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import Loaded, loads
from gateway.config.checks import store as checks
from tests.config.texts import problems_of

QUIET = "defaults: {methods: {StreamKeepAliveEvent: {fallback: reject}}%s}\nupstreams: {u: {url: 'http://h'}}\n"
STORE = "store: {url: 'sqlite:/tmp/store.db'}\n"
NO_STORE = 'needs a store: write store: {url: "sqlite:store.db"}, for a file beside this one'


def of_defaults(settings: str) -> str:
    return QUIET % f", {settings}" + "apps: {a: {upstream: u}}\n"


def of_a(settings: str) -> str:
    return QUIET % "" + "apps: {a: {upstream: u, " + settings + "}}\n"


def warned(text: str) -> list[str]:
    return [str(it).removeprefix("gateway.yaml:") for it in loads(text).warnings]


ALONE = [
    ("history: {}\n" + of_a("timeout: 1s"), f"1:1: history: {NO_STORE}"),
    (of_defaults("spool: on"), f"1:65: defaults.spool: {NO_STORE}"),
    (of_a("spool: {}"), f"3:25: apps.a.spool: {NO_STORE}"),
    (of_a("methods: {event: {spool: on}, ErrorEvent: {spool: on}}"), f"3:43: apps.a.methods.event.spool: {NO_STORE}"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ALONE)
def test_what_needs_a_store_says_what_to_add_once(text: str, message: str) -> None:
    assert problems_of(text) == [message]


def test_both_are_reported() -> None:
    assert problems_of("history: {}\n" + of_defaults("spool: on")) == [
        f"1:1: history: {NO_STORE}", f"2:65: defaults.spool: {NO_STORE}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", [of_a("spool: off"), of_defaults("spool: off"), of_a("methods: {connect: {spool: off}}")]
)
def test_off_needs_nothing(text: str) -> None:
    assert warned(text) == []


def test_a_store_that_nothing_uses_is_a_warning() -> None:
    said = "has no effect: nothing uses it; write history: {}, and spool: on under defaults or an app"
    assert warned(STORE + of_a("timeout: 1s")) == [f"1:1: store: {said}"]
    assert warned(STORE + of_a("spool: off")) == [f"1:1: store: {said}"]
    assert warned(STORE + "history: {}\n" + of_a("timeout: 1s")) == []
    assert warned(STORE + of_a("spool: on")) == []


NO_EVENT = "can keep nothing: it is for methods of type event, and this key matches none"
ASKS = "can keep nothing: this method asks whether a stream may continue, and a later answer is of no use; write fallback for it"
REJECTED = [
    ("methods: {OnCallEvent: {spool: on}}", f"4:49: apps.a.methods.OnCallEvent.spool: {NO_EVENT}"),
    ("methods: {connect: {spool: {}}}", f"4:45: apps.a.methods.connect.spool: {NO_EVENT}"),
    ("methods: {direct: {spool: on}}", f"4:44: apps.a.methods.direct.spool: {NO_EVENT}"),
    ("methods: {'On*': {spool: on}}", f"4:43: apps.a.methods.\"On*\".spool: {NO_EVENT}"),
    ("methods: {OnNewEvent: {spool: on}}", f"4:48: apps.a.methods.OnNewEvent.spool: {NO_EVENT}"),
    ("methods: {StreamKeepAliveEvent: {spool: on}}", f"4:58: apps.a.methods.StreamKeepAliveEvent.spool: {ASKS}"),
    ("spool: {max_size: 100KiB}", "4:33: apps.a.spool.max_size: is smaller than server.max_body: an event of that size could not be kept"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REJECTED)
def test_a_spool_that_can_keep_nothing_is_an_error(settings: str, message: str) -> None:
    assert problems_of(STORE + of_a(settings)) == [message]


@pytest.mark.parametrize("key", ["event", "CallStatusEvent", "'*Event'", "'*'", "NewEvent", "'Stream*'"])
def test_a_key_that_can_match_an_event_may_have_a_spool(key: str) -> None:
    assert [it for it in warned(STORE + of_a(f"methods: {{{key}: {{spool: on}}}}")) if "spool" in it] == []


def test_the_size_is_judged_by_the_largest_hook_that_is_accepted() -> None:
    text = STORE + of_a("spool: {max_size: 1MiB}")
    assert warned(text) == []
    assert problems_of(text + "server: {max_body: 2MiB}\n") == [
        "4:33: apps.a.spool.max_size: is smaller than server.max_body: an event of that size could not be kept"
    ]
    assert problems_of(STORE + of_a("spool: on") + "server: {max_body: 64MiB}\n" + "x: 1\n") == ["6:1: x: unknown key"]


def test_a_spool_of_a_static_app_has_no_effect() -> None:
    text = STORE + "history: {}\n" + QUIET % "" + "apps: {a: {static: allow, spool: on}}\n"
    assert warned(text) == ["5:27: apps.a.spool: has no effect: the app is static, so no backend is asked"]
    assert warned(STORE + QUIET % "" + "apps: {a: {static: allow, spool: on}}\n")[0].startswith(
        "1:1: store: has no effect"
    )


SHORT = "must be longer than 200ms where events are kept (spool): the upstream gets 100ms less, so that there is time to keep one"
TIGHT = [
    (of_a("spool: on, timeout: 200ms"), [f"4:36: apps.a.timeout: {SHORT}"]),
    (of_a("spool: on, methods: {event: {timeout: 50ms}}"), [f"4:54: apps.a.methods.event.timeout: {SHORT}"]),
    (of_a("spool: on, timeout: 100ms, methods: {event: {timeout: 1s}}"), []),
    (of_a("spool: on, methods: {connect: {timeout: 50ms}}"), []),
    (of_a("spool: on, timeout: 201ms"), []),
    (of_a("timeout: 100ms, methods: {CallStatusEvent: {spool: on}}"), [f"4:25: apps.a.timeout: {SHORT}"]),
    (of_a("timeout: 100ms, methods: {NewEvent: {spool: on}}"), [f"4:25: apps.a.timeout: {SHORT}"]),
    (of_a("timeout: 100ms, spool: on, methods: {event: {spool: off}}"), []),
    (of_defaults("spool: on, timeout: 100ms"), [f"2:76: defaults.timeout: {SHORT}"]),
    (QUIET % ", spool: on" + "apps: {a: {upstream: u, timeout: 100ms}, b: {upstream: u, timeout: 150ms}}\n",
     [f"4:25: apps.a.timeout: {SHORT}", f"4:59: apps.b.timeout: {SHORT}"]),
    (QUIET % ", spool: on, timeout: 100ms" + "apps: {a: {upstream: u}, b: {upstream: u}, c: {upstream: u, timeout: 1s}}\n",
     [f"2:76: defaults.timeout: {SHORT}"]),
    (QUIET % ", timeout: 100ms" + "apps: {a: {upstream: u, spool: on, timeout: 1s}, b: {upstream: u}}\n", []),
    (QUIET % ", spool: on" + "apps: {a: {static: allow, timeout: 100ms}, b: {upstream: u}}\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "messages"), TIGHT)
def test_an_event_that_may_be_kept_needs_time_for_that(text: str, messages: list[str]) -> None:
    if messages:
        assert problems_of(STORE + text) == messages
    else:
        loads(STORE + text)


def test_what_is_kept_for_longer_than_all_is_a_warning() -> None:
    text = STORE + "history: {keep: 6h, keep_allowed: 1d}\n" + of_a("timeout: 1s")
    assert warned(text) == ["2:21: history.keep_allowed: is longer than keep: nothing is kept for longer than 6h"]
    assert warned(text.replace("6h", "2d")) == []


# --- the machine ---


def load_in(directory: Path, url: str) -> Loaded:
    return loads(f"store: {{url: '{url}'}}\nhistory: {{}}\n" + of_a("timeout: 1s"), str(directory / "gateway.yaml"))


def test_a_directory_that_can_be_made_is_no_warning(tmp_path: Path) -> None:
    assert load_in(tmp_path, "sqlite:none/store.db").warnings == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    warnings = load_in(tmp_path, "sqlite:closed/store.db").warnings
    assert [(it.path, it.message) for it in warnings] == [
        ("store.url", "cannot be written by this user: the gateway's own must be able to, or nothing is kept")
    ]


def test_a_directory_in_place_of_a_file_is_an_error() -> None:
    text = "store: {url: 'sqlite:/usr/lib'}\nhistory: {}\n"
    assert problems_of(text) == ["1:9: store.url: is a directory: write the path of a file"]


def test_a_driver_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "store: {url: 'postgresql://u:hunter2@db/wcs'}\nhistory: {}\n" + of_a("timeout: 1s")
    assert warned(text) == []
    monkeypatch.setattr(checks, "is_driver_installed", lambda: False)
    assert problems_of(text) == [
        "1:9: store.url: needs packages that are not installed: pip install 'wcs-gateway[postgresql]'"
    ]
