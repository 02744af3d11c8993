"""The model: defaults, forms, and what an app's hooks meet once every level is merged."""

from __future__ import annotations

import os
import pickle
import shutil
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from gateway.config import Address, Config, Health, Settings, Target, UnixAddress, load, loads
from gateway.model.hooks import MethodType
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.breaker import BreakerSettings
from gateway.policy.retry import Retry, RetryOn

EXAMPLE = Path(__file__).parents[2] / "gateway.yaml"
PEM = Path(__file__).parent / "pem"
REJECT = Fallback()
ALLOW = Fallback(frozenset({Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD}))
UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}}\n"


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
    assert config.settings("tenant-*", None) == Settings("legacy-php", None, 3.0, REJECT, max_in_flight=50)
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


def test_the_nearer_level_wins_and_replaces_the_whole_value() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, timeout: 4s, fallback: {error_status: allow}}\n"
        "apps:\n"
        "  plain: {}\n"
        "  own: {upstream: v, fallback: {timeout: allow}, methods: {connect: {timeout: 1s}, call: {fallback: reject}}}"
    ).config
    assert config.settings("plain", "call") == Settings("u", None, 4.0, Fallback(frozenset({Cause.ERROR_STATUS})))
    app_fallback = Fallback(frozenset({Cause.TIMEOUT}))
    assert config.settings("own", None) == Settings("v", None, 4.0, app_fallback)
    assert config.settings("own", "connect") == Settings("v", None, 1.0, app_fallback, dedupe=10.0)
    assert config.settings("own", "call") == Settings("v", None, 4.0, REJECT)
    with pytest.raises(KeyError):
        config.settings("other", None)


def test_the_nearest_retry_wins_as_a_whole() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, retry: {attempts: 4}}\n"
        "apps: {plain: {}, own: {retry: {on: [reset]}, methods: {call: {retry: {attempts: 1}}, connect: {}}}}\n"
    ).config
    assert config.settings("plain", "call").retry == Retry(attempts=4)
    assert config.settings("own", "connect").retry == Retry(on=frozenset({RetryOn.RESET}))
    assert config.settings("own", "call").retry == Retry(attempts=1)
    assert loads(UPSTREAMS + "apps: {a: {upstream: u}}\n").config.settings("a", "call").retry is None


def test_the_nearest_limit_of_hooks_in_flight_wins_and_there_is_none_by_itself() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, max_in_flight: 9}\napps: {plain: {}, own: {max_in_flight: 5}}\n"
    ).config
    assert config.settings("plain", "call").max_in_flight == 9
    assert config.settings("own", None).max_in_flight == 5
    assert loads(UPSTREAMS + "apps: {a: {upstream: u}}\n").config.settings("a", None).max_in_flight is None


@pytest.mark.parametrize("method", ["connect", "OnCallEvent"])
def test_repeats_of_connect_and_on_call_event_are_recognised_unless_a_level_says_otherwise(method: str) -> None:
    apps = f"apps: {{plain: {{}}, off: {{dedupe: off}}, own: {{dedupe: off, methods: {{{method}: {{dedupe: 2s}}}}}}}}\n"
    config = loads(UPSTREAMS + "defaults: {upstream: u}\n" + apps).config
    assert config.settings("plain", method).dedupe == 10.0
    assert config.settings("off", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0
    config = loads(UPSTREAMS + "defaults: {upstream: u, dedupe: off}\n" + apps).config
    assert config.settings("plain", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0


@pytest.mark.parametrize("method", ["call", "OnMessageEvent", "NeverHeardOf", None])
def test_repeats_of_other_methods_are_recognised_only_where_a_level_says_so(method: str | None) -> None:
    apps = "apps: {plain: {}, off: {dedupe: off}, own: {dedupe: 2s}}\n"
    assert loads(UPSTREAMS + "defaults: {upstream: u}\n" + apps).config.settings("plain", method).dedupe is None
    config = loads(UPSTREAMS + "defaults: {upstream: u, dedupe: 5s}\n" + apps).config
    assert config.settings("plain", method).dedupe == 5.0
    assert config.settings("off", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0


def test_a_static_app_neither_retries_nor_remembers() -> None:
    config = loads("defaults: {retry: {attempts: 3}, dedupe: 5s}\napps: {a: {static: allow}}\n").config
    assert config.settings("a", "connect") == Settings(None, Verdict.ALLOW, 3.0, REJECT)


def test_auto_is_a_worker_per_cpu_that_this_process_may_use() -> None:
    server = loads("server: {workers: auto}\n").config.server
    assert server.workers == min(len(os.sched_getaffinity(0)), 256)
    assert loads("server: {workers: 7}\n").config.server.workers == 7


def test_targets_in_full() -> None:
    config = loads(
        "upstreams: {u: {targets: ["
        "{url: 'http://h/a/'}, {url: http://h/b, weight: 1000}, {url: http://i, backup: true}]}}\n"
    ).config
    assert config.upstreams["u"].targets == (
        Target(url="http://h/a", weight=1, backup=False),
        Target(url="http://h/b", weight=1000, backup=False),
        Target(url="http://i", weight=1, backup=True),
    )


def test_as_many_targets_as_the_limit_are_fine() -> None:
    urls = ", ".join(f"{{url: http://h{number}}}" for number in range(256))
    assert len(loads(f"upstreams: {{u: {{targets: [{urls}]}}}}\n").config.upstreams["u"].targets) == 256


def test_a_breaker_may_be_off_and_takes_its_own_figures_one_by_one() -> None:
    config = loads(
        "upstreams: {u: {url: http://h, breaker: off}, v: {url: http://h, breaker: {failures: 3, open_for: 100ms}}}\n"
    ).config
    assert config.upstreams["u"].breaker is None
    assert config.upstreams["v"].breaker == BreakerSettings(failures=3, window=10.0, open_for=0.1)


def test_health_checks_have_defaults_of_their_own() -> None:
    config = loads(
        "upstreams: {u: {url: http://h, health: {}}, v: {url: http://h, health: {path: '/up?deep=1', interval: 1s, "
        "expect: 204}}}\n"
    ).config
    health = config.upstreams["u"].health
    assert health is not None
    assert (health.path, health.interval, health.timeout, health.expect) == ("/", 5.0, 1.0, 200)
    assert config.upstreams["v"].health == Health(path="/up?deep=1", interval="1s", expect=204)  # type: ignore[arg-type]


def test_an_empty_retry_list_means_that_nothing_is_tried_again() -> None:
    retry = loads("upstreams: {u: {url: http://h, retry: {on: []}}}\n").config.upstreams["u"].retry
    assert retry == Retry(attempts=2, on=frozenset())


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
        "server: {listen: [':1', unix:/run/g.sock], allow_from: [10.0.0.0/8, '::1']}\n"
        "upstreams: {u: {url: https://h, tls: {minimum_version: '1.3'}}}\n"
        "apps: {a: {upstream: u, signature: {keys: [k]}}, b: {upstream: u, credentials: {username: w, password: p}}}\n"
    ).config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_static_app_has_no_upstream_even_where_the_defaults_name_one() -> None:
    config = loads(UPSTREAMS + "defaults: {upstream: u}\napps: {a: {static: allow}}\n").config
    assert config.settings("a", "call") == Settings(None, Verdict.ALLOW, 3.0, REJECT)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("reject", REJECT),
        ("allow", ALLOW),
        ("{}", REJECT),
        ("{timeout: reject, bad_answer: allow}", Fallback(frozenset({Cause.BAD_ANSWER}))),
    ],
)
def test_fallback_has_three_forms(written: str, meant: Fallback) -> None:
    assert loads(f"defaults: {{fallback: {written}}}\n").config.defaults.fallback == meant


