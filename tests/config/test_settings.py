"""The model: defaults, forms, and what an app's hooks meet once every level is merged."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import Address, Config, Settings, load, loads
from gateway.hooks import MethodType
from gateway.verdicts import Cause, Fallback, Verdict

EXAMPLE = Path(__file__).parents[2] / "gateway.yaml"
REJECT = Fallback()
ALLOW = Fallback(frozenset({Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD}))
UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}}\n"


def test_the_defaults_are_the_contract_s() -> None:
    config = loads(UPSTREAMS).config
    assert config.server.listen == (Address("0.0.0.0", 8080),)
    assert config.server.admin == Address("127.0.0.1", 9180)
    assert (config.server.max_body, config.server.read_timeout) == (262144, 5.0)
    assert (config.server.keepalive_timeout, config.server.drain_timeout) == (75.0, 20.0)
    assert config.admin.token is None
    assert (config.log.level, config.log.format, config.log.access) == ("info", "json", "all")
    assert config.log.mask == ("caller", "callee")
    assert (config.media_server.request_timeout, config.media_server.margin) == (15.0, 0.5)
    assert (config.defaults.upstream, config.defaults.timeout, config.defaults.fallback) == (None, 3.0, REJECT)
    upstream = config.upstreams["u"]
    assert (upstream.connect_timeout, upstream.keepalive, upstream.max_connections) == (0.5, 60.0, 64)
    assert (upstream.max_answer, upstream.host, upstream.headers, upstream.credentials) == (1 << 20, "target", {}, None)
    assert (config.unknown_app, config.hook_types) == ("reject", {})


def test_the_example_is_valid_and_without_warnings() -> None:
    loaded = load(EXAMPLE)
    assert loaded.warnings == ()
    assert loaded.path == EXAMPLE
    config = loaded.config
    assert config.server.listen == (Address("127.0.0.1", 8080),)
    assert config.settings("defaultApp", "OnCallEvent") == Settings("legacy-php", None, 1.5, REJECT)
    assert config.settings("defaultApp", "connect") == Settings(
        "legacy-php", None, 2.0, Fallback(frozenset({Cause.TIMEOUT, Cause.UNREACHABLE}))
    )
    assert config.settings("tenant-*", None) == Settings("legacy-php", None, 3.0, REJECT)
    assert config.settings("blocked", None).static is Verdict.REJECT


def test_what_the_example_comments_out_is_valid_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("pw\n")
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "t")
    monkeypatch.setenv("LEGACY_KEY", "k")
    text = EXAMPLE.read_text(encoding="utf-8")
    for line in ("admin:", "  token:", "headers:", "credentials:"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    config = loads(text.replace("/run/secrets/legacy-password", str(tmp_path / "password"))).config
    credentials = config.upstreams["legacy-php"].credentials
    assert credentials is not None
    assert credentials.password.reveal() == "pw"


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
    assert config.settings("own", "connect") == Settings("v", None, 1.0, app_fallback)
    assert config.settings("own", "call") == Settings("v", None, 4.0, REJECT)
    with pytest.raises(KeyError):
        config.settings("other", None)


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


def test_an_upstream_in_full() -> None:
    upstream = loads(
        "upstreams: {u: {url: 'https://[::1]:8443/a/b//', connect_timeout: 1s, keepalive: off, max_connections: 65535, "
        "max_answer: 512B, host: 'legacy_1:8080', headers: {X-Key: k}, credentials: {username: w, password: ''}}}\n"
    ).config.upstreams["u"]
    assert upstream.url == "https://[::1]:8443/a/b"
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
    lines = [f"  app-{number:05}: {{upstream: u, timeout: 2s}}\n" for number in range(10_000)]
    loaded = loads(UPSTREAMS + "apps:\n" + "".join(lines))
    assert len(loaded.config.apps) == 10_000
    assert loaded.config.settings("app-09999", None).timeout == 2.0
