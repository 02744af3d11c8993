# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching
"""What an app may not say of its upstreams, rules, rates, shadows, answers and records: one bad file per rule."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigError, Loaded, Problem, loads
from gateway.model.hooks import KEEP_ALIVE

UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}}\n"


def of_u(settings: str) -> str:
    """An app of upstream u."""
    return UPSTREAMS + "apps: {a: {upstream: u, " + settings + "}}\n"


def warnings_of(loaded: Loaded) -> list[Problem]:
    """All but the one that every app has which says nothing of StreamKeepAliveEvent (see test_method_checks)."""
    return [it for it in loaded.warnings if KEEP_ALIVE not in it.message]


REJECTED = [
    # --- upstreams by weight ---
    (UPSTREAMS + "apps: {a: {upstream: 5}}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not 5"),
    (UPSTREAMS + "apps: {a: {upstream: ''}}\n", '2:12: apps.a.upstream: must be the name of an upstream, not ""'),
    (UPSTREAMS + "apps: {a: {upstream: {name: u}}}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not a mapping"),
    (UPSTREAMS + "apps: {a: {upstream: []}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}]}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [" + "{name: u, weight: 1}, " * 17 + "]}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u}, {name: v, weight: 1}]}}\n", "2:23: apps.a.upstream[0].weight: is required"),
    (UPSTREAMS + "apps: {a: {upstream: [{weight: 1}, {name: v, weight: 1}]}}\n", "2:23: apps.a.upstream[0].name: is required"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: -1}, {name: v, weight: 1}]}}\n", "2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not -1"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1001}, {name: v, weight: 1}]}}\n", "2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not 1001"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 95%}, {name: v, weight: 5}]}}\n", '2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not "95%"'),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}, {name: u, weight: 2}]}}\n", "2:46: apps.a.upstream[1].name: names the same upstream as item [0] of this list"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 0}, {name: v, weight: 0}]}}\n", "2:12: apps.a.upstream: must have a weight above 0: with these, no upstream would be asked"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}, {name: w, weight: 2}]}}\n", "2:46: apps.a.upstream[1].name: no upstream has this name"),
    (UPSTREAMS + "defaults: {upstream: [{name: u, weight: 1}, {name: w, weight: 2}]}\n", "2:46: defaults.upstream[1].name: no upstream has this name"),
    (UPSTREAMS + "apps: {a: {static: allow, upstream: [{name: u, weight: 1}, {name: v, weight: 2}]}}\n", "2:12: apps.a.static: cannot be combined with upstream: an app has one or the other"),
    ("upstreams: {'shadow:u': {url: http://h}}\n", '1:13: upstreams."shadow:u": names that begin with shadow: are reserved: choose another'),
    # --- failover ---
    (of_u("failover: w"), "2:25: apps.a.failover: no upstream has this name"),
    (of_u("failover: [v, w]"), "2:39: apps.a.failover[1]: no upstream has this name"),
    (of_u("failover: [v, v]"), "2:39: apps.a.failover[1]: names the same upstream as item [0] of this list"),
    (of_u("failover: u"), "2:25: apps.a.failover: is the upstream that is asked anyway: name another one"),
    (of_u("failover: [v, u]"), "2:39: apps.a.failover[1]: is the upstream that is asked anyway: name another one"),
    (of_u("failover: "), "2:25: apps.a.failover: must be the name of an upstream, not empty"),
    (of_u("failover: 5"), "2:25: apps.a.failover: must be the name of an upstream, not 5"),
    (of_u("failover: {u: v}"), "2:25: apps.a.failover: must be the name of an upstream, not a mapping"),
    (of_u("failover: [" + "v, " * 9 + "]"), "2:25: apps.a.failover: must hold at most 8 upstreams"),
    (of_u("failover: u, rules: [{caller: x, upstream: u}, {caller: x, verdict: allow}]"), "2:25: apps.a.failover: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {upstream: u, failover: u}\napps: {a: {}}\n", "2:25: defaults.failover: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {upstream: u}\napps: {a: {failover: [u]}}\n", "3:23: apps.a.failover[0]: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {failover: w}\n", "2:12: defaults.failover: no upstream has this name"),
    (of_u("methods: {call: {failover: v}}"), '2:42: apps.a.methods.call.failover: unknown key; did you mean "failover_on"?'),
    # --- refusals that count ---
    (of_u("rest_client_config: on"), '2:25: apps.a.rest_client_config: must be a mapping, off, warn, or enforce, not "on"'),
    (of_u("rest_client_config: "), "2:25: apps.a.rest_client_config: must be a mapping, off, warn, or enforce, not empty"),
    (of_u("rest_client_config: {mode: raise}"), '2:46: apps.a.rest_client_config.mode: must be off, warn or enforce, not "raise"'),
    (of_u("rest_client_config: {mod: warn}"), '2:46: apps.a.rest_client_config.mod: unknown key; did you mean "mode"?'),
    (of_u("rest_client_config: {mode: }"), "2:46: apps.a.rest_client_config.mode: must be off, warn or enforce, not empty"),
    (of_u("rest_client_config: {methods: [OnCallEvent]}"), "2:46: apps.a.rest_client_config.methods: must be a mapping, not a list"),
    (of_u("rest_client_config: {methods: {OnCallEvent: FAIL}}"), '2:56: apps.a.rest_client_config.methods.OnCallEvent: must be a mapping, not "FAIL"'),
    (of_u("rest_client_config: {methods: }"), "2:46: apps.a.rest_client_config.methods: must be a mapping, not empty"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnError: LOG}}}"), "2:56: apps.a.rest_client_config.methods.OnCallEvent: must have a restOnError that is FAIL"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restPolicy: overwrite}}}"), "2:56: apps.a.rest_client_config.methods.OnCallEvent: must have a restPolicy that is NOTIFY or OVERWRITE"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnError: 5}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restOnError: must be text of 1 to 1024 characters, such as FAIL, not 5"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {rest-on: FAIL}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.rest-on: must be a field of the media server's, such as restOnError"),
    (of_u("rest_client_config: {methods: {a-b: {restOnError: FAIL}}}"), "2:56: apps.a.rest_client_config.methods.a-b: must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming"),
    (of_u("methods: {connect: {rest_client_config: enforce}}"), "2:45: apps.a.methods.connect.rest_client_config: unknown key"),
    # --- answers ---
    (of_u("response_check: yes"), '2:25: apps.a.response_check: must be strict, repair or off, not "yes"'),
    (of_u("response_check: "), "2:25: apps.a.response_check: must be strict, repair or off, not empty"),
    ("defaults: {response_check: lax}\n", '1:12: defaults.response_check: must be strict, repair or off, not "lax"'),
    (of_u("methods: {call: {response_check: 1}}"), "2:42: apps.a.methods.call.response_check: must be strict, repair or off, not 1"),
    # --- rates ---
    (of_u("rate_limit: 50"), "2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not 50"),
    (of_u("rate_limit: 50/d"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "50/d"'),
    (of_u("rate_limit: 0/s"), '2:25: apps.a.rate_limit: must be more than 0 and at most 1000000/s, not "0/s"'),
    (of_u("rate_limit: 9999999/s"), '2:25: apps.a.rate_limit: must be more than 0 and at most 1000000/s, not "9999999/s"'),
    (of_u("rate_limit: 5/s burst 0"), '2:25: apps.a.rate_limit: must have a burst from 1 to 10000000, not "5/s burst 0"'),
    (of_u("rate_limit: 5/s burst"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "5/s burst"'),
    (of_u("rate_limit: "), "2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not empty"),
    (of_u("rate_limit: -1/s"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "-1/s"'),
    ("defaults: {rate_limit: fast}\n", '1:12: defaults.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "fast"'),
    (of_u("methods: {call: {rate_limit: 5/s}}"), "2:42: apps.a.methods.call.rate_limit: unknown key"),
    # --- rules ---
    (of_u("rules: {caller: x}"), "2:25: apps.a.rules: must be a list, not a mapping"),
    (of_u("rules: "), "2:25: apps.a.rules: must be a list, not empty"),
    (of_u("rules: [x]"), '2:33: apps.a.rules[0]: must be a mapping, not "x"'),
    (of_u("rules: [" + "{caller: x, verdict: allow}, " * 257 + "]"), "2:25: apps.a.rules: must hold at most 256 rules"),
    (of_u("rules: [{verdict: allow, caller: [" + "'*1', " * 512 + "'1?', '1', '1*']}]"), "2:25: apps.a.rules: must hold at most 512 numbers with a ? or with a * that is not at their end"),
    (of_u("rules: [{caller: x}]"), "2:33: apps.a.rules[0]: must have a verdict or an upstream"),
    (of_u("rules: [{caller: x, verdict: allow, upstream: v}]"), "2:33: apps.a.rules[0]: must have a verdict or an upstream: one of them, not both"),
    (of_u("rules: [{verdict: reject}]"), "2:33: apps.a.rules[0]: must have a condition: caller, callee, methods or time"),
    (of_u("rules: [{name: all, upstream: v}]"), "2:33: apps.a.rules[0]: must have a condition: caller, callee, methods or time"),
    (of_u("rules: [{caller: x, verdict: error}]"), '2:45: apps.a.rules[0].verdict: must be allow or reject, not "error"'),
    (of_u("rules: [{caller: x, verdict: }]"), "2:45: apps.a.rules[0].verdict: must be allow or reject, not empty"),
    (of_u("rules: [{caller: x, upstream: w}]"), "2:45: apps.a.rules[0].upstream: no upstream has this name"),
    (of_u("rules: [{caler: x, verdict: allow}]"), '2:34: apps.a.rules[0].caler: unknown key; did you mean "caller"?'),
    (of_u("rules: [{caller: 110, verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not 110'),
    (of_u("rules: [{caller: '', verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not ""'),
    (of_u("rules: [{caller: , verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not empty'),
    (of_u("rules: [{callee: [], verdict: allow}]"), "2:34: apps.a.rules[0].callee: must hold 1 to 1024 numbers"),
    (of_u("rules: [{callee: [110], verdict: allow}]"), '2:43: apps.a.rules[0].callee[0]: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not 110'),
    (of_u("rules: [{callee: {a: b}, verdict: allow}]"), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not a mapping'),
    (of_u('rules: [{callee: "a\\n", verdict: allow}]'), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not "a\\n"'),
    (of_u("rules: [{callee: " + "9" * 257 + "x, verdict: allow}]"), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not "99999999999999999999999999999999999999999999999999999999999…"'),
    (of_u("rules: [{methods: On-Call, verdict: allow}]"), '2:34: apps.a.rules[0].methods: must be a method\'s name, with * and ? for what varies, such as OnCallEvent, not "On-Call"'),
    (of_u("rules: [{methods: [], verdict: allow}]"), "2:34: apps.a.rules[0].methods: must hold 1 to 256 methods"),
    (of_u("rules: [{name: '', caller: x, verdict: allow}]"), '2:34: apps.a.rules[0].name: must be a rule\'s name: 1 to 64 characters, no control characters, no square brackets, not ""'),
    (of_u("rules: [{name: 'rules[1]', caller: x, verdict: allow}]"), '2:34: apps.a.rules[0].name: must be a rule\'s name: 1 to 64 characters, no control characters, no square brackets, not "rules[1]"'),
    (of_u("rules: [{name: n, caller: x, verdict: allow}, {name: n, caller: y, verdict: allow}]"), "2:72: apps.a.rules[1].name: is the name of item [0] of this list too"),
    (of_u("rules: [{time: 5, verdict: allow}]"), "2:34: apps.a.rules[0].time: must be text such as Mon-Fri 22:00-06:00 Europe/Berlin, not 5"),
    (of_u("rules: [{time: Mo-Fr, verdict: allow}]"), '2:34: apps.a.rules[0].time: must name days such as Mon-Fri, or a time zone that this machine knows, such as Europe/Berlin, not "Mo-Fr"'),
    (of_u("rules: [{time: '22:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must be a time window such as Mon-Fri 22:00-06:00 Europe/Berlin, not "22:00"'),
    (of_u("rules: [{time: '22:00-25:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must hold times of day from 00:00 to 24:00, such as 22:00-06:00, not "22:00-25:00"'),
    (of_u("rules: [{time: 'Mon 22:00-06:00 Europe/Nowhere', verdict: allow}]"), '2:34: apps.a.rules[0].time: must name days such as Mon-Fri, or a time zone that this machine knows, such as Europe/Berlin, not "Mon 22:00-06:00 Europe/Nowhere"'),
    (of_u("rules: [{time: '22:00-22:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must end at another time than it begins; 00:00-24:00 is a whole day, not "22:00-22:00"'),
    (of_u("rules: [{time: '2026-02-30', verdict: allow}]"), '2:34: apps.a.rules[0].time: must be a date of the calendar, such as 2026-12-24, not "2026-02-30"'),
    (of_u("rules: [{time: , verdict: allow}]"), "2:34: apps.a.rules[0].time: must be text such as Mon-Fri 22:00-06:00 Europe/Berlin, not empty"),
    (UPSTREAMS + "defaults: {rules: [{caller: x, upstream: w}]}\n", "2:32: defaults.rules[0].upstream: no upstream has this name"),
    (UPSTREAMS + "defaults: {rules: [{caller: x}]}\n", "2:20: defaults.rules[0]: must have a verdict or an upstream"),
    (UPSTREAMS + "apps: {a: {static: allow, rules: [{caller: x, upstream: u}]}}\n", "2:47: apps.a.rules[0].upstream: cannot be asked: the app is static, it has no backend"),
    (of_u("methods: {call: {rules: []}}"), "2:42: apps.a.methods.call.rules: unknown key"),
    # --- shadows ---
    (of_u("shadow: v"), '2:25: apps.a.shadow: must be a mapping, or off, not "v"'),
    (of_u("shadow: on"), '2:25: apps.a.shadow: must be a mapping, or off, not "on"'),
    (of_u("shadow: "), "2:25: apps.a.shadow: must be a mapping, or off, not empty"),
    (of_u("shadow: {}"), "2:25: apps.a.shadow.upstream: is required"),
    (of_u("shadow: {upstream: w}"), "2:34: apps.a.shadow.upstream: no upstream has this name"),
    (of_u("shadow: {upstream: u}"), "2:34: apps.a.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (UPSTREAMS + "defaults: {upstream: u}\napps: {a: {shadow: {upstream: u}}}\n", "3:21: apps.a.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (of_u("shadow: {upstream: v, sample: 0}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 0"),
    (of_u("shadow: {upstream: v, sample: 0%}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "0%"'),
    (of_u("shadow: {upstream: v, sample: 101%}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "101%"'),
    (of_u("shadow: {upstream: v, sample: 1.5}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 1.5"),
    (of_u("shadow: {upstream: v, sample: true}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not true"),
    (of_u("shadow: {upstream: v, sample: half}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "half"'),
    (of_u("shadow: {upstream: v, sample: .nan}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not .nan"),
    (of_u("shadow: {upstream: v, methods: []}"), "2:47: apps.a.shadow.methods: must hold 1 to 256 methods"),
    (of_u("shadow: {upstream: v, methods: 'a b'}"), '2:47: apps.a.shadow.methods: must be a method\'s name, with * and ? for what varies, such as OnCallEvent, not "a b"'),
    (of_u("shadow: {upstream: v, compare: all}"), '2:47: apps.a.shadow.compare: must be verdict or body, not "all"'),
    (of_u("shadow: {upstream: v, ignore: ts}"), '2:47: apps.a.shadow.ignore: must be a list, not "ts"'),
    (of_u("shadow: {upstream: v, ignore: [5]}"), "2:56: apps.a.shadow.ignore[0]: must be a field of the answer such as ts, or a path of fields such as restClientConfig.OnCallEvent, not 5"),
    (of_u("shadow: {upstream: v, ignore: ['']}"), '2:56: apps.a.shadow.ignore[0]: must be a field of the answer such as ts, or a path of fields such as restClientConfig.OnCallEvent, not ""'),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: u}}}"), "2:58: apps.a.methods.OnCallEvent.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: w}}}"), "2:58: apps.a.methods.OnCallEvent.shadow.upstream: no upstream has this name"),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: v, methods: call}}}"), "2:71: apps.a.methods.OnCallEvent.shadow.methods: unknown key"),
    ("defaults: {shadow: off}\n", "1:12: defaults.shadow: unknown key"),
    # --- who may ask, with several upstreams ---
    ("upstreams: {u: {url: http://h}, v: {url: http://i, credentials: {username: w, password: p}}}\napps: {a: {upstream: u, failover: v, signature: {keys: [k], upstream_key: l}}}\n", "2:61: apps.a.signature.upstream_key: conflicts with upstreams.v.credentials: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: u, rules: [{caller: x, upstream: v}], signature: {keys: [k], upstream_key: l}}}\n", "2:83: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: [{name: u, weight: 1}, {name: v, weight: 1}], signature: {keys: [k], upstream_key: l}}}\n", "2:91: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    ("upstreams: {u: {url: http://h}, v: {url: http://i, headers: {Authorization: x}}}\napps: {a: {upstream: u, methods: {call: {shadow: {upstream: v}}}, signature: {keys: [k], upstream_key: l}}}\n", "2:90: apps.a.signature.upstream_key: conflicts with upstreams.v.headers: both set Authorization"),
    # --- record ---
    ("record: {}\n", "1:1: record.path: is required"),
    ("record: \n", "1:1: record: must be a mapping, not empty"),
    ("record: off\n", '1:1: record: must be a mapping, not "off"'),
    ("record: {path: ''}\n", "1:10: record.path: must be the path of a file: absolute, or from the directory of the configuration"),
    ("record: {path: 5}\n", "1:10: record.path: must be the path of a file: absolute, or from the directory of the configuration"),
    ("record: {path: /no/such/dir/f}\n", "1:10: record.path: its directory cannot be used: no such file or directory"),
    ("record: {path: /dev/null/f}\n", "1:10: record.path: is in something that is not a directory"),
    ("record: {path: /dev/null}\n", "1:10: record.path: exists, but is not a regular file"),
    ("record: {path: /tmp}\n", "1:10: record.path: exists, but is not a regular file"),
    ("record: {path: /tmp/f, sample: 0}\n", "1:24: record.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 0"),
    ("record: {path: /tmp/f, failures_only: yes}\n", '1:24: record.failures_only: must be true or false, not "yes"'),
    ("record: {path: /tmp/f, max_size: 1KiB}\n", '1:24: record.max_size: must be between 64KiB and 64GiB, not "1KiB"'),
    ("record: {path: /tmp/f, max_size: 5}\n", "1:24: record.max_size: must be a size such as 64KiB or 1MiB, not 5"),
    ("record: {path: /tmp/f, files: 0}\n", "1:24: record.files: must be a whole number from 1 to 1000, not 0"),
    ("record: {path: /tmp/f, mask: caller}\n", '1:24: record.mask: must be a list, not "caller"'),
    ("record: {path: /tmp/f, mask: ['']}\n", '1:31: record.mask[0]: must be the name of a field: 1 to 64 characters, such as caller, not ""'),
    ("record: {path: /tmp/f, mask: [" + "a, " * 65 + "]}\n", "1:24: record.mask: must hold at most 64 fields"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


WARNED = [
    (of_u("rest_client_config: {methods: {OnCalEvent: {restOnError: FAIL}}}"), '2:56: apps.a.rest_client_config.methods.OnCalEvent: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (of_u("rest_client_config: {methods: {connect: {restOnError: FAIL}}}"), "2:66: apps.a.rest_client_config.methods.connect.restOnError: does nothing here: a rejected connect is declined in any case"),
    (of_u("rest_client_config: {methods: {CallStatusEvent: {restOnError: FAIL}}}"), "2:74: apps.a.rest_client_config.methods.CallStatusEvent.restOnError: does nothing here: an event has happened already and cannot be rejected"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnEror: FAIL}}}"), '2:70: apps.a.rest_client_config.methods.OnCallEvent.restOnEror: no field of a method that the media server is known to read; did you mean "restOnError"?'),
    (UPSTREAMS + "defaults: {upstream: u, rest_client_config: {methods: {StreamStatusEvent: {restOnError: FAIL}}}}\napps: {a: {}}\n", "2:76: defaults.rest_client_config.methods.StreamStatusEvent.restOnError: does nothing here: an event has happened already and cannot be rejected"),
    (UPSTREAMS + "apps: {a: {upstream: u, rest_client_config: {methods: {X: {restOnError: FAIL}}}}}\nhook_types: {X: event}\n", "2:60: apps.a.rest_client_config.methods.X.restOnError: does nothing here: an event has happened already and cannot be rejected"),
    (of_u("rules: [{methods: OnCalEvent, verdict: allow}]"), '2:34: apps.a.rules[0].methods: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (of_u("rules: [{methods: [OnCallEvent, 'Zebra*'], verdict: allow}]"), "2:57: apps.a.rules[0].methods[1]: matches no method of the catalogue and of hook_types"),
    (of_u("shadow: {upstream: v, methods: [OnCal]}"), "2:57: apps.a.shadow.methods[0]: neither in the catalogue of methods nor in hook_types"),
    (of_u("shadow: {upstream: v, methods: ['x?']}"), "2:57: apps.a.shadow.methods[0]: matches no method of the catalogue and of hook_types"),
    (of_u("methods: {CallStatusEvent: {fallback: {timeout: {allow: {a: b}}}}}"), "2:74: apps.a.methods.CallStatusEvent.fallback.timeout.allow: changes nothing: the media server takes no field from the answer to an event"),
    (of_u("failover_on: timeout"), "2:25: apps.a.failover_on: has no effect: no failover names an upstream"),
    (of_u("failover: [], failover_reserve: 10%"), "2:39: apps.a.failover_reserve: has no effect: no failover names an upstream"),
    (of_u("failover: v, failover_reserve: 10%"), "2:38: apps.a.failover_reserve: has no effect: failover_on has no timeout"),
    (of_u("failover: v, failover_on: timeout, methods: {call: {failover_on: [unreachable], failover_reserve: 0}}"), "2:105: apps.a.methods.call.failover_reserve: has no effect: failover_on has no timeout"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restExclude: 'x, caller'}}}, rules: [{caller: y, verdict: reject}]"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restExclude: rules read caller: those of this method would never be met"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restExclude: sessionId}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restExclude: the gateway needs sessionId: without it, it cannot tell whose the hook is"),
    (UPSTREAMS + "apps: {a: {static: allow, failover: v}}\n", "2:27: apps.a.failover: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, rate_limit: 5/s}}\n", "2:27: apps.a.rate_limit: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, response_check: off}}\n", "2:27: apps.a.response_check: has no effect: the app is static, so no backend is asked"),
    (UPSTREAMS + "apps: {a: {static: allow, shadow: {upstream: v}}}\n", "2:27: apps.a.shadow: has no effect: the app is static, so no backend is asked"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    "text",
    [
        of_u("rules: [{methods: oncallevent, verdict: allow}]"),
        of_u("rules: [{methods: 'On*', upstream: u}]"),
        of_u("shadow: {upstream: v, methods: '*'}"),
        of_u(
            "fallback: {timeout: {allow: {callee: '1'}}}, methods: {call: {fallback: {overload: {allow: {callee: '2'}}}}}"
        ),
        of_u("failover: v, failover_reserve: 10%, methods: {call: {failover_on: timeout}}"),
        of_u("failover: v, methods: {call: {failover_on: [timeout, unreachable], failover_reserve: 0.5}}"),
        UPSTREAMS + "defaults: {failover_on: timeout, failover_reserve: 5%}\napps: {a: {upstream: u}}\n",
        of_u(
            "rest_client_config: {methods: {call: {restExclude: caller}}}, rules: [{caller: y, methods: On*, verdict: reject}]"
        ),
        of_u("rest_client_config: {methods: {call: {restExclude: callee}}}, rules: [{caller: y, verdict: reject}]"),
        of_u("methods: {call: {shadow: {upstream: v}, response_check: off}}"),
        of_u("rest_client_config: {methods: {connect: {restPolicy: OVERWRITE, restOverwrite: 'a, b'}}}"),
        UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 0}, {name: v, weight: 1}], failover: [v, u]}}\n",
        UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 9}, {name: v, weight: 1}], shadow: {upstream: v}}}\n",
        UPSTREAMS + "defaults: {failover: v}\napps: {a: {upstream: u}, b: {upstream: v}, c: {static: allow}}\n",
        UPSTREAMS + "apps: {a: {static: allow, rest_client_config: enforce, rules: [{caller: x, verdict: reject}]}}\n",
        "upstreams: {shadowed: {url: http://h}}\napps: {a: {upstream: shadowed}}\n",
    ],
)
def test_what_does_no_harm_is_no_cause_for_a_warning(text: str) -> None:
    assert warnings_of(loads(text)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_record_that_cannot_be_written_by_whoever_checks_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    loaded = loads(of_u("timeout: 1s") + "record: {path: closed/f}\n", str(tmp_path / "gateway.yaml"))
    assert [(it.path, it.message) for it in warnings_of(loaded)] == [
        ("record.path", "cannot be written by this user: the gateway's own must be able to, or nothing is recorded")
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("link", "is a symbolic link, and none is followed: nothing is recorded"),
        ("dangling", "is a symbolic link, and none is followed: nothing is recorded"),
        ("other", "exists, but is not a recording: it is left unchanged, and nothing is recorded"),
        ("recording", None),
        ("empty", None),
    ],
)
def test_a_record_in_a_place_where_nothing_would_be_written_is_a_warning(
    tmp_path: Path, kind: str, message: str | None
) -> None:
    path = tmp_path / "f"
    if kind in ("link", "dangling"):
        path.symlink_to("elsewhere")
        if kind == "link":
            (tmp_path / "elsewhere").touch()
    else:
        path.write_bytes({"other": b"apps: {}\n", "recording": b'{"v":1,"run":"0a1b2c3d"}\n', "empty": b""}[kind])
    loaded = loads(of_u("timeout: 1s") + "record: {path: f}\n", str(tmp_path / "gateway.yaml"))
    assert [it.message for it in warnings_of(loaded)] == ([message] if message else [])
    assert {it.path for it in warnings_of(loaded)} <= {"record.path"}
