"""Credentials and signatures."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest
from pydantic import SecretStr

from gateway.config import (
    ConfigError,
    loads,
)
from tests.config.texts import BACKEND, UPSTREAMS

REJECTED = [
    ("upstreams: {u: {url: http://h, credentials: {username: 'a:b', password: x}}}\n", "1:46: upstreams.u.credentials.username: must not contain a colon: HTTP Basic ends the user name there"),
    ("upstreams: {u: {url: http://h, credentials: {username: a, password: 815}}}\n", "1:59: upstreams.u.credentials.password: must be text (in quotes if it looks like a number)"),
    ("upstreams: {u: {url: http://h, credentials: }}\n", "1:32: upstreams.u.credentials: must be a mapping"),
    (BACKEND + "apps: {a: {upstream: u, credentials: 'w:p'}}\n", "2:25: apps.a.credentials: must be a mapping"),
    (BACKEND + "apps: {a: {upstream: u, credentials: {username: 'w:', password: p}}}\n", "2:39: apps.a.credentials.username: must not contain a colon: HTTP Basic ends the user name there"),
    (BACKEND + "apps: {a: {upstream: u, signature: k}}\n", "2:25: apps.a.signature: must be a mapping"),
    (BACKEND + "apps: {a: {upstream: u, signature: }}\n", "2:25: apps.a.signature: must be a mapping"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: []}}}\n", "2:37: apps.a.signature.keys: must hold 1 to 8 keys"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: [1, 2, 3, 4, 5, 6, 7, 8, 9]}}}\n", "2:37: apps.a.signature.keys: must hold 1 to 8 keys"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: k}}}\n", "2:37: apps.a.signature.keys: must be a list"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: ['']}}}\n", "2:44: apps.a.signature.keys[0]: must not be empty"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: [815]}}}\n", "2:44: apps.a.signature.keys[0]: must be text (in quotes if it looks like a number)"),
    (BACKEND + 'apps: {a: {upstream: u, signature: {keys: ["k\\n"]}}}\n', "2:44: apps.a.signature.keys[0]: must not contain control characters such as a line break"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: [k], mode: check}}}\n", '2:48: apps.a.signature.mode: must be verify or pass, not "check"'),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: [k], upstream_key: ''}}}\n", "2:48: apps.a.signature.upstream_key: must not be empty"),
    (BACKEND + "apps: {a: {upstream: u, signature: {keys: [k], upstream_key: }}}\n", "2:48: apps.a.signature.upstream_key: must be text (in quotes if it looks like a number)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_credentials_and_signature_are_the_app_s_for_each_of_its_methods() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u}\n"
        "apps:\n"
        "  open: {}\n"
        "  basic: {credentials: {username: w, password: p}, methods: {call: {timeout: 1s}}}\n"
        "  signed: {signature: {keys: [new, old], upstream_key: theirs}}\n"
        "  passing: {signature: {mode: pass}}\n"
        "  static: {static: allow, signature: {mode: pass, keys: [k]}}\n"
    ).config
    opened = config.settings("open", "call")
    assert (opened.credentials, opened.signature) == (None, None)
    for method in ("call", "connect", None):
        credentials = config.settings("basic", method).credentials
        assert credentials is not None
        assert (credentials.username, credentials.password.get_secret_value()) == ("w", "p")
    signed = config.settings("signed", "call").signature
    assert signed is not None
    assert signed.keys == (SecretStr("new"), SecretStr("old"))
    assert (signed.mode, signed.upstream_key) == ("verify", SecretStr("theirs"))
    passing = config.settings("passing", None).signature
    assert passing is not None
    assert (passing.mode, passing.keys, passing.upstream_key) == ("pass", (), None)
    static = config.settings("static", None).signature
    assert static is not None
    assert (static.mode, static.keys) == ("pass", (SecretStr("k"),))


def test_an_app_may_verify_one_key_and_its_upstream_get_credentials() -> None:
    text = "upstreams: {u: {url: http://h, credentials: {username: w, password: p}}}\n"
    config = loads(text + "apps: {a: {upstream: u, signature: {keys: [k]}}}\n").config
    assert config.settings("a", None).signature is not None
