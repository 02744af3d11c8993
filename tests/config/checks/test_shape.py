"""Secrets are masked where the file is shown, and appear in no message."""

from __future__ import annotations

import logging
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, Loaded, loads


def load_headers(body: str) -> Loaded:
    return loads(f"upstreams:\n  u: {{url: http://h, {body}}}\napps: {{a: {{upstream: u}}}}\n")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TEST_SECRET", SECRET)
    monkeypatch.setenv("GATEWAY_TEST_EMPTY", "")


SECRET = "hunter2-S3CRET"


def test_what_is_shown_is_the_file_with_references_kept_and_literal_secrets_masked() -> None:
    loaded = load_headers(
        "credentials: {username: wcs, password: hunter2-S3CRET}, headers: {A: '${env:GATEWAY_TEST_SECRET}', "
        "B: 'Bearer ${env:GATEWAY_TEST_SECRET}', C: hunter2-S3CRET, D: 'x$${y'}, max_connections: 5, keepalive: off"
    )
    assert loaded.masked == {
        "upstreams": {
            "u": {
                "url": "http://h",
                "credentials": {"username": "wcs", "password": "***"},
                "headers": {
                    "A": "${env:GATEWAY_TEST_SECRET}",
                    "B": "***${env:GATEWAY_TEST_SECRET}",
                    "C": "***",
                    "D": "***",
                },
                "max_connections": 5,
                "keepalive": "off",
            }
        },
        "apps": {"a": {"upstream": "u"}},
    }


def test_keys_and_passwords_of_apps_are_masked_and_what_is_around_them_is_shown() -> None:
    loaded = loads(
        "apps:\n"
        "  a: {static: allow, credentials: {username: wcs, password: hunter2-S3CRET}}\n"
        "  b: {static: allow, signature: {keys: [hunter2-S3CRET, '${env:GATEWAY_TEST_SECRET}'], mode: pass, "
        "upstream_key: hunter2-S3CRET}}\n"
    )
    assert loaded.masked["apps"] == {
        "a": {"static": "allow", "credentials": {"username": "wcs", "password": "***"}},
        "b": {
            "static": "allow",
            "signature": {"keys": ["***", "${env:GATEWAY_TEST_SECRET}"], "mode": "pass", "upstream_key": "***"},
        },
    }
    assert SECRET not in repr(loaded) + loaded.config.model_dump_json()


def test_names_that_look_like_secrets_are_shown() -> None:
    loaded = loads("apps: {token: {static: allow}, password: {static: reject}}\n")
    assert loaded.masked == {"apps": {"token": {"static": "allow"}, "password": {"static": "reject"}}}


def test_a_secret_reached_through_an_alias_or_a_merge_is_masked_too() -> None:
    loaded = loads(
        "upstreams:\n"
        "  a: &a {url: http://h, headers: {X-A: &s hunter2-S3CRET}}\n"
        "  b: {<<: *a, credentials: {username: w, password: *s}}\n"
        "apps: {x: {upstream: b}}\n"
    )
    assert SECRET not in repr(loaded)
    assert loaded.config.upstreams["b"].headers["X-A"].get_secret_value() == SECRET


