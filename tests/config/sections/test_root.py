"""The sections of the whole gateway, their defaults, and the example."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from gateway.config import (
    Address,
    Config,
    ConfigError,
    Health,
    Settings,
    Target,
    load,
    loads,
)
from gateway.model.hooks import MethodType
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.breaker import BreakerSettings
from gateway.policy.retry import Retry, RetryOn
from gateway.policy.spooling import SpoolSettings
from tests.config.texts import EXAMPLE, PEM, UPSTREAMS

REJECT = Fallback()

REJECTED = [
    (
        "admin: {token: 'tökén'}\n",
        "1:9: admin.token: must be printable ASCII characters, the first and the last no spaces: a header carries it",
    ),
    (
        "admin: {token: ' t'}\n",
        "1:9: admin.token: must be printable ASCII characters, the first and the last no spaces: a header carries it",
    ),
    ("server:\n", "1:1: server: must be a mapping, not empty"),
    ("server: 5\n", "1:1: server: must be a mapping, not 5"),
    ("server: {max_connections: 0}\n", "1:10: server.max_connections: must be a whole number from 1 to 1000000, not 0"),
    ("server: {max_connections: 1000001}\n", "1:10: server.max_connections: must be a whole number from 1 to 1000000, not 1000001"),
    ("server: {max_connections: many}\n", '1:10: server.max_connections: must be a whole number from 1 to 1000000, not "many"'),
    ("metrics: {app_label: sometimes}\n", '1:11: metrics.app_label: must be auto, always or never, not "sometimes"'),
    ("metrics: off\n", '1:1: metrics: must be a mapping, not "off"'),
    ("server: {max_body: 65536}\n", "1:10: server.max_body: must be a size such as 64KiB or 1MiB, not 65536"),
    ("server: {max_body: 1GiB}\n", '1:10: server.max_body: must be between 1B and 64MiB, not "1GiB"'),
    ("server: {read_timeout: 3}\n", "1:10: server.read_timeout: must be a duration such as 3s or 250ms, not 3"),
    ("server: {read_timeout: 0s}\n", '1:10: server.read_timeout: must be between 1ms and 10m, not "0s"'),
    ("server: {drain_timeout: true}\n", "1:10: server.drain_timeout: must be a duration such as 3s or 250ms, not true"),
    ("server: {workers: 0}\n", "1:10: server.workers: must be a whole number from 1 to 256, or auto, not 0"),
    ("server: {workers: 257}\n", "1:10: server.workers: must be a whole number from 1 to 256, or auto, not 257"),
    ("server: {workers: all}\n", '1:10: server.workers: must be a whole number from 1 to 256, or auto, not "all"'),
    ("server: {workers: true}\n", "1:10: server.workers: must be a whole number from 1 to 256, or auto, not true"),
    ("server: {workers: }\n", "1:10: server.workers: must be a whole number from 1 to 256, or auto, not empty"),
    ("server: {max_in_flight: 0}\n", "1:10: server.max_in_flight: must be a whole number from 1 to 1000000, not 0"),
    ("server: {max_in_flight: 1000001}\n", "1:10: server.max_in_flight: must be a whole number from 1 to 1000000, not 1000001"),
    ("log: {level: loud}\n", '1:7: log.level: must be debug, info, warning or error, not "loud"'),
    ("log: {mask: [caller, cal]}\n", '1:22: log.mask[1]: must be caller or callee, not "cal"'),
    ("log: {mask: caller}\n", '1:7: log.mask: must be a list, not "caller"'),
    ("log: {mask: [caller, caller, caller]}\n", "1:7: log.mask: must be a shorter list: each once"),
    ("admin: {token: ''}\n", "1:9: admin.token: must not be empty"),
    ("admin: {token: }\n", "1:9: admin.token: must be text (in quotes if it looks like a number)"),
    ("hook_types: {MyEvent: events}\n", '1:14: hook_types.MyEvent: must be connect, direct, event or incoming, not "events"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_the_defaults_are_the_contract_s() -> None:
    config = loads(UPSTREAMS).config
    assert config.server.listen == (Address("0.0.0.0", 8080),)
    assert config.server.admin == Address("127.0.0.1", 9180)
    assert (config.server.max_body, config.server.read_timeout) == (262144, 5.0)
    assert (config.server.keepalive_timeout, config.server.drain_timeout) == (75.0, 20.0)
    assert (config.server.workers, config.server.max_in_flight) == (1, 2000)
    assert (config.server.max_connections, config.server.allow_from, config.server.tls) == (10_000, (), None)
    assert config.admin.token is None
    assert config.metrics.app_label == "auto"
    assert (config.log.level, config.log.format, config.log.access) == ("info", "json", "all")
    assert config.log.mask == ("caller", "callee")
    assert (config.media_server.request_timeout, config.media_server.margin) == (15.0, 0.5)
    assert (config.defaults.upstream, config.defaults.timeout, config.defaults.fallback) == (None, 3.0, REJECT)
    upstream = config.upstreams["u"]
    assert (upstream.connect_timeout, upstream.keepalive, upstream.max_connections) == (0.5, 60.0, 64)
    assert (upstream.max_age, config.server.underscore_headers) == (300.0, "drop")
    assert (upstream.max_answer, upstream.host, upstream.headers, upstream.credentials) == (1 << 20, "target", {}, None)
    assert upstream.targets == (Target(url="http://h", weight=1, backup=False),)
    assert (upstream.balance, upstream.health, upstream.tls) == ("round_robin", None, None)
    assert upstream.retry == Retry(attempts=2, on=frozenset({RetryOn.CONNECT}))
    assert upstream.breaker == BreakerSettings(failures=5, window=10.0, open_for=5.0)
    assert (config.unknown_app, config.hook_types) == ("reject", {})


def test_the_example_is_valid_and_without_warnings() -> None:
    loaded = load(EXAMPLE)
    assert loaded.warnings == ()
    assert loaded.path == EXAMPLE
    config = loaded.config
    assert config.server.listen == (Address("127.0.0.1", 8080),)
    assert config.settings("defaultApp", "OnCallEvent") == Settings("legacy-php", None, 1.5, REJECT, dedupe=10.0)
    assert config.settings("defaultApp", "connect") == Settings(
        "legacy-php", None, 2.0, Fallback(frozenset({Cause.TIMEOUT, Cause.UNREACHABLE})), dedupe=10.0
    )
    every = Settings("legacy-php", None, 3.0, REJECT, max_in_flight=50, spool=SpoolSettings())
    assert config.settings("tenant-*", None) == every
    assert [target.url for upstream in config.upstreams.values() for target in upstream.targets] == [
        "http://127.0.0.1:8081/rest/my_api"
    ]
    assert config.settings("blocked", None).static is Verdict.REJECT


def test_what_the_example_comments_out_is_valid_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("pw\n")
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "t")
    monkeypatch.setenv("LEGACY_KEY", "k")
    monkeypatch.setenv("WCS_PASSWORD", "w")
    monkeypatch.setenv("WCS_KEY", "s")
    for name, file in (("certificate.pem", "certificate"), ("key.pem", "key"), ("ca.pem", "certificate"),
                       ("client.pem", "certificate"), ("client-key.pem", "key")):  # fmt: skip
        shutil.copy(PEM / f"{file}.pem", tmp_path / name)
    text = EXAMPLE.read_text(encoding="utf-8")
    lines = ("admin:", "  token:", "dedupe:", "targets:", "  - {url:", "health:", "headers:", "credentials:",
             "allow_from:", "tls:", "metrics:")  # fmt: skip
    for line in lines:
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    text = text.replace("    url: http", "    # url: http").replace('url: "http://192', 'url: "https://192')
    text = text.replace("/run/secrets/legacy-password", str(tmp_path / "password"))
    config = loads(text, str(tmp_path / "gateway.yaml")).config
    upstream = config.upstreams["legacy-php"]
    assert upstream.targets == (
        Target(url="https://192.168.1.101/rest/my_api", weight=2),
        Target(url="https://192.168.1.102/rest/my_api", backup=True),
    )
    assert upstream.health == Health()
    assert config.settings("tenant-*", "call").dedupe == 10.0
    credentials = upstream.credentials
    assert credentials is not None
    assert credentials.password.get_secret_value() == "pw"
    assert upstream.tls is not None
    assert config.server.tls is not None
    assert config.apps["defaultApp"].credentials is not None
    signed = text.replace('    credentials: {username: wcs, password: "${env:WCS', "    # credentials: {").replace(
        "# signature:", "signature:"
    )
    signature = loads(signed, str(tmp_path / "gateway.yaml")).config.settings("defaultApp", None).signature
    assert signature is not None
    assert signature.keys == (SecretStr("s"),)


def test_auto_is_a_worker_per_cpu_that_this_process_may_use() -> None:
    server = loads("server: {workers: auto}\n").config.server
    assert server.workers == min(len(os.sched_getaffinity(0)), 256)
    assert loads("server: {workers: 7}\n").config.server.workers == 7


def test_a_configuration_with_every_value_type_can_be_written_as_json() -> None:
    config = loads(
        "server: {listen: [unix:/run/g.sock], allow_from: [10.0.0.0/8]}\n"
        "upstreams: {u: {url: http://h, retry: {on: [reset]}, breaker: off, health: {}}, v: {url: http://h}}\n"
        "apps: {a: {upstream: u, retry: {attempts: 1}, signature: {keys: [k]}}}\n"
    ).config
    dumped = config.model_dump(mode="json")
    assert dumped["upstreams"]["u"]["retry"] == {"attempts": 2, "on": ["reset"]}
    assert dumped["upstreams"]["u"]["breaker"] is None
    assert dumped["upstreams"]["v"]["breaker"] == {"failures": 5, "window": 10.0, "open_for": 5.0}
    assert dumped["defaults"]["retry"] is None
    assert dumped["server"]["allow_from"] == ["10.0.0.0/8"]
    assert dumped["apps"]["a"]["signature"]["keys"] == ["**********"]


def test_a_configuration_survives_the_way_to_another_process() -> None:
    config = loads(
        "server: {listen: [':1', unix:/run/g.sock, 'systemd:a'], admin: 'systemd:b', allow_from: [10.0.0.0/8, '::1']}\n"
        "upstreams: {u: {url: https://h, tls: {minimum_version: '1.3'}}}\n"
        "apps: {a: {upstream: u, signature: {keys: [k]}}, b: {upstream: u, credentials: {username: w, password: p}}}\n"
    ).config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("choice", ["auto", "always", "never"])
def test_the_app_label_of_histograms_is_a_choice(choice: str) -> None:
    assert loads(f"metrics: {{app_label: {choice}}}\n").config.metrics.app_label == choice


def test_unknown_app_may_name_an_app_or_a_glob() -> None:
    text = "apps: {'t-*': {static: allow}}\nunknown_app: t-*\n"
    assert loads(text).config.unknown_app == "t-*"


def test_hook_types_are_the_catalogue_s_types() -> None:
    assert loads("hook_types: {MyEvent: event}\n").config.hook_types == {"MyEvent": MethodType.EVENT}


def test_the_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.unknown_app = "x"
