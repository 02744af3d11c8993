# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching
"""One bad file per rule, with the exact message: the messages are what an operator works with."""

from __future__ import annotations

import pytest
import yaml

from gateway.config import ConfigError, Loaded, Problem, loads
from gateway.model.hooks import KEEP_ALIVE

UPSTREAM = "upstreams: {u: {url: http://backend/api}}\n"
APP = "apps: {a: {upstream: u}}\n"


def warnings_of(loaded: Loaded) -> list[Problem]:
    """All but the one that every app has which says nothing of StreamKeepAliveEvent (see test_method_checks)."""
    return [it for it in loaded.warnings if KEEP_ALIVE not in it.message]


REJECTED = [
    # --- the file as a whole ---
    ("", "1:1: the file is empty; it needs at least upstreams and apps"),
    ("# only a comment\n", "1:1: the file is empty; it needs at least upstreams and apps"),
    ("---\n~\n", "2:1: the file is empty; it needs at least upstreams and apps"),
    ("- a\n", "1:1: the file must be a mapping of keys such as server, upstreams and apps"),
    ("just text\n", "1:1: the file must be a mapping of keys such as server, upstreams and apps"),
    ("{}\n---\n{}\n", "2:1: a second YAML document begins here; a configuration is one document"),
    ("log: {level: info\n", "1:6: a { is opened here and not closed, or a comma is missing: add } or ,"),
    ("log:\n\tlevel: info\n", "2:1: line 2 is indented with a tab; YAML allows spaces only"),
    ("log: {}\nx\x00: 1\n", "2:2: not valid YAML: the character U+0000 is not allowed"),
    ("log: {level: !!str info}\n", '1:14: log.level: the tag "!!str" is not allowed: remove it'),
    ("log: !!python/object:os.system {}\n", '1:6: log: the tag "!!python/object:os.system" is not allowed: remove it'),
    ("? [a]\n: b\n", "1:3: a key must be a single value, not a list or a mapping"),
    ("log: {level: info}\nserver: {}\nlog: {}\n", '3:1: log: duplicate key "log" (lines 1 and 3)'),
    ("log: *x\n", "1:6: the alias *x has no anchor before it; a glob must be in quotes"),
    ("log: &x {mask: *x}\n", "1:16: the alias *x is inside its own anchor"),
    ("log: {<<: info}\n", "1:7: log: << takes a mapping or a list of mappings, usually an alias such as *base"),
    # --- keys and types ---
    ("sever: {}\n", '1:1: sever: unknown key; did you mean "server"?'),
    ("telemetry: {}\n", "1:1: telemetry: unknown key"),
    (UPSTREAM + "apps:\n  a:\n    upstream: u\n    tiemout: 3s\n", '5:5: apps.a.tiemout: unknown key; did you mean "timeout"?'),
    (UPSTREAM + 'apps: {"a.b": {upstream: u, x: 1}}\n', '2:29: apps."a.b".x: unknown key'),
    ("server:\n", "1:1: server: must be a mapping, not empty"),
    ("server: 5\n", "1:1: server: must be a mapping, not 5"),
    ("apps: [a]\n", "1:1: apps: must be a mapping, not a list"),
    ("apps: {a: yes}\n", '1:8: apps.a: must be a mapping, not "yes"'),
    # --- tracing ---
    ("tracing: {}\n", "1:1: tracing.endpoint: is required"),
    ("tracing:\n", "1:1: tracing: must be a mapping"),
    ("tracing: {endpoint: 4318}\n", "1:11: tracing.endpoint: must be text such as http://127.0.0.1:4318, not 4318"),
    ("tracing: {endpoint: 'collector:4318'}\n", "1:11: tracing.endpoint: must be a URL that begins with http:// or https:// and names a host"),
    ("tracing: {endpoint: 'http://u:p@collector:4318'}\n", "1:11: tracing.endpoint: must not contain a user name or password: write Authorization under headers"),
    ("tracing: {endpoint: 'http://collector:4318/v1/traces/'}\n", "1:11: tracing.endpoint: must not end with /v1/traces: the gateway appends that"),
    ("tracing: {endpoint: 'http://c', sample: 1.5}\n", "1:33: tracing.sample: must be a number from 0 to 1, not 1.5"),
    ("tracing: {endpoint: 'http://c', sample: true}\n", "1:33: tracing.sample: must be a number from 0 to 1, not true"),
    ("tracing: {endpoint: 'http://c', sample: '1'}\n", '1:33: tracing.sample: must be a number from 0 to 1, not "1"'),
    ("tracing: {endpoint: 'http://c', sample: .nan}\n", "1:33: tracing.sample: must be a number from 0 to 1, not .nan"),
    ("tracing: {endpoint: 'http://c', service_name: ''}\n", '1:33: tracing.service_name: must be a name: 1 to 256 characters, no control characters, not ""'),
    ("tracing: {endpoint: 'http://c', headers: {host: x}}\n", "1:43: tracing.headers.host: must not be set here: the gateway sets or removes this header itself"),
    # --- server ---
    ("server: {listen: 8080}\n", "1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 or unix:/run/gateway.sock, not 8080"),
    ("server: {listen: 'h:65536'}\n", '1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 or unix:/run/gateway.sock, not "h:65536"'),
    ("server: {listen: [':1', '256.0.0.1:80']}\n", '1:25: server.listen[1]: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 or unix:/run/gateway.sock, not "256.0.0.1:80"'),
    ("server: {listen: 'unix:run/g.sock'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:run/g.sock"'),
    ("server: {listen: 'unix:'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:"'),
    ("server: {listen: 'unix:/run/'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/"'),
    ("server: {listen: 'unix:/run/..'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/.."'),
    ('server: {listen: "unix:/run/a\\0b"}\n', '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/a\\u0000b"'),
    ("server: {listen: unix:/" + "é" * 50 + "}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/' + "é" * 50 + '"'),
    ("server: {listen: ['unix:/a', ':80', 'unix://a']}\n", "1:37: server.listen[2]: unix://a is taken by another address of this list"),
    ("server: {admin: 'unix:/run/a.sock'}\n", '1:10: server.admin: must be an address such as 127.0.0.1:8080, [::1]:8080 or :8080 (unix sockets are for server.listen alone), not "unix:/run/a.sock"'),
    ("server: {allow_from: 10.0.0.0/8}\n", '1:10: server.allow_from: must be a list, not "10.0.0.0/8"'),
    ("server: {allow_from: [10.0.0.0/33]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "10.0.0.0/33"'),
    ("server: {allow_from: [10.0.0.0/255.0.0.0]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "10.0.0.0/255.0.0.0"'),
    ("server: {allow_from: [10]}\n", "1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not 10"),
    ("server: {allow_from: [media.example.com]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "media.example.com"'),
    ("server: {allow_from: ['::1', 10.1.2.3/8]}\n", '1:30: server.allow_from[1]: must have no bits beyond its prefix: write 10.0.0.0/8 for the network or 10.1.2.3 for that address alone, not "10.1.2.3/8"'),
    ("server: {allow_from: ['2001:db8::1/32']}\n", '1:23: server.allow_from[0]: must have no bits beyond its prefix: write 2001:db8::/32 for the network or 2001:db8::1 for that address alone, not "2001:db8::1/32"'),
    ("server: {allow_from: [" + "10.0.0.1, " * 1025 + "]}\n", "1:10: server.allow_from: must hold at most 1024 networks"),
    ("server: {max_connections: 0}\n", "1:10: server.max_connections: must be a whole number from 1 to 1000000, not 0"),
    ("server: {max_connections: 1000001}\n", "1:10: server.max_connections: must be a whole number from 1 to 1000000, not 1000001"),
    ("server: {max_connections: many}\n", '1:10: server.max_connections: must be a whole number from 1 to 1000000, not "many"'),
    ("metrics: {app_label: sometimes}\n", '1:11: metrics.app_label: must be auto, always or never, not "sometimes"'),
    ("metrics: off\n", '1:1: metrics: must be a mapping, not "off"'),
    ("server: {listen: []}\n", "1:10: server.listen: must name at least one address"),
    ("server: {listen: ['127.0.0.1:80', ':80']}\n", "1:35: server.listen[1]: :80 is taken by another address of this list"),
    ("server: {listen: ':9180'}\n", "1:1: server.admin: 127.0.0.1:9180 is a hook port too: the admin port needs its own"),
    ("server: {admin: '127.0.0.1:8080'}\n", "1:10: server.admin: 127.0.0.1:8080 is a hook port too: the admin port needs its own"),
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
    # --- log, media server ---
    ("log: {level: loud}\n", '1:7: log.level: must be debug, info, warning or error, not "loud"'),
    ("log: {mask: [caller, cal]}\n", '1:22: log.mask[1]: must be caller or callee, not "cal"'),
    ("log: {mask: caller}\n", '1:7: log.mask: must be a list, not "caller"'),
    ("log: {mask: [caller, caller, caller]}\n", "1:7: log.mask: must be a shorter list: each once"),
    ("media_server: {margin: 20s}\n", "1:16: media_server.margin: 20s leaves no time for a hook: it must be shorter than request_timeout, which is 15s"),
    # --- budgets ---
    ("defaults:\n  timeout: 14500ms\n", "2:3: defaults.timeout: timeout 14.5s must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    ("media_server: {request_timeout: 3s}\n", "1:1: defaults.timeout: timeout 3s must be below 2.5s (media_server.request_timeout 3s minus margin 500ms), or the media server gives up first"),
    (UPSTREAM + "apps:\n  defaultApp:\n    upstream: u\n    timeout: 15s\n", "5:5: apps.defaultApp.timeout: timeout 15s must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {connect: {timeout: 1m}}}}\n", "2:45: apps.a.methods.connect.timeout: timeout 1m must be below 14.5s (media_server.request_timeout 15s minus margin 500ms), or the media server gives up first"),
    # --- fallback ---
    ("defaults: {fallback: maybe}\n", '1:12: defaults.fallback: must be reject, allow, or a mapping such as {timeout: allow, unreachable: allow}, not "maybe"'),
    ("defaults: {fallback: {timout: allow}}\n", "1:23: defaults.fallback.timout: unknown cause; there are timeout, unreachable, overload, bad_answer, error_status"),
    ("defaults: {fallback: {timeout: yes}}\n", '1:23: defaults.fallback.timeout: must be allow, reject or a mapping such as {allow: {callee: "1000"}}, not "yes"'),
    ("defaults: {fallback: {timeout: {allow: {nodeId: x}}}}\n", "1:41: defaults.fallback.timeout.allow.nodeId: cannot be changed: the media server never takes nodeId from an answer"),
    ("defaults: {fallback: {timeout: {allow: {sessionid: x}}}}\n", "1:41: defaults.fallback.timeout.allow.sessionid: cannot be changed: the media server never takes sessionId from an answer"),
    ("defaults: {fallback: {timeout: {allow: {}}}}\n", "1:33: defaults.fallback.timeout.allow: must hold 1 to 32 fields; allow by itself gives the hook back as it came"),
    ("defaults: {fallback: {timeout: {allow: 5}}}\n", '1:33: defaults.fallback.timeout.allow: must be a mapping of fields to what they are to be, such as {callee: "1000"}, not 5'),
    ("defaults: {fallback: {timeout: {allow: {a: [1]}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not a list'),
    ("defaults: {fallback: {timeout: {allow: {a: }}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not empty'),
    ("defaults: {fallback: {timeout: {allow: {a: .inf}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not .inf'),
    ("defaults: {fallback: {timeout: {allow: {a: 99999999999999999}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not 99999999999999999'),
    ("defaults: {fallback: {timeout: {allow: {a: \"x\\ny\"}}}}\n", "1:41: defaults.fallback.timeout.allow.a: must be one line of at most 1024 characters"),
    ("defaults: {fallback: {timeout: {allow: {a b: 1}}}}\n", "1:41: defaults.fallback.timeout.allow.\"a b\": must be the name of a hook's field, such as callee: a letter, then at most 63 letters, digits or _"),
    ("defaults: {fallback: {timeout: {allow: {callee: 1000}}}}\n", "1:41: defaults.fallback.timeout.allow.callee: must be text, in quotes: a number loses its + and its leading zeros"),
    ("defaults: {fallback: {timeout: {reject: {a: 1}}}}\n", '1:23: defaults.fallback.timeout: must be allow, reject or a mapping such as {allow: {callee: "1000"}}'),
    # --- failover ---
    ("defaults: {failover_on: overload}\n", '1:12: defaults.failover_on: must be unreachable, timeout, error_status or bad_answer, not "overload"'),
    ("defaults: {failover_on: []}\n", "1:12: defaults.failover_on: must hold 1 to 4 causes"),
    ("defaults: {failover_reserve: 95%}\n", '1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not "95%"'),
    ("defaults: {failover_reserve: -1}\n", "1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not -1"),
    ("defaults: {failover_reserve: true}\n", "1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not true"),
    # --- upstreams ---
    ("upstreams: {u: {}}\n", "1:13: upstreams.u: must have a url, or targets"),
    ("upstreams: {'': {url: http://h}}\n", '1:13: upstreams."": must be an upstream\'s name: 1 to 256 characters, no control characters'),
    ("upstreams: {u: {url: 5}}\n", "1:17: upstreams.u.url: must be text such as http://192.168.1.101/rest/my_api, not 5"),
    ("upstreams: {u: {url: ftp://h/}}\n", "1:17: upstreams.u.url: must be a URL that begins with http:// or https:// and names a host"),
    ("upstreams: {u: {url: 'http://'}}\n", "1:17: upstreams.u.url: must be a URL that begins with http:// or https:// and names a host"),
    ("upstreams: {u: {url: 'http://h h/'}}\n", "1:17: upstreams.u.url: must be a URL in plain ASCII, without spaces, such as http://192.168.1.101/rest/my_api"),
    ("upstreams: {u: {url: 'http://h:99999/'}}\n", "1:17: upstreams.u.url: must be a URL with a valid host and a port from 1 to 65535"),
    ("upstreams: {u: {url: 'http://h:0/'}}\n", "1:17: upstreams.u.url: must be a URL with a valid host and a port from 1 to 65535"),
    ("upstreams: {u: {url: 'http://me:pw@h/'}}\n", "1:17: upstreams.u.url: must not contain a user name or password: write them under credentials"),
    ("upstreams: {u: {url: 'http://h/?a=b'}}\n", "1:17: upstreams.u.url: must end with its path: a query (?) or fragment (#) is not allowed"),
    ("upstreams: {u: {url: 'http://h/#a'}}\n", "1:17: upstreams.u.url: must end with its path: a query (?) or fragment (#) is not allowed"),
    ("upstreams: {u: {url: http://h, connect_timeout: 0s}}\n", '1:32: upstreams.u.connect_timeout: must be between 1ms and 1m, not "0s"'),
    ("upstreams: {u: {url: http://h, keepalive: no}}\n", '1:32: upstreams.u.keepalive: must be a duration such as 3s or 250ms, or off, not "no"'),
    ("upstreams: {u: {url: http://h, max_connections: 0}}\n", "1:32: upstreams.u.max_connections: must be a whole number from 1 to 65535, not 0"),
    ("upstreams: {u: {url: http://h, max_connections: 1.0}}\n", "1:32: upstreams.u.max_connections: must be a whole number from 1 to 65535, not 1.0"),
    ("upstreams: {u: {url: http://h, host: 'a b'}}\n", "1:32: upstreams.u.host: must be target, preserve, or a host name such as legacy.example.com"),
    ("upstreams: {u: {url: http://h, headers: {Via: x}}}\n", "1:42: upstreams.u.headers.Via: must not be set here: the gateway sets or removes this header itself"),
    ("upstreams: {u: {url: http://h, headers: {'a b': x}}}\n", '1:42: upstreams.u.headers."a b": must be a header name: letters, digits and hyphens'),
    ('upstreams: {u: {url: http://h, headers: {A: "x\\r\\nB: y"}}}\n', "1:42: upstreams.u.headers.A: must be one line of printable ASCII characters"),
    ("upstreams: {u: {url: http://h, headers: {A: ' x'}}}\n", "1:42: upstreams.u.headers.A: must not begin or end with white space, and be at most 8192 characters long"),
    ("upstreams: {u: {url: http://h, headers: {A: x, a: y}}}\n", "1:32: upstreams.u.headers: must name each header once: upper and lower case do not differ"),
    ("upstreams: {u: {url: http://h, credentials: {username: x}}}\n", "1:32: upstreams.u.credentials.password: is required"),
    ("upstreams: {u: {url: http://h, credentials: {username: 'a:b', password: x}}}\n", "1:46: upstreams.u.credentials.username: must not contain a colon: HTTP Basic ends the user name there"),
    ("upstreams: {u: {url: http://h, credentials: {username: a, password: 815}}}\n", "1:59: upstreams.u.credentials.password: must be text (in quotes if it looks like a number)"),
    ("upstreams: {u: {url: http://h, credentials: }}\n", "1:32: upstreams.u.credentials: must be a mapping"),
    # --- targets ---
    ("upstreams: {u: {url: http://h, targets: [{url: http://i}]}}\n", "1:32: upstreams.u.targets: cannot be combined with url: an upstream has one or the other"),
    ("upstreams: {u: {url: }}\n", "1:17: upstreams.u.url: must be text such as http://192.168.1.101/rest/my_api, not empty"),
    ("upstreams: {u: {targets: }}\n", "1:17: upstreams.u.targets: must be a list, not empty"),
    ("upstreams: {u: {targets: http://h}}\n", '1:17: upstreams.u.targets: must be a list, not "http://h"'),
    ("upstreams: {u: {targets: []}}\n", "1:17: upstreams.u.targets: must name at least one target"),
    ("upstreams: {u: {targets: [" + "{url: http://h}, " * 257 + "]}}\n", "1:17: upstreams.u.targets: must name at most 256 targets"),
    ("upstreams: {u: {targets: [http://h]}}\n", '1:27: upstreams.u.targets[0]: must be a mapping, not "http://h"'),
    ("upstreams: {u: {targets: [{weight: 2}]}}\n", "1:27: upstreams.u.targets[0].url: is required"),
    ("upstreams: {u: {targets: [{url: 'http://w:pw@h'}]}}\n", "1:28: upstreams.u.targets[0].url: must not contain a user name or password: write them under credentials"),
    ("upstreams: {u: {targets: [{url: http://h, weigth: 2}]}}\n", '1:43: upstreams.u.targets[0].weigth: unknown key; did you mean "weight"?'),
    ("upstreams: {u: {targets: [{url: http://h, weight: 0}]}}\n", "1:43: upstreams.u.targets[0].weight: must be a whole number from 1 to 1000, not 0"),
    ("upstreams: {u: {targets: [{url: http://h, weight: 1001}]}}\n", "1:43: upstreams.u.targets[0].weight: must be a whole number from 1 to 1000, not 1001"),
    ("upstreams: {u: {targets: [{url: http://h, backup: yes}]}}\n", '1:43: upstreams.u.targets[0].backup: must be true or false, not "yes"'),
    ("upstreams: {u: {targets: [{url: http://h, backup: 1}]}}\n", "1:43: upstreams.u.targets[0].backup: must be true or false, not 1"),
    ("upstreams: {u: {targets: [{url: http://h, backup: true}]}}\n", "1:17: upstreams.u.targets: must name a target that is no backup"),
    ("upstreams: {u: {targets: [{url: http://h/a}, {url: http://i/a}, {url: 'http://H:80/a/'}]}}\n", "1:66: upstreams.u.targets[2].url: names the same target as item [0] of this list"),
    # --- balance, retry, breaker, health ---
    ("upstreams: {u: {url: http://h, balance: random}}\n", '1:32: upstreams.u.balance: must be round_robin or least_in_flight, not "random"'),
    ("upstreams: {u: {url: http://h, retry: 3}}\n", "1:32: upstreams.u.retry: must be a mapping, not 3"),
    ("upstreams: {u: {url: http://h, retry: off}}\n", '1:32: upstreams.u.retry: must be a mapping, not "off"'),
    ("upstreams: {u: {url: http://h, retry: {attempts: 0}}}\n", "1:40: upstreams.u.retry.attempts: must be a whole number from 1 to 10, not 0"),
    ("upstreams: {u: {url: http://h, retry: {attempts: 11}}}\n", "1:40: upstreams.u.retry.attempts: must be a whole number from 1 to 10, not 11"),
    ("upstreams: {u: {url: http://h, retry: {atempts: 1}}}\n", '1:40: upstreams.u.retry.atempts: unknown key; did you mean "attempts"?'),
    ("upstreams: {u: {url: http://h, retry: {on: connect}}}\n", '1:40: upstreams.u.retry.on: must be a list, not "connect"'),
    ("upstreams: {u: {url: http://h, retry: {on: [connect, resets]}}}\n", '1:54: upstreams.u.retry.on[1]: must be connect, reset, timeout, error_status or bad_answer, not "resets"'),
    ("defaults: {retry: {on: [5]}}\n", "1:25: defaults.retry.on[0]: must be connect, reset, timeout, error_status or bad_answer, not 5"),
    ("defaults: {retry: }\n", "1:12: defaults.retry: must be a mapping, not empty"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {call: {retry: {on: {}}}}}}\n", "2:50: apps.a.methods.call.retry.on: must be a list, not a mapping"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {call: {retry: {attemps: 2}}}}}\n", '2:50: apps.a.methods.call.retry.attemps: unknown key; did you mean "attempts"?'),
    ("upstreams: {u: {url: http://h, breaker: on}}\n", '1:32: upstreams.u.breaker: must be a mapping, or off, not "on"'),
    ("upstreams: {u: {url: http://h, breaker: }}\n", "1:32: upstreams.u.breaker: must be a mapping, or off, not empty"),
    ("upstreams: {u: {url: http://h, breaker: {failures: 0}}}\n", "1:42: upstreams.u.breaker.failures: must be a whole number from 1 to 1000, not 0"),
    ("upstreams: {u: {url: http://h, breaker: {failures: 1001}}}\n", "1:42: upstreams.u.breaker.failures: must be a whole number from 1 to 1000, not 1001"),
    ("upstreams: {u: {url: http://h, breaker: {window: 10}}}\n", "1:42: upstreams.u.breaker.window: must be a duration such as 3s or 250ms, not 10"),
    ("upstreams: {u: {url: http://h, breaker: {open_for: 99ms}}}\n", '1:42: upstreams.u.breaker.open_for: must be between 100ms and 1h, not "99ms"'),
    ("upstreams: {u: {url: http://h, breaker: {open: 5s}}}\n", "1:42: upstreams.u.breaker.open: unknown key"),
    ("upstreams: {u: {url: http://h, health: off}}\n", '1:32: upstreams.u.health: must be a mapping, not "off"'),
    ("upstreams: {u: {url: http://h, health: }}\n", "1:32: upstreams.u.health: must be a mapping, not empty"),
    ("upstreams: {u: {url: http://h, health: {path: ping}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "ping"'),
    ("upstreams: {u: {url: http://h, health: {path: /a b}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "/a b"'),
    ('upstreams: {u: {url: http://h, health: {path: "/a\\n"}}}\n', '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "/a\\n"'),
    ("upstreams: {u: {url: http://h, health: {path: //h/}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "//h/"'),
    ("upstreams: {u: {url: http://h, health: {expect: 600}}}\n", "1:41: upstreams.u.health.expect: must be a whole number from 200 to 599, not 600"),
    ("upstreams: {u: {url: http://h, health: {expect: 99}}}\n", "1:41: upstreams.u.health.expect: must be a whole number from 200 to 599, not 99"),
    ("upstreams: {u: {url: http://h, health: {interval: 2s, timeout: 2100ms}}}\n", "1:55: upstreams.u.health.timeout: 2.1s is longer than interval, which is 2s"),
    ("upstreams: {u: {url: http://h, health: {interval: 500ms}}}\n", "1:32: upstreams.u.health.timeout: 1s is longer than interval, which is 500ms"),
    # --- limits and duplicates ---
    ("defaults: {max_in_flight: 0}\n", "1:12: defaults.max_in_flight: must be a whole number from 1 to 1000000, not 0"),
    (UPSTREAM + "apps: {a: {upstream: u, max_in_flight: off}}\n", '2:25: apps.a.max_in_flight: must be a whole number from 1 to 1000000, not "off"'),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {call: {max_in_flight: 5}}}}\n", "2:42: apps.a.methods.call.max_in_flight: unknown key"),
    ("defaults: {dedupe: 0s}\n", '1:12: defaults.dedupe: must be between 1ms and 10m, not "0s"'),
    ("defaults: {dedupe: 11m}\n", '1:12: defaults.dedupe: must be between 1ms and 10m, not "11m"'),
    ("defaults: {dedupe: }\n", "1:12: defaults.dedupe: must be a duration such as 3s or 250ms, or off, not empty"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {call: {dedupe: on}}}}\n", '2:42: apps.a.methods.call.dedupe: must be a duration such as 3s or 250ms, or off, not "on"'),
    # --- who may ask ---
    (UPSTREAM + "apps: {a: {upstream: u, credentials: {username: w}}}\n", "2:25: apps.a.credentials.password: is required"),
    (UPSTREAM + "apps: {a: {upstream: u, credentials: 'w:p'}}\n", "2:25: apps.a.credentials: must be a mapping"),
    (UPSTREAM + "apps: {a: {upstream: u, credentials: {username: w, password: ''}}}\n", "2:52: apps.a.credentials.password: must not be empty"),
    (UPSTREAM + "apps: {a: {upstream: u, credentials: {username: 'w:', password: p}}}\n", "2:39: apps.a.credentials.username: must not contain a colon: HTTP Basic ends the user name there"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {call: {credentials: {username: w, password: p}}}}}\n", "2:42: apps.a.methods.call.credentials: unknown key"),
    (UPSTREAM + "apps: {a: {upstream: u, credentials: {username: w, password: p}, signature: {keys: [k]}}}\n", "2:66: apps.a.signature: cannot be combined with credentials: a hook has only one Authorization header"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: k}}\n", "2:25: apps.a.signature: must be a mapping"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: }}\n", "2:25: apps.a.signature: must be a mapping"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {}}}\n", "2:25: apps.a.signature: has no keys to verify with: write them, or mode: pass"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {mode: verify}}}\n", "2:25: apps.a.signature: has no keys to verify with: write them, or mode: pass"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: []}}}\n", "2:37: apps.a.signature.keys: must hold 1 to 8 keys"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [1, 2, 3, 4, 5, 6, 7, 8, 9]}}}\n", "2:37: apps.a.signature.keys: must hold 1 to 8 keys"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: k}}}\n", "2:37: apps.a.signature.keys: must be a list"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: ['']}}}\n", "2:44: apps.a.signature.keys[0]: must not be empty"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [815]}}}\n", "2:44: apps.a.signature.keys[0]: must be text (in quotes if it looks like a number)"),
    (UPSTREAM + 'apps: {a: {upstream: u, signature: {keys: ["k\\n"]}}}\n', "2:44: apps.a.signature.keys[0]: must not contain control characters such as a line break"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [k], mode: check}}}\n", '2:48: apps.a.signature.mode: must be verify or pass, not "check"'),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [k], upstream_key: ''}}}\n", "2:48: apps.a.signature.upstream_key: must not be empty"),
    (UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [k], upstream_key: }}}\n", "2:48: apps.a.signature.upstream_key: must be text (in quotes if it looks like a number)"),
    ("upstreams: {u: {url: http://h, credentials: {username: w, password: p}}}\napps: {a: {upstream: u, signature: {keys: [k], upstream_key: l}}}\n", "2:48: apps.a.signature.upstream_key: conflicts with upstreams.u.credentials: both set Authorization"),
    ("upstreams: {u: {url: http://h, headers: {authorization: x}}}\ndefaults: {upstream: u}\napps: {a: {signature: {mode: pass, upstream_key: l}}}\n", "3:36: apps.a.signature.upstream_key: conflicts with upstreams.u.headers: both set Authorization"),
    ("defaults: {credentials: {username: w, password: p}}\n", "1:12: defaults.credentials: unknown key"),
    # --- admin ---
    ("admin: {token: ''}\n", "1:9: admin.token: must not be empty"),
    ("admin: {token: }\n", "1:9: admin.token: must be text (in quotes if it looks like a number)"),
    # --- apps and what they refer to ---
    (UPSTREAM + "apps: {'': {upstream: u}}\n", '2:8: apps."": must be an appKey: 1 to 256 characters, no control characters'),
    (UPSTREAM + 'apps: {"a\\nb": {upstream: u}}\n', '2:8: apps."a\\nb": must be an appKey: 1 to 256 characters, no control characters'),
    (UPSTREAM + "apps: {a: {}}\n", "2:8: apps.a: has no upstream: name one here or in defaults, or write static: allow or reject"),
    (UPSTREAM + "apps: {a: {upstream: u, static: allow}}\n", "2:25: apps.a.static: cannot be combined with upstream: an app has one or the other"),
    (UPSTREAM + "apps: {a: {static: maybe}}\n", '2:12: apps.a.static: must be allow or reject, not "maybe"'),
    (UPSTREAM + "apps: {a: {static: error}}\n", '2:12: apps.a.static: must be allow or reject, not "error"'),
    (UPSTREAM + "apps: {a: {upstream: }}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not empty"),
    ("upstreams: {legacy: {url: http://h}}\napps: {a: {upstream: legcay}}\n", '2:12: apps.a.upstream: no upstream has this name; did you mean "legacy"?'),
    ("defaults: {upstream: nowhere}\n", "1:12: defaults.upstream: no upstream has this name"),
    (UPSTREAM + "apps: {a: {upstream: u, timeout: }}\n", "2:25: apps.a.timeout: must be a duration such as 3s or 250ms, not empty"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {a-b: {}}}}\n", "2:35: apps.a.methods.a-b: must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming"),
    (UPSTREAM + APP + "unknown_app: b\n", "3:1: unknown_app: no app has this name"),
    (UPSTREAM + "apps: {defaultApp: {upstream: u}}\nunknown_app: defaultapp\n", '3:1: unknown_app: no app has this name; did you mean "defaultApp"?'),
    ("hook_types: {MyEvent: events}\n", '1:14: hook_types.MyEvent: must be connect, direct, event or incoming, not "events"'),
    # --- references ---
    ("log: {level: '${env:}'}\n", '1:14: log.level: "" is no name of an environment variable; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: '${env:NO_SUCH_VARIABLE}'}\n", "1:14: log.level: the environment variable NO_SUCH_VARIABLE is not set"),
    ("log: {level: '${file:/no/such/file}'}\n", '1:14: log.level: the file "/no/such/file" cannot be read: no such file or directory'),
    ("log: {level: '${file:secret}'}\n", '1:14: log.level: "secret" is not an absolute path; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: '${LEVEL}'}\n", '1:14: log.level: "${LEVEL}" is not known; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: 'a${env:X'}\n", "1:14: log.level: has a ${ without its }; write ${env:NAME} or ${file:/path}, or $${ for a plain ${"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    if "not valid YAML: while" in message and not yaml.__with_libyaml__:
        pytest.skip("PyYAML is here without libyaml, whose words these are")
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


TWICE = "a backend may act on the hook more than once"
REFUSED = "without admin.token, clients that are not on loopback can only use /-/healthy and /-/ready"
WARNED = [
    ("upstreams: {}\n", "1:1: apps: there are no apps: every hook is rejected"),
    ("server: {keepalive_timeout: 5s}\n" + UPSTREAM + APP, "1:10: server.keepalive_timeout: should be longer than 5s: the media server keeps idle connections that long, and repeats a hook that meets a closing one"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {OnCalEvent: {}}}}\n", '2:35: apps.a.methods.OnCalEvent: neither in the catalogue of methods nor in hook_types; did you mean "OnCallEvent"?'),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {Zebra: {}}}}\n", "2:35: apps.a.methods.Zebra: neither in the catalogue of methods nor in hook_types; if the media server has it, give its type there"),
    (UPSTREAM + "apps: {a: {static: allow, retry: {on: [reset]}}}\n", "2:27: apps.a.retry: has no effect: the app is static, so no backend is asked"),
    (UPSTREAM + "apps: {a: {static: allow, dedupe: 5s}}\n", "2:27: apps.a.dedupe: has no effect: the app is static, so no backend is asked"),
    (UPSTREAM + "apps: {a: {static: allow, max_in_flight: 5}}\n", "2:27: apps.a.max_in_flight: has no effect: the app is static, so no backend is asked"),
    ("upstreams: {u: {url: http://h, retry: {on: [connect, reset, timeout]}}}\n" + APP, f"1:40: upstreams.u.retry.on: {TWICE}"),
    (UPSTREAM + APP + "defaults: {retry: {on: [error_status]}}\n", f"3:20: defaults.retry.on: {TWICE}"),
    (UPSTREAM + "apps: {a: {upstream: u, retry: {on: [bad_answer]}}}\n", f"2:33: apps.a.retry.on: {TWICE}"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {OnCallEvent: {retry: {on: [timeout]}}}}}\n", f"2:57: apps.a.methods.OnCallEvent.retry.on: {TWICE}"),
    (UPSTREAM + "apps: {a: {upstream: u, methods: {X: {retry: {on: [timeout]}}}}}\nhook_types: {X: direct}\n", f"2:47: apps.a.methods.X.retry.on: {TWICE}"),
    ("server: {admin: ':9180'}\n" + UPSTREAM + APP, f"1:10: server.admin: {REFUSED}"),
    ("server: {admin: '[::]:9180'}\nadmin: {}\n" + UPSTREAM + APP, f"1:10: server.admin: {REFUSED}"),
    ("server: {admin: 'gateway.example.com:9180'}\n" + UPSTREAM + APP, f"1:10: server.admin: {REFUSED}"),
    ("apps: {a: {static: allow, signature: {keys: [k], upstream_key: l}}}\n", "1:50: apps.a.signature.upstream_key: has no effect: the app is static, so no backend is asked"),
    ("apps: {a: {static: allow, timeout: 2s}}\n", "1:27: apps.a.timeout: has no effect: the app is static, so no backend is asked"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    "text",
    [
        UPSTREAM + "apps: {a: {upstream: u, retry: {on: [connect]}}}\n",
        UPSTREAM + "apps: {a: {upstream: u, retry: {attempts: 1, on: [timeout]}}}\n",
        UPSTREAM + "apps: {a: {upstream: u, methods: {StreamStatusEvent: {retry: {on: [timeout]}}}}}\n",
        UPSTREAM + "apps: {a: {upstream: u, methods: {connect: {retry: {on: [reset]}}}}}\n",
        UPSTREAM + "apps: {a: {upstream: u, methods: {X: {retry: {on: [reset]}}}}}\nhook_types: {X: event}\n",
        UPSTREAM + APP + "server: {workers: 2}\n",
        UPSTREAM + APP + "server: {workers: auto}\ndefaults: {dedupe: 5s, rate_limit: 50/s}\n",
        UPSTREAM + APP + "server: {admin: ':9180'}\nadmin: {token: t}\n",
        UPSTREAM + APP + "server: {admin: 'localhost:9180'}\n",
        UPSTREAM + APP + "server: {admin: '[::1]:9180'}\n",
        UPSTREAM + APP + "server: {admin: '127.9.9.9:9180'}\n",
        UPSTREAM + APP + "server: {listen: ['0.0.0.0:8080', 'unix:/run/g.sock']}\n",
        UPSTREAM + "apps: {a: {upstream: u, signature: {keys: [k]}}, b: {static: allow, signature: {keys: [k]}}}\n",
        UPSTREAM + "apps: {a: {static: allow, credentials: {username: w, password: p}}}\n",
        UPSTREAM + "server: {max_in_flight: 10}\napps: {a: {upstream: u, max_in_flight: 20}}\n",
    ],
)
def test_what_does_no_harm_is_no_cause_for_a_warning(text: str) -> None:
    assert warnings_of(loads(text)) == []


def test_a_method_named_in_hook_types_is_no_cause_for_a_warning() -> None:
    loaded = loads(UPSTREAM + "apps: {a: {upstream: u, methods: {Zebra: {}}}}\nhook_types: {Zebra: event}\n")
    assert warnings_of(loaded) == []


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        "server: {lisen: x}\n"
        "server: {}\n"
        "log: {level: '${env:NO_SUCH_VARIABLE}'}\n"
        "upstreams: {u: {url: http://h, keepalive: 5}}\n"
        "apps: {b: {upstream: v, timeout: 20s}, c: {timeout: 3}}\n"
        "unknown_app: d\n"
    )
    with pytest.raises(ConfigError) as caught:
        loads(text, "g.yaml")
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (1, "server.lisen"),
        (2, "server"),
        (3, "log.level"),
        (4, "upstreams.u.keepalive"),
        (5, "apps.b.upstream"),
        (5, "apps.b.timeout"),
        (5, "apps.c"),
        (5, "apps.c.timeout"),
        (6, "unknown_app"),
    ]
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert {problem.file for problem in caught.value.problems} == {"g.yaml"}


def test_a_long_value_is_cut_and_its_control_characters_are_escaped() -> None:
    with pytest.raises(ConfigError) as caught:
        loads('log: {level: "\\e[31m' + "x" * 100_000 + '"}\n')
    message = caught.value.problems[0].message
    assert "\\u001b[31m" in message
    assert message.isprintable()
    assert len(message) < 200


def test_the_list_of_problems_is_bounded_and_says_so() -> None:
    text = "".join(f"key{number}: 1\n" for number in range(3000))
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert len(caught.value.problems) == 1001
    assert caught.value.problems[-1].message == "there are more problems than these 1000"


def test_values_that_are_nearly_all_wrong_are_counted_instead_of_listed() -> None:
    text = "apps: {" + ",".join(f"a{number}" for number in range(100_001)) + "}"
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [problem.message for problem in caught.value.problems] == [
        "100,001 values are wrong, too many to list: this is hardly a configuration of the gateway"
    ]
