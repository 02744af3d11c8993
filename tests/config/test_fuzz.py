"""Loading any file ends in a configuration or in a ConfigError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, loads

EXAMPLE = (Path(__file__).parents[2] / "gateway.yaml").read_text(encoding="utf-8")
PEM = Path(__file__).parent / "pem"
CORPUS = Path(__file__).parents[3] / "shared" / "corpora"
MARKS = ["<<: ", "&a ", "*a", "${env:A}", "${", "---\n", "!!map "]
WORDS = ["apps", "a", "upstreams", "server", "1", "unix:/", "tls"]
SPECIAL = st.sampled_from([*"[]{}:,-?&*!|>'\"%@`#~<$\n\t \x85\u2028\ufeff\0é😀", *MARKS])


def survive(text: str) -> None:
    try:
        loads(text, str(PEM / "gateway.yaml"))
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert "Input should be" not in problem.message
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1500


@given(st.text(st.one_of(st.characters(), SPECIAL.map(lambda part: part[0])), max_size=200))
def test_arbitrary_text(text: str) -> None:
    survive(text)


@given(st.lists(SPECIAL | st.sampled_from(WORDS), max_size=60).map("".join))
def test_arbitrary_yaml_marks(text: str) -> None:
    survive(text)


@given(st.data())
def test_mutated_valid_files(data: st.DataObject) -> None:
    text = EXAMPLE
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(SPECIAL | st.text(max_size=4)) + text[end:]
    survive(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["3s", "allow", "u"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FULL: dict[str, Any] = {
    "server": {
        "listen": ":1", "admin": ":2", "max_body": "1B", "read_timeout": "1s",
        "keepalive_timeout": "9s", "drain_timeout": "1s", "workers": "auto", "max_in_flight": 1,
        "underscore_headers": "keep",
        "max_connections": 1, "allow_from": ["10.0.0.0/8", "::1"],
        "tls": {
            "certificate": "certificate.pem", "key": "key.pem", "client_ca": "certificate.pem", "minimum_version": "1.3"
        },
    },
    "admin": {"token": "t"},
    "record": {
        "path": "hooks.jsonl", "sample": 1, "failures_only": True, "max_size": "1MiB", "files": 2, "mask": ["caller"],
    },
    "log": {"level": "info", "format": "json", "access": "off", "mask": ["caller"]},
    "media_server": {"request_timeout": "15s", "margin": "1s"},
    "defaults": {
        "upstream": "u", "timeout": "3s", "fallback": {"timeout": "allow"}, "max_in_flight": 1, "dedupe": "off",
        "failover": ["v"], "failover_on": ["unreachable", "timeout"], "failover_reserve": "40%",
        "rate_limit": "5/s", "response_check": "off", "rest_client_config": "warn",
        "rules": [{"callee": "112", "verdict": "allow"}, {"name": "n", "time": "Sat,Sun UTC", "upstream": "v"}],
    },
    "upstreams": {
        "u": {
            "url": "http://h", "connect_timeout": "1s", "keepalive": "off", "max_connections": 1, "max_answer": "1B",
            "max_age": "off",
            "host": "target", "headers": {"A": "b"}, "credentials": {"username": "u", "password": "p"},
            "balance": "round_robin", "retry": {"attempts": 2, "on": ["connect"]},
            "breaker": {"failures": 1, "window": "1s", "open_for": "1s"},
            "health": {"path": "/", "interval": "5s", "timeout": "1s", "expect": 200},
        },
        "w": {
            "url": "https://h",
            "tls": {
                "ca": "certificate.pem", "certificate": "certificate.pem", "key": "key.pem", "minimum_version": 1.0,
                "server_name": "h",
            },
        },
        "v": {
            "targets": [
                {"url": "http://h", "weight": 1, "backup": False}, {"url": "http://i", "weight": 2, "backup": True}
            ],
            "breaker": "off",
        },
    },
    "apps": {
        "a": {
            "upstream": "u", "timeout": "1s", "fallback": "allow", "max_in_flight": 1,
            "methods": {"call": {"timeout": "1s", "fallback": "reject", "retry": {"on": ["reset"]}, "dedupe": "1s"}},
            "failover_on": "bad_answer", "failover_reserve": 0.5,
        },
        "d": {
            "upstream": [{"name": "u", "weight": 95}, {"name": "v", "weight": 5}], "failover": "w",
            "rate_limit": "50/s burst 100", "response_check": "repair",
            "rules": [{"caller": ["+49*", "x?"], "methods": ["call", "On*"], "verdict": "reject"}],
            "rest_client_config": {"mode": "enforce", "methods": {"X": {"restOnError": "FAIL"}}},
            "shadow": {"upstream": "w", "sample": "5%", "methods": "On*", "compare": "body", "ignore": ["a.b"]},
            "methods": {"call": {"shadow": {"upstream": "v", "sample": 0.5}, "response_check": "strict"}},
            "fallback": {"overload": {"allow": {"callee": "1000", "n": 1, "b": True, "f": 1.5}}},
        },
        "b": {"static": "allow", "credentials": {"username": "u", "password": "p"}},
        "c": {"upstream": "v", "signature": {"keys": ["k", "l"], "mode": "verify", "upstream_key": "k"}},
    },
    "unknown_app": "a",
    "metrics": {"app_label": "auto"},
    "hook_types": {"X": "event"},
}  # fmt: skip


def _paths(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in pairs:
        yield (*above, key)
        yield from _paths(inner, (*above, key))


def test_the_full_file_is_valid() -> None:
    loads(json.dumps(FULL), str(PEM / "gateway.yaml"))


@given(st.sampled_from(list(_paths(FULL))), VALUES)
def test_any_value_in_any_place(path: tuple[Any, ...], value: object) -> None:
    changed = json.loads(json.dumps(FULL))
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    survive(json.dumps(changed, ensure_ascii=False))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared folder with its corpora is absent")
def test_naughty_strings_as_values_and_as_names() -> None:
    strings = json.loads((CORPUS / "naughty_strings.json").read_text(encoding="utf-8"))
    assert len(strings) > 100
    for text in strings:
        survive(text)
        survive(json.dumps({"apps": {text: {"upstream": text, "methods": {text: {}}}}, "unknown_app": text, text: 1}))
