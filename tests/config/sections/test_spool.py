"""The spool's keys, their bounds, and to which hooks it applies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, loads
from gateway.model.hooks import CATALOGUE, KEEP_ALIVE, MethodType, method_type
from gateway.policy.rules.globs import compile_glob, is_glob
from gateway.policy.spooling import SpoolSettings
from tests.config.texts import problems_of

STORE = "store: {url: 'sqlite:/tmp/store.db'}\n"

REJECTED = [
    ("spool: null", "2:12: defaults.spool: must be a mapping, on, or off, not null"),
    ("spool: true", "2:12: defaults.spool: must be a mapping, on, or off, not true"),
    ("spool: 24h", '2:12: defaults.spool: must be a mapping, on, or off, not "24h"'),
    ("spool: {max_age: 0s}", '2:20: defaults.spool.max_age: must be between 1s and 365d, not "0s"'),
    ("spool: {max_size: 1KiB}", '2:20: defaults.spool.max_size: must be between 64KiB and 1024GiB, not "1KiB"'),
    ("spool: {attempts: 0}", "2:20: defaults.spool.attempts: must be a whole number from 1 to 1000, not 0"),
    ("spool: {atempts: 1}", '2:20: defaults.spool.atempts: unknown key; did you mean "attempts"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    assert problems_of(STORE + "defaults: {" + text + "}\n") == [message]


def config_of(defaults: Any, app: Any, **more: Any) -> Config:
    document = {
        "store": {"url": "sqlite:/tmp/store.db"},
        "upstreams": {"u": {"url": "http://h"}},
        "defaults": defaults,
        "apps": {"a": {"upstream": "u", **app}},
        **more,
    }
    return loads(json.dumps(document)).config


def spool_of(config: Config, method: str) -> SpoolSettings | None:
    return config.settings("a", method).spool


@pytest.mark.parametrize("written", ["on", {}, {"max_age": "24h", "max_size": "1GiB", "attempts": 10}])
def test_on_and_an_empty_mapping_mean_the_defaults(written: Any) -> None:
    assert spool_of(config_of({"spool": written}, {}), "CallStatusEvent") == SpoolSettings()


def test_without_the_key_nothing_is_kept() -> None:
    assert spool_of(config_of({}, {}), "CallStatusEvent") is None


def test_a_mapping_replaces_that_of_the_wider_level() -> None:
    config = config_of({"spool": {"attempts": 3}}, {"spool": {"max_age": "48h"}})
    assert spool_of(config, "CallStatusEvent") == SpoolSettings(max_age=48 * 3600)


@pytest.mark.parametrize("method", [name for name, kind in CATALOGUE.items() if kind is not MethodType.EVENT])
def test_only_events_are_kept(method: str) -> None:
    assert spool_of(config_of({"spool": "on"}, {"methods": {"*": {"spool": "on"}}}), method) is None


def test_a_question_about_a_stream_is_never_kept_not_even_as_an_event() -> None:
    config = config_of({"spool": "on"}, {}, hook_types={KEEP_ALIVE: "event", "X": "event"})
    assert spool_of(config, KEEP_ALIVE) is None
    assert spool_of(config, "X") == SpoolSettings()


def test_a_static_app_keeps_nothing() -> None:
    document = {
        "store": {"url": "sqlite:/tmp/store.db"},
        "defaults": {"spool": "on"},
        "apps": {"a": {"static": "allow"}},
    }
    assert spool_of(loads(json.dumps(document)).config, "CallStatusEvent") is None


_EVENTS = ("CallStatusEvent", "ErrorEvent", "NewEvent")
_KEYS = ("CallStatusEvent", "ErrorEvent", "*StatusEvent", "*Event", "*", "event")
_VALUES = ("off", {"attempts": 1}, {"attempts": 2}, {"attempts": 3})
_METHODS = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES).map(lambda it: {"spool": it}), max_size=4)
_LEVELS = st.fixed_dictionaries({"methods": _METHODS}, optional={"spool": st.sampled_from(_VALUES)})


@given(_LEVELS, _LEVELS, st.sampled_from(_EVENTS))
def test_the_most_specific_level_wins(defaults: Any, app: Any, method: str) -> None:
    """By a naive reading: the name, globs, the type, of each the app's first, longer globs first; then the levels."""

    def rank(key: str, place: int) -> tuple[int, int, int]:
        return (0 if key == method else 1 if is_glob(key) else 2, place, -len(key))

    found = [
        (rank(key, place), level["methods"][key]["spool"])
        for place, level in enumerate((app, defaults))
        for key in level["methods"]
        if key == "event" or compile_glob(key).fullmatch(method)
    ]
    said = [value for _, value in sorted(found, key=lambda it: it[0])]
    said += [level["spool"] for level in (app, defaults) if "spool" in level]
    config = config_of(defaults, app)
    assert method_type(method, {}) is MethodType.EVENT
    wanted = None if not said or said[0] == "off" else SpoolSettings(attempts=said[0]["attempts"])
    assert spool_of(config, method) == wanted
    every = config.settings("a", None)
    if not found:
        assert config.plain_settings("a", method, every).spool == wanted
