"""What is kept of a hook, and how it is made again from that."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import loads
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import Cause, Failure, backend_allow, backend_reject
from gateway.policy.access import Signature, body_signature
from gateway.policy.spooling import ordering_key, repeat_digest
from gateway.proxy.context import HookContext
from gateway.proxy.kept_hook import (
    KeptHook,
    build_redelivery,
    event_key,
    find_destination,
    judge_redelivery,
    make_event,
    storable_fields,
)
from gateway.proxy.routes import Table
from gateway.proxy.runtime import Snapshot
from gateway.store.records import SpooledEvent
from gateway.upstreams import Outcome, Upstream
from gateway.upstreams.headers import CompiledPolicy, Policy, parse_head
from tests.support.kept_events import event

CONFIG: dict[str, Any] = {
    "store": {"url": "sqlite:///tmp/nowhere/store.db"},
    "upstreams": {name: {"url": f"http://127.0.0.1:9/{name}"} for name in ("php", "new", "special", "standby")},
    "apps": {
        "plain": {"upstream": "php", "spool": {"max_age": "1h", "max_size": "1MiB"}},
        "basic": {"upstream": "php", "spool": "on", "credentials": {"username": "u", "password": "p"}},
        "signed": {"upstream": "php", "spool": "on", "signature": {"keys": ["k1", "k2"]}},
        "resigned": {"upstream": "php", "spool": "on", "signature": {"mode": "pass", "upstream_key": "k3"}},
        "silent": {"static": "reject"},
        "parted": {
            "upstream": [{"name": "php", "weight": 1}, {"name": "new", "weight": 1}],
            "spool": "on",
            "failover": ["standby", "new"],
        },
        "ruled": {
            "upstream": "php",
            "spool": "on",
            "rules": [
                {"name": "vip", "caller": "1*", "upstream": "special"},
                {"name": "spam", "caller": "2*", "verdict": "reject", "methods": ["event"]},
            ],
        },
    },
}
BODY = b'{"appKey":"plain", "callId":"c1","sessionId":"s1"}'


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(loads(json.dumps(CONFIG)).config)


def context(table: Table, body: bytes = BODY, *headers: tuple[bytes, bytes]) -> HookContext:
    scope = {"headers": headers, "client": ("192.0.2.7", 4711), "scheme": "http", "query_string": b"a=b"}
    made = HookContext(Snapshot(loads(json.dumps(CONFIG)).config, table, {}, 10), 100.0, scope)
    made.body, made.method_name, made.hook = body, "CallStatusEvent", parse_hook(body)
    found = table.find("plain", "CallStatusEvent")
    assert found is not None
    made.enter(*found)
    return made


def kept(table: Table, *headers: tuple[bytes, bytes], body: bytes = BODY) -> SpooledEvent:
    made = context(table, body, *headers)
    assert made.route is not None
    assert made.route.spool is not None
    return make_event(made, event_key(made), "timeout", "no answer in time", made.route.spool)


def test_an_event_has_all_that_its_delivery_needs(table: Table) -> None:
    made = kept(table, (b"x-request-id", b"id-1"), (b"content-type", b"application/json"))
    assert (made.app, made.method, made.upstream, made.request_id) == ("plain", "CallStatusEvent", "php", "id-1")
    assert (made.client, made.scheme, made.query, made.body) == ("192.0.2.7", "http", b"a=b", BODY)
    assert made.fields == ((b"x-request-id", b"id-1"), (b"content-type", b"application/json"))
    assert (made.call_id, made.session_id, made.cause, made.error) == ("c1", "s1", "timeout", "no answer in time")
    assert (made.max_age, made.max_size, made.value) == (3600.0, 2**20, 2)
    assert made.key == ordering_key("plain", BODY)
    assert made.digest == repeat_digest("plain", "CallStatusEvent", BODY)


def test_after_a_failover_it_is_kept_for_the_first_upstream(table: Table) -> None:
    made = context(table)
    made.upstream, made.failed_over_from = "standby", "php"
    assert made.route is not None
    assert made.route.spool is not None
    assert make_event(made, b"key", "timeout", "", made.route.spool).upstream == "php"


@pytest.mark.parametrize(
    "name", ["proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-secret", "x-signature"]
)
def test_secrets_are_not_kept(table: Table, name: str) -> None:
    made = kept(table, (name.encode(), b"hush"), (b"accept", b"*/*"))
    assert made.fields == ((b"accept", b"*/*"),)


def test_of_authorization_is_kept_that_there_was_one(table: Table) -> None:
    made = kept(table, (b"authorization", b"Basic hush"), (b"accept", b"*/*"))
    assert made.fields == ((b"accept", b"*/*"), (b"authorization", b""))
    assert b"authorization" not in head(made, table, "plain")
    assert b"authorization: Basic dTpw\r\n" in head(made, table, "basic")


@given(st.lists(st.tuples(st.sampled_from([b"accept", b"cookie", b"x-a", b"x_b"]), st.binary(max_size=4)), max_size=6))
def test_all_other_fields_are_kept_as_they_came(fields: list[tuple[bytes, bytes]]) -> None:
    assert storable_fields(parse_head(tuple(fields))) == tuple(field for field in fields if field[0] != b"cookie")


class AnyUpstream:
    """All that building a request needs of one."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = CompiledPolicy(policy or Policy())


