"""Checks across sections: budgets, addresses, names, and what has no effect."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import (
    ConfigError,
    loads,
)
from gateway.config.checks import cross
from tests.config.texts import BACKEND, BACKEND_APP, UPSTREAMS, problems_of, warnings_of

TWICE = "a backend may act on the hook more than once"
NO_TOKEN = "without admin.token, clients that are not on loopback can only use /-/healthy and /-/ready"

REJECTED = [
    (UPSTREAMS + "apps: {a: {static: allow, upstream: [{name: u, weight: 1}, {name: v, weight: 2}]}}\n", "2:12: apps.a.static: cannot be combined with upstream: an app has one or the other"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, credentials: {username: w, password: p}}}\napps: {a: {upstream: u, failover: v, signature: {keys: [k], upstream_key: l}}}\n", "2:61: apps.a.signature.upstream_key: conflicts with upstreams.v.credentials: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: u, rules: [{caller: x, upstream: v}], signature: {keys: [k], upstream_key: l}}}\n", "2:83: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: [{name: u, weight: 1}, {name: v, weight: 1}], signature: {keys: [k], upstream_key: l}}}\n", "2:91: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: u, methods: {call: {shadow: {upstream: v}}}, signature: {keys: [k], upstream_key: l}}}\n", "2:90: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    ("record: {path: /no/such/dir/f}\n", "1:10: record.path: its directory cannot be used: no such file or directory"),
    ("record: {path: /dev/null/f}\n", "1:10: record.path: is in something that is not a directory"),
    ("record: {path: /dev/null}\n", "1:10: record.path: exists, but is not a regular file"),
    ("record: {path: /tmp}\n", "1:10: record.path: exists, but is not a regular file"),
    (f"record: {{path: {'x' * 254}}}\n", "1:10: record.path: its directory cannot be used: file name too long"),
    ("server: {listen: ['unix:/a', ':80', 'unix://a']}\n", "1:37: server.listen[2]: unix://a is taken by another address of this list"),
    ("server: {listen: ['127.0.0.1:80', ':80']}\n", "1:35: server.listen[1]: :80 is taken by another address of this list"),
    ("server: {listen: ['systemd:a', 'systemd:b', 'systemd:a']}\n", "1:45: server.listen[2]: systemd:a is taken by another address of this list"),
    ("server: {listen: 'systemd:a', admin: 'systemd:a'}\n", "1:31: server.admin: systemd:a is a hook port too: the admin port needs its own"),
    ("server: {listen: ':9180'}\n", "1:1: server.admin: 127.0.0.1:9180 is a hook port too: the admin port needs its own"),
    ("server: {admin: '127.0.0.1:8080'}\n", "1:10: server.admin: 127.0.0.1:8080 is a hook port too: the admin port needs its own"),
    ("media_server: {margin: 20s}\n", "1:16: media_server.margin: 20s leaves no time for a hook: it must be shorter than request_timeout, which is 15s"),
    ("defaults:\n  timeout: 14500ms\n", "2:3: defaults.timeout: timeout 14.5s must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    ("media_server: {request_timeout: 3s}\n", "1:1: defaults.timeout: timeout 3s must be below 2.5s (media_server.request_timeout 3s minus margin 500ms), or the media server gives up first"),
    (BACKEND + "apps:\n  defaultApp:\n    upstream: u\n    timeout: 15s\n", "5:5: apps.defaultApp.timeout: timeout 15s must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    (BACKEND + "apps: {a: {upstream: u, methods: {connect: {timeout: 1m}}}}\n", "2:45: apps.a.methods.connect.timeout: timeout 1m must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    ("upstreams: {u: {targets: [{url: http://h/a}, {url: http://i/a}, {url: 'http://H:80/a/'}]}}\n", "1:66: upstreams.u.targets[2].url: names the same target as item [0] of this list"),
    ("upstreams: {u: {url: http://h, health: {interval: 2s, timeout: 2100ms}}}\n", "1:55: upstreams.u.health.timeout: 2.1s is longer than interval, which is 2s"),
    ("upstreams: {u: {url: http://h, health: {interval: 500ms}}}\n", "1:32: upstreams.u.health.timeout: 1s is longer than interval, which is 500ms"),
    (BACKEND + "apps: {a: {upstream: u, credentials: {username: w, password: ''}}}\n", "2:52: apps.a.credentials.password: must not be empty"),
    (BACKEND + "apps: {a: {upstream: u, credentials: {username: w, password: p}, signature: {keys: [k]}}}\n", "2:66: apps.a.signature: cannot be combined with credentials: a hook has only one Authorization header"),
    (BACKEND + "apps: {a: {upstream: u, signature: {}}}\n", "2:25: apps.a.signature: has no keys to verify with: write them, or mode: pass"),
    (BACKEND + "apps: {a: {upstream: u, signature: {mode: verify}}}\n", "2:25: apps.a.signature: has no keys to verify with: write them, or mode: pass"),
    ("upstreams: {u: {url: http://h, credentials: {username: w, password: p}}}\napps: {a: {upstream: u, signature: {keys: [k], upstream_key: l}}}\n", "2:48: apps.a.signature.upstream_key: conflicts with upstreams.u.credentials: both set Authorization"),
    ("upstreams: {u: {url: http://h, headers: {authorization: x}}}\ndefaults: {upstream: u}\napps: {a: {signature: {mode: pass, upstream_key: l}}}\n", "3:36: apps.a.signature.upstream_key: conflicts with upstreams.u.headers: both set Authorization"),
    (BACKEND + "apps: {a: {}}\n", "2:8: apps.a: has no upstream: name one here or in defaults, or write static: allow or reject"),
    (BACKEND + "apps: {a: {upstream: u, static: allow}}\n", "2:25: apps.a.static: cannot be combined with upstream: an app has one or the other"),
    (BACKEND + BACKEND_APP + "unknown_app: b\n", "3:1: unknown_app: no app has this name"),
    (BACKEND + "apps: {defaultApp: {upstream: u}}\nunknown_app: defaultapp\n", '3:1: unknown_app: no app has this name; did you mean "defaultApp"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


WARNED = [
    (UPSTREAMS + "apps: {a: {static: allow, failover: v}}\n", "2:27: apps.a.failover: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, rate_limit: 5/s}}\n", "2:27: apps.a.rate_limit: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, response_check: off}}\n", "2:27: apps.a.response_check: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, shadow: {upstream: v}}}\n", "2:27: apps.a.shadow: has no effect: the app is static, so no backend is asked"),
    ("upstreams: {}\n", "1:1: apps: there are no apps: every hook is rejected"),
    ("server: {keepalive_timeout: 5s}\n" + BACKEND + BACKEND_APP, "1:10: server.keepalive_timeout: should be longer than 5s: the media server keeps idle connections that long, and repeats a hook that meets a closing one"),
    (BACKEND + "apps: {a: {static: allow, retry: {on: [reset]}}}\n", "2:27: apps.a.retry: has no effect: the app is static, so no backend is asked"),
    (BACKEND + "apps: {a: {static: allow, dedupe: 5s}}\n", "2:27: apps.a.dedupe: has no effect: the app is static, so no backend is asked"),
    (BACKEND + "apps: {a: {static: allow, max_in_flight: 5}}\n", "2:27: apps.a.max_in_flight: has no effect: the app is static, so no backend is asked"),
    ("upstreams: {u: {url: http://h, retry: {on: [connect, reset, timeout]}}}\n" + BACKEND_APP, f"1:40: upstreams.u.retry.on: {TWICE}"),
    (BACKEND + BACKEND_APP + "defaults: {retry: {on: [error_status]}}\n", f"3:20: defaults.retry.on: {TWICE}"),
    (BACKEND + "apps: {a: {upstream: u, retry: {on: [bad_answer]}}}\n", f"2:33: apps.a.retry.on: {TWICE}"),
    (BACKEND + "apps: {a: {upstream: u, methods: {OnCallEvent: {retry: {on: [timeout]}}}}}\n", f"2:57: apps.a.methods.OnCallEvent.retry.on: {TWICE}"),
    (BACKEND + "apps: {a: {upstream: u, methods: {X: {retry: {on: [timeout]}}}}}\nhook_types: {X: direct}\n", f"2:47: apps.a.methods.X.retry.on: {TWICE}"),
    ("server: {admin: ':9180'}\n" + BACKEND + BACKEND_APP, f"1:10: server.admin: {NO_TOKEN}"),
    ("server: {admin: '[::]:9180'}\nadmin: {}\n" + BACKEND + BACKEND_APP, f"1:10: server.admin: {NO_TOKEN}"),
    ("server: {admin: 'gateway.example.com:9180'}\n" + BACKEND + BACKEND_APP, f"1:10: server.admin: {NO_TOKEN}"),
    ("apps: {a: {static: allow, signature: {keys: [k], upstream_key: l}}}\n", "1:50: apps.a.signature.upstream_key: has no effect: the app is static, so no backend is asked"),
    ("apps: {a: {static: allow, timeout: 2s}}\n", "1:27: apps.a.timeout: has no effect: the app is static, so no backend is asked"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    "text",
    [
        BACKEND + "apps: {a: {upstream: u, retry: {on: [connect]}}}\n",
        BACKEND + "apps: {a: {upstream: u, retry: {attempts: 1, on: [timeout]}}}\n",
        BACKEND + "apps: {a: {upstream: u, methods: {StreamStatusEvent: {retry: {on: [timeout]}}}}}\n",
        BACKEND + "apps: {a: {upstream: u, methods: {connect: {retry: {on: [reset]}}}}}\n",
        BACKEND + "apps: {a: {upstream: u, methods: {X: {retry: {on: [reset]}}}}}\nhook_types: {X: event}\n",
        BACKEND + BACKEND_APP + "server: {workers: 2}\n",
        BACKEND + BACKEND_APP + "server: {workers: auto}\ndefaults: {dedupe: 5s, rate_limit: 50/s}\n",
        BACKEND + BACKEND_APP + "server: {admin: ':9180'}\nadmin: {token: t}\n",
        BACKEND + BACKEND_APP + "server: {admin: 'localhost:9180'}\n",
        BACKEND + BACKEND_APP + "server: {admin: '[::1]:9180'}\n",
        BACKEND + BACKEND_APP + "server: {admin: '127.9.9.9:9180'}\n",
        BACKEND + BACKEND_APP + "server: {listen: ['0.0.0.0:8080', 'unix:/run/g.sock']}\n",
        BACKEND + "apps: {a: {upstream: u, signature: {keys: [k]}}, b: {static: allow, signature: {keys: [k]}}}\n",
        BACKEND + "apps: {a: {static: allow, credentials: {username: w, password: p}}}\n",
        BACKEND + "server: {max_in_flight: 10}\napps: {a: {upstream: u, max_in_flight: 20}}\n",
    ],
)
def test_what_does_no_harm_is_no_cause_for_a_warning(text: str) -> None:
    assert warnings_of(loads(text)) == []


def test_a_timeout_just_below_the_media_server_s_limit_is_fine() -> None:
    assert loads("defaults: {timeout: 14499ms}\n").config.defaults.timeout == 14.499


def test_a_state_needs_packages_that_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "state: {url: 'redis://h'}\napps: {a: {static: allow}}\n"
    assert loads(text).warnings == ()
    monkeypatch.setattr(cross, "is_driver_installed", lambda: False)
    assert problems_of(text) == ["1:1: state: needs packages that are not installed: pip install 'wcs-gateway[fleet]'"]


@pytest.mark.parametrize(("scheme", "said"), [("redis", True), ("redis+sentinel", True), ("rediss", False)])
def test_certificates_without_tls_have_no_effect(scheme: str, said: bool) -> None:
    text = f"state: {{url: '{scheme}://h/{'wcs' if 'sentinel' in scheme else 0}', tls: {{}}}}\napps: {{a: {{static: allow}}}}\n"
    warning = "state.tls: has no effect: state.url does not begin with rediss"
    assert [str(it).rpartition(f"{it.path}: ")[2] for it in loads(text).warnings] == [warning.partition(": ")[2]] * said
