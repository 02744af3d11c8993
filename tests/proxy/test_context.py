"""A hook's context: whose hook it is, what it is known by, and what its decision says of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config, loads
from gateway.model.decision import UNKNOWN_APP
from gateway.model.trace_context import Sampling
from gateway.model.verdicts import Source, backend_reject
from gateway.proxy.context import HookContext, TracedHookContext
from gateway.proxy.refusals import RequestRefused
from gateway.proxy.routes import Route, Table
from gateway.proxy.runtime import Snapshot
from gateway.proxy.tenants import Tenant
from gateway.telemetry.metrics import Metrics

CONFIG = """\
upstreams: {php: {url: "http://127.0.0.1:9"}, new: {url: "http://127.0.0.1:10"}}
apps:
  plain: {upstream: php, timeout: 2s}
  guarded: {upstream: php, credentials: {username: u, password: p}}
  parted: {upstream: [{name: php, weight: 1}, {name: new, weight: 1}]}
"""


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    config: Config = loads(CONFIG).config
    return Snapshot(config, Table(config), {}, 10)


def context(snapshot: Snapshot, *headers: tuple[bytes, bytes]) -> HookContext:
    return HookContext(snapshot, 100.0, {"headers": headers})


def find(snapshot: Snapshot, app: str) -> tuple[Tenant, Route]:
    found = snapshot.table.find(app, "OnCallEvent")
    assert found is not None
    return found


def test_a_hook_is_known_by_the_request_id_that_it_came_with(snapshot: Snapshot) -> None:
    assert context(snapshot, (b"x-request-id", b"abc")).request_id == "abc"
    assert len(context(snapshot).request_id) == 32


def test_before_its_app_is_found_a_hook_is_nobody_s(snapshot: Snapshot) -> None:
    made = context(snapshot)
    made.leave()
    decision = made.build(backend_reject())
    assert (decision.app, decision.app_cache, decision.budget, decision.upstream) == (UNKNOWN_APP, None, None, None)


def test_a_hook_counts_among_its_app_s_from_entering_to_leaving(snapshot: Snapshot) -> None:
    tenant, route = find(snapshot, "plain")
    tenant.in_flight = Metrics("1").in_flight.with_labels("plain")
    made = context(snapshot)
    made.enter(tenant, route)
    assert tenant.in_flight.get() == 1.0
    assert (made.app, made.app_cache, made.budget, made.upstream) == ("plain", tenant, 2.0, "php")
    made.leave()
    assert tenant.in_flight.get() == 0.0


def test_where_sessions_are_split_the_upstream_is_not_known_yet(snapshot: Snapshot) -> None:
    made = context(snapshot)
    made.enter(*find(snapshot, "parted"))
    assert made.upstream is None


def test_a_hook_that_does_not_prove_whose_it_is_is_refused(snapshot: Snapshot) -> None:
    made = context(snapshot)
    tenant, route = find(snapshot, "guarded")
    made.enter(tenant, route)
    assert route.guard is not None
    with pytest.raises(RequestRefused) as refused:
        made.authenticate(route.guard)
    assert refused.value.ruling.status == 401


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, None),
        ({"rule": "r"}, ("r", None, None)),
        ({"failed_over_from": "u", "failover_cause": "timeout"}, (None, "u", "timeout")),
    ],
)
def test_a_ruling_names_the_rule_and_the_failover(snapshot: Snapshot, known: dict[str, Any], expected: object) -> None:
    made = context(snapshot)
    for name, value in known.items():
        setattr(made, name, value)
    ruling = made.annotate(backend_reject())
    found = ruling.annotations
    assert ruling.source is Source.BACKEND
    assert (found and (found.rule, found.failed_over_from, found.failover_cause)) == expected


def test_a_traced_hook_has_its_trace_s_parent(snapshot: Snapshot) -> None:
    made = TracedHookContext(Sampling(1.0), snapshot, 100.0, {"headers": ()})
    assert made.trace is not None
    assert made.identity.traceparent == made.trace.traceparent()
    assert made.build(backend_reject()).trace is made.trace