def test_a_loaded_configuration_never_prints_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    loaded = loads(
        "admin: {token: hunter2-S3CRET}\n"
        "upstreams: {u: {url: http://h, credentials: {username: w, password: '${env:GATEWAY_TEST_SECRET}'}}}\n"
        "apps: {a: {upstream: u}}\n"
    )
    logging.getLogger("test").warning("%s %r", loaded, loaded.config)
    texts = [str(loaded), str(loaded.config), repr(loaded.config), loaded.config.model_dump_json(), caplog.text]
    assert SECRET not in "".join(texts)
    assert loaded.config.admin.token is not None
    assert loaded.config.admin.token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "admin: hunter2-S3CRET\n",
        "admin: [hunter2-S3CRET]\n",
        "admin: {token: [hunter2-S3CRET]}\n",
        "upstreams: {u: {url: 'http://w:hunter2-S3CRET@h'}}\n",
        "upstreams: {u: {url: 'http://w:hunter2-S3CRET@h/ x'}}\n",
        "upstreams: {u: {url: 'ftp://w:hunter2-S3CRET@h'}}\n",
        "upstreams: {u: {url: 'http://h/?key=hunter2-S3CRET'}}\n",
        "upstreams: {u: {url: '${env:GATEWAY_TEST_SECRET}'}}\n",
        "upstreams: {u: {targets: [{url: 'http://w:hunter2-S3CRET@h'}]}}\n",
        "upstreams: {u: {targets: [{url: 'http://h/${env:GATEWAY_TEST_SECRET}'}, {url: http://h/hunter2-S3CRET}]}}\n",
        "upstreams: {u: {url: http://h, headers: hunter2-S3CRET}}\n",
        "upstreams: {u: {url: http://h, headers: {Via: hunter2-S3CRET}}}\n",
        'upstreams: {u: {url: http://h, headers: {A: "hunter2-S3CRET\\n"}}}\n',
        "upstreams: {u: {url: http://h, credentials: 'w:hunter2-S3CRET'}}\n",
        "upstreams: {u: {url: http://h, credentials: {username: 'w:hunter2-S3CRET', password: x}}}\n",
        'upstreams: {u: {url: http://h, credentials: {username: w, password: "hunter2-S3CRET\\0"}}}\n',
        "upstreams: {u: {url: http://h, credentials: {username: w, pasword: hunter2-S3CRET}}}\n",
        "server: {listen: '${env:GATEWAY_TEST_SECRET}', max_body: '${env:GATEWAY_TEST_SECRET}'}\n",
        "defaults: {fallback: '${env:GATEWAY_TEST_SECRET}', upstream: '${env:GATEWAY_TEST_SECRET}'}\n",
        "apps: {a: {upstream: '${env:GATEWAY_TEST_SECRET}', static: '${env:GATEWAY_TEST_SECRET}'}}\n",
        "unknown_app: '${env:GATEWAY_TEST_SECRET}'\nlog: {level: '${env:GATEWAY_TEST_SECRET}'}\n",
        "apps: {a: {static: allow, credentials: 'w:hunter2-S3CRET'}}\n",
        "apps: {a: {static: allow, credentials: [hunter2-S3CRET]}}\n",
        'apps: {a: {static: allow, credentials: {username: w, password: "hunter2-S3CRET\\0"}}}\n',
        "apps: {a: {static: allow, signature: hunter2-S3CRET}}\n",
        "apps: {a: {static: allow, signature: [hunter2-S3CRET]}}\n",
        "apps: {a: {static: allow, signature: {keys: hunter2-S3CRET}}}\n",
        "apps: {a: {static: allow, signature: {keys: [[hunter2-S3CRET]]}}}\n",
        'apps: {a: {static: allow, signature: {keys: ["hunter2-S3CRET\\0"]}}}\n',
        "apps: {a: {static: allow, signature: {key: hunter2-S3CRET, mode: pass}}}\n",
        "apps: {a: {static: allow, signature: {keys: [k], upstream_key: [hunter2-S3CRET]}}}\n",
        "server: {tls: {certificate: hunter2-S3CRET, key: hunter2-S3CRET}}\n",
        'server: {tls: {certificate: c.pem, key: "-----BEGIN hunter2-S3CRET\\n"}}\n',
        "server: {tls: {certificate: c.pem, key: [hunter2-S3CRET], minimum_version: '${env:GATEWAY_TEST_SECRET}'}}\n",
        "server: {tls: '${env:GATEWAY_TEST_SECRET}', allow_from: ['${env:GATEWAY_TEST_SECRET}']}\n",
        "upstreams: {u: {url: https://h, tls: {ca: '${env:GATEWAY_TEST_SECRET}'}}}\n",
        "admin: {token: hunter2-S3CRET}}\n",
        "admin: {token: !secret hunter2-S3CRET}\n",
        "admin: {token: 'hunter2-S3CRET${env:NO_SUCH_VARIABLE}'}\n",
    ],
)
def test_no_problem_names_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    printed = "".join(traceback.format_exception(caught.value)) + repr(caught.value.problems)
    assert SECRET not in printed


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=30))
def test_a_literal_password_is_shown_nowhere(password: str) -> None:
    password = f"pw{password}"
    loaded = load_headers(f"credentials: {{username: w, password: {password}}}, headers: {{A: {password}}}")
    assert password not in repr(loaded)
    assert loaded.config.upstreams["u"].credentials is not None
    assert loaded.config.upstreams["u"].credentials.password.get_secret_value() == password
