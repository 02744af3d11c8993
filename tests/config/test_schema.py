"""The JSON Schema says what the loader says, as far as one value can show it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.config import json_schema, loads
from gateway.config.source.document import parse

EXAMPLE = Path(__file__).parents[2] / "gateway.yaml"
SCHEMA = json_schema()
UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}}\n"


def is_valid(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(parse(text, "gateway.yaml").plain()))


def test_it_is_a_schema_of_draft_2020_12_with_a_title() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "wcs-gateway configuration"


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _objects(inner)
    if isinstance(node, dict) and node.get("type") == "object" and "properties" in node:
        yield node


def test_every_key_is_described_and_no_other_is_allowed() -> None:
    sections = [node for node in _objects(SCHEMA) if "description" in node]
    assert len(sections) == 32
    for section in sections:
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field.get("description", "").endswith("."), name


def test_the_example_validates() -> None:
    assert is_valid(EXAMPLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "server: {listen: ':80', max_body: 1MiB, read_timeout: 1.5s}",
        "server: {listen: ['[::1]:80', 'h:81']}",
        "log: {level: debug, mask: []}",
        "upstreams: {u: {url: http://h, keepalive: off, host: preserve, max_connections: 1, headers: {A: b}}}",
        "upstreams: {u: {url: http://h, credentials: {username: u, password: p}}}",
        "apps: {a: {static: allow}, 'b-*': {static: reject}}",
        "defaults: {fallback: {timeout: allow, error_status: reject}}",
        "defaults: {fallback: {timeout: {allow: {callee: '1000', n: 1.5, b: true}}, overload: allow}}",
        "defaults: {failover_on: timeout, failover_reserve: 0}",
        "defaults: {failover_on: [unreachable, bad_answer], failover_reserve: 12.5%}",
        "hook_types: {MyEvent: event}",
        "tracing: {endpoint: 'http://127.0.0.1:4318', sample: 0.5, headers: {X-Key: k}, service_name: gw}",
        "tracing: {endpoint: 'https://collector.example:4318/otlp', sample: 1}",
        "server: {workers: auto, max_in_flight: 1}",
        "server: {workers: 256}",
        "upstreams: {u: {targets: [{url: http://h}, {url: http://i, backup: true}], balance: least_in_flight}}",
        "upstreams: {u: {url: http://h, retry: {attempts: 1, on: []}, breaker: off, health: {}}}",
        "upstreams: {u: {url: http://h, breaker: {failures: 1}, health: {path: '/a?b=c', expect: 204}}}",
        "defaults: {retry: {on: [connect, reset]}, dedupe: off, max_in_flight: 5}",
        "server: {listen: unix:/run/g.sock, max_connections: 5, allow_from: [10.0.0.0/8, '::1', '2001:db8::/32']}",
        "server: {listen: [':80', 'unix:/run/g.sock', 'systemd:hooks'], admin: 'systemd:admin', allow_from: []}",
        "upstreams: {u: {url: https://h, tls: {minimum_version: 1.0, server_name: legacy.example.com}}}",
        "upstreams: {u: {url: https://h, tls: {minimum_version: '1.3', server_name: '2001:db8::1'}}}",
        "upstreams: {u: {url: https://h, tls: {}}}",
        "metrics: {app_label: never}",
        "apps: {a: {static: allow, credentials: {username: u, password: p}}}",
        "apps: {a: {static: allow, signature: {keys: [k, l]}}, b: {static: allow, signature: {mode: pass}}}",
        "apps: {a: {static: allow, methods: {call: {retry: {attempts: 3}, dedupe: 5s}}}}",
        UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 95}, {name: v, weight: 0}], failover: v}}",
        UPSTREAMS + "defaults: {upstream: u, failover: [v], rate_limit: 300/m, response_check: off}",
        UPSTREAMS + "apps: {a: {upstream: u, rate_limit: 50/s burst 100, rest_client_config: enforce}}",
        UPSTREAMS + "apps: {a: {upstream: u, rate_limit: off, failover: [], rules: [], shadow: off}}",
        UPSTREAMS
        + "defaults: {rest_client_config: {mode: warn, methods: {call: {restOnError: FAIL, restOverwrite: a}}}}",
        "defaults: {rules: [{callee: ['110', '112'], verdict: allow}, {name: n, caller: '+4*', verdict: reject}]}",
        UPSTREAMS + "defaults: {rules: [{methods: On*, time: 'Mon-Fri 22:00-06:00 Europe/Berlin', upstream: u}]}",
        UPSTREAMS
        + "apps: {a: {upstream: u, shadow: {upstream: v, sample: 10%, methods: '*', compare: body, ignore: [t]}}}",
        UPSTREAMS
        + "apps: {a: {upstream: u, methods: {call: {shadow: {upstream: v, sample: 1}, response_check: repair}}}}",
        "record: {path: hooks.jsonl, sample: 0.5, failures_only: true, max_size: 1GiB, files: 1, mask: []}",
    ],
)
def test_what_loads_validates(text: str) -> None:
    loads(text)
    assert is_valid(text)


def test_a_reference_validates_wherever_text_does() -> None:
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(
        {"server": {"listen": "${env:LISTEN}", "max_body": "${env:SIZE}", "read_timeout": "${env:TIME}"}}
    )


@pytest.mark.parametrize(
    "text",
    [
        "sever: {}",
        "server: {listen: 80}",
        "server: {listen: []}",
        "server: {read_timeout: 3}",
        "server: {max_body: 3s}",
        "log: {level: loud}",
        "upstreams: {u: {}}",
        "upstreams: {u: {url: http://h, max_connections: 0}}",
        "upstreams: {u: {url: 'http://h?x'}}",
        "apps: {a: {static: error}}",
        "apps: {a: {timeout: }}",
        "apps: {a: {methods: {a-b: {}}}}",
        "defaults: {fallback: {timout: allow}}",
        "defaults: {fallback: {timeout: {allow: {}}}}",
        "defaults: {fallback: {timeout: {allow: {nodeId: x}}}}",
        "defaults: {fallback: {timeout: {allow: {a: [1]}}}}",
        "defaults: {fallback: {timeout: {allow: {a: 1}, reject: {}}}}",
        "defaults: {failover_on: overload}",
        "defaults: {failover_on: []}",
        "defaults: {failover_reserve: 0.95}",
        "defaults: {failover_reserve: all}",
        "hook_types: {MyEvent: x}",
        "server: {workers: 0}",
        "server: {workers: all}",
        "upstreams: {u: {url: http://h, targets: [{url: http://i}]}}",
        "upstreams: {u: {targets: []}}",
        "upstreams: {u: {targets: [{url: http://h, weight: 0}]}}",
        "upstreams: {u: {targets: [{url: http://h, backup: 1}]}}",
        "upstreams: {u: {url: http://h, retry: off}}",
        "upstreams: {u: {url: http://h, retry: {on: connect}}}",
        "upstreams: {u: {url: http://h, breaker: on}}",
        "upstreams: {u: {url: http://h, breaker: {failures: 0}}}",
        "upstreams: {u: {url: http://h, health: {path: ping}}}",
        "upstreams: {u: {url: http://h, health: {path: '//h'}}}",
        "defaults: {dedupe: 5}",
        "server: {listen: unix:run}",
        "server: {listen: 'unix:/'}",
        "server: {admin: unix:/run/g.sock}",
        "server: {admin: 'systemd:'}",
        "server: {listen: 'systemd:a:b'}",
        "server: {allow_from: 10.0.0.0/8}",
        "server: {allow_from: [media.example.com]}",
        "server: {max_connections: 0}",
        "server: {tls: {certificate: c.pem}}",
        "server: {tls: {certificate: c.pem, key: k.pem, minimum_version: 1.1}}",
        "server: {tls: {certificate: '', key: k.pem}}",
        "upstreams: {u: {url: https://h, tls: {certificate: c.pem}}}",
        "upstreams: {u: {url: https://h, tls: {key: k.pem}}}",
        "upstreams: {u: {url: https://h, tls: {minimum_version: 1.4}}}",
        "upstreams: {u: {url: https://h, tls: {verify: false}}}",
        "metrics: {app_label: off}",
        "apps: {a: {credentials: {username: u}}}",
        "apps: {a: {credentials: {username: u, password: p}, signature: {keys: [k]}}}",
        "apps: {a: {signature: {}}}",
        "apps: {a: {signature: {mode: verify}}}",
        "apps: {a: {signature: {keys: []}}}",
        "apps: {a: {methods: {call: {signature: {keys: [k]}}}}}",
        "apps: {a: {methods: {call: {max_in_flight: 5}}}}",
        "apps: {a: {upstream: []}}",
        "apps: {a: {upstream: ''}}",
        "apps: {a: {upstream: [{name: u, weight: 1}]}}",
        "apps: {a: {upstream: [{name: u, weight: 1}, {name: v, weight: 1001}]}}",
        "apps: {a: {upstream: [{name: u, weight: 1}, {name: v}]}}",
        "apps: {a: {failover: 5}}",
        "apps: {a: {failover: " + str(["u"] * 9) + "}}",
        "apps: {a: {rest_client_config: on}}",
        "apps: {a: {rest_client_config: {mode: on}}}",
        "apps: {a: {rest_client_config: {methods: {call: {restOnError: LOG}}}}}",
        "apps: {a: {rest_client_config: {methods: {call: FAIL}}}}",
        "apps: {a: {response_check: on}}",
        "apps: {a: {rate_limit: 50}}",
        "apps: {a: {rate_limit: 50/d}}",
        "apps: {a: {rules: [{caller: x}]}}",
        "apps: {a: {rules: [{verdict: allow}]}}",
        "apps: {a: {rules: [{caller: x, verdict: allow, upstream: u}]}}",
        "apps: {a: {rules: [{caller: 110, verdict: allow}]}}",
        "apps: {a: {rules: [{caller: [], verdict: allow}]}}",
        "apps: {a: {rules: [{name: '[', caller: x, verdict: allow}]}}",
        "apps: {a: {shadow: v}}",
        "apps: {a: {shadow: {}}}",
        "apps: {a: {shadow: {upstream: v, sample: 0}}}",
        "apps: {a: {shadow: {upstream: v, sample: 10 %}}}",
        "apps: {a: {shadow: {upstream: v, compare: all}}}",
        "apps: {a: {methods: {call: {shadow: {upstream: v, methods: call}}}}}",
        "record: off",
        "record: {}",
        "record: {path: f, files: 0}",
        "record: {path: f, mask: caller}",
    ],
)
def test_what_is_broken_does_not_validate(text: str) -> None:
    assert not is_valid(text)