def head(event: SpooledEvent, table: Table, app: str) -> bytes:
    """What a backend gets before the body, at the third attempt."""
    route = table.route_for(app, "CallStatusEvent")
    return build_redelivery(KeptHook(event, route.guard), cast(Upstream, AnyUpstream()), route, 3).head


def test_it_is_made_again_as_it_came(table: Table) -> None:
    came = ((b"host", b"g"), (b"user-agent", b"Java"), (b"traceparent", b"00-%b-%b-01" % (b"a" * 32, b"b" * 16)))
    made = kept(table, *came)
    written = head(made, table, "plain").split(b"\r\n")
    assert b"user-agent: Java" in written
    assert b"x-forwarded-for: 192.0.2.7" in written
    assert b"traceparent: " + came[2][1] in written
    assert b"x-request-id: " + made.request_id.encode() in written
    assert b"x-gateway-redelivery: 3" in written
    assert b"idempotency-key: " + made.request_id.encode() in written
    hook = KeptHook(made, None)
    assert (hook.body, hook.scope["query_string"], hook.received_at) == (BODY, b"a=b", made.received)


def test_on_a_unix_socket_a_client_has_no_address() -> None:
    assert KeptHook(event(client=""), None).scope["client"] is None


def test_the_backend_gets_what_the_media_server_proves_itself_with(table: Table) -> None:
    assert b"authorization: Basic " + b64encode(b"u:p") in head(event(), table, "basic")
    signed = head(event(), table, "signed")
    assert b"authorization: WCS " + body_signature(event().body, b"k1") in signed
    Signature(["k1"]).check([(b"authorization", b"WCS " + body_signature(event().body, b"k1"))], event().body)
    assert b"authorization" not in head(event(), table, "plain")


@pytest.mark.parametrize("app", ["gone", "silent"])
def test_without_an_app_or_a_backend_there_is_nowhere_to_go(table: Table, app: str) -> None:
    assert find_destination(table, event(app=app)) is None


def test_a_call_s_events_go_to_the_same_share(table: Table) -> None:
    body = b'{"appKey":"parted","nodeId":"n","sessionId":"s%d"}'
    found: dict[int, set[tuple[str, ...]]] = {}
    for number in range(60):
        destination = find_destination(table, event(number, app="parted", body=body % (number % 20)))
        assert destination is not None
        found.setdefault(number % 20, set()).add(destination.upstreams)
    assert all(len(ways) == 1 for ways in found.values())
    assert set.union(*found.values()) == {("php", "standby", "new"), ("new", "standby")}


@pytest.mark.parametrize(("caller", "upstream"), [("10", "special"), ("20", "php"), ("30", "php")])
def test_rules_choose_the_upstream_but_take_no_event_back(table: Table, caller: str, upstream: str) -> None:
    body = b'{"appKey":"ruled","caller":"%b"}' % caller.encode()
    destination = find_destination(table, event(app="ruled", body=body))
    assert destination is not None
    assert destination.upstreams == (upstream,)


@pytest.mark.parametrize(
    ("app", "policy", "came_with", "is_failure"),
    [
        ("plain", Policy(), True, True),
        ("plain", Policy(), False, False),
        ("basic", Policy(), True, False),
        ("signed", Policy(), True, False),
        ("resigned", Policy(), True, False),
        ("plain", Policy(credentials=("u", "p")), True, False),
        ("plain", Policy(headers=((b"Authorization", b"Bearer x"),)), True, False),
    ],
)
def test_a_rejection_of_an_event_without_its_authorization_is_no_verdict(
    table: Table, app: str, policy: Policy, came_with: bool, is_failure: bool
) -> None:
    came = ((b"authorization", b"Basic hush"),) if came_with else ()
    route = table.route_for(app, "CallStatusEvent")
    hook, upstream = KeptHook(kept(table, *came), route.guard), cast(Upstream, AnyUpstream(policy))
    outcome = Outcome(result=backend_reject(), target="t", attempts=1, duration=0.1, seen=True)
    judged = judge_redelivery(outcome, hook, upstream, route).result
    assert isinstance(judged, Failure) is is_failure
    if isinstance(judged, Failure):
        assert (judged.cause, judged.received_status) == (Cause.ERROR_STATUS, 403)
    allowed = msgspec.structs.replace(outcome, result=backend_allow(b"{}"))
    assert judge_redelivery(allowed, hook, upstream, route) is allowed