def test_every_form_of_listen_is_a_tuple_of_addresses() -> None:
    assert loads("server: {listen: ':1'}\n").config.server.listen == (Address("", 1),)
    both = loads("server: {listen: ['0.0.0.0:1', '[::]:1', 'h:0', 'h:0']}\n").config.server.listen
    assert both == (Address("0.0.0.0", 1), Address("::", 1), Address("h", 0), Address("h", 0))
    assert loads("server: {listen: unix:/run/g.sock}\n").config.server.listen == (UnixAddress("/run/g.sock"),)
    mixed = loads("server: {listen: [':1', unix:/a, unix:/b]}\n").config.server.listen
    assert mixed == (Address("", 1), UnixAddress("/a"), UnixAddress("/b"))


def test_allow_from_is_a_tuple_of_networks() -> None:
    server = loads("server: {allow_from: [10.0.0.0/8, 192.168.1.10, '2001:db8::/32']}\n").config.server
    assert server.allow_from == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("192.168.1.10/32"),
        IPv6Network("2001:db8::/32"),
    )
    assert len(loads(f"server: {{allow_from: [{'10.0.0.1, ' * 1024}]}}\n").config.server.allow_from) == 1024


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


@pytest.mark.parametrize("choice", ["auto", "always", "never"])
def test_the_app_label_of_histograms_is_a_choice(choice: str) -> None:
    assert loads(f"metrics: {{app_label: {choice}}}\n").config.metrics.app_label == choice


def test_an_upstream_in_full() -> None:
    upstream = loads(
        "upstreams: {u: {url: 'https://[::1]:8443/a/b//', connect_timeout: 1s, keepalive: off, max_connections: 65535, "
        "max_answer: 512B, host: 'legacy_1:8080', headers: {X-Key: k}, credentials: {username: w, password: ''}}}\n"
    ).config.upstreams["u"]
    assert upstream.targets == (Target(url="https://[::1]:8443/a/b"),)
    assert (upstream.keepalive, upstream.max_connections, upstream.max_answer) == (None, 65535, 512)
    assert upstream.host == "legacy_1:8080"


def test_unknown_app_may_name_an_app_or_a_glob() -> None:
    text = "apps: {'t-*': {static: allow}}\nunknown_app: t-*\n"
    assert loads(text).config.unknown_app == "t-*"


def test_hook_types_are_the_catalogue_s_types() -> None:
    assert loads("hook_types: {MyEvent: event}\n").config.hook_types == {"MyEvent": MethodType.EVENT}


def test_the_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.unknown_app = "x"


def test_a_timeout_just_below_the_media_server_s_limit_is_fine() -> None:
    assert loads("defaults: {timeout: 14499ms}\n").config.defaults.timeout == 14.499


def test_ten_thousand_apps_all_load() -> None:
    lines = [
        f"  app-{number:05}: {{upstream: u, timeout: 2s, signature: {{keys: [k{number}]}}}}\n"
        for number in range(10_000)
    ]
    loaded = loads(UPSTREAMS + "apps:\n" + "".join(lines))
    assert len(loaded.config.apps) == 10_000
    settings = loaded.config.settings("app-09999", None)
    assert settings.timeout == 2.0
    assert settings.signature is not None
    assert settings.signature.keys == (SecretStr("k9999"),)
