"""The state of a target as one process sees it, and the views of several processes merged."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from gateway.policy.breaker import State
from gateway.upstreams.target import Target

MAX_APPS: Final = 20
"""Apps that a report lists, for which a target is ejected."""
_EJECTED_BY_OPERATOR: Final = "ejected by an operator"


class TargetState(StrEnum):
    """Which hooks a target gets, from all to none."""

    UP = "up"
    PARTLY = "partly"
    """Ejected for some apps only."""
    PROBING = "probing"
    """One hook at a time may test whether it has recovered."""
    EJECTED = "ejected"
    EJECTED_BY_OPERATOR = "ejected_by_operator"
    """Ejected by an operator, until restored."""


_RANK: Final = {standing: rank for rank, standing in enumerate(TargetState)}
_CLOSED: Final = frozenset((TargetState.EJECTED, TargetState.EJECTED_BY_OPERATOR, TargetState.PROBING))


class TargetReport(msgspec.Struct, frozen=True):
    """A target as one process sees it. Times in seconds; points in time are Unix times."""

    upstream: str
    url: str
    name: str
    state: TargetState
    since: float | None
    """When it entered this state; None if it has always been up."""
    reason: str | None
    ejected_for: tuple[str, ...]
    retry_in: float | None
    in_flight: int
    queued: int
    connections: int
    max_connections: int
    latency: float
    times: dict[int, int]
    """Attempts of the last minute by how long they took, for ``latency.quantile``."""
    ejections: int
    last_error: tuple[float, str] | None
    workers: int = 1
    workers_ejected: int = 0
    """Processes that send it no hooks, except for probes."""
    fleet_max_connections: int | None = None
    """The limit of all gateways of a fleet, of which *max_connections* is a share; None where there is no fleet."""


def target_report(upstream: str, url: str, target: Target, now: float) -> TargetReport:
    """The report of a target; *now* is loop time."""
    breaker, ejected_for = target.breaker, target.admission.ejected_apps(now)
    state = breaker.state(now)
    since: float | None = _unix(breaker.since, now)
    reason: str | None = target.ejection_reason
    retry_at = breaker.retry_at
    if target.operator_ejected_since is not None:
        standing, since, reason = TargetState.EJECTED_BY_OPERATOR, target.operator_ejected_since, _EJECTED_BY_OPERATOR
    elif state is State.OPEN:
        standing = TargetState.EJECTED
    elif state is State.HALF_OPEN:
        standing = TargetState.PROBING
    elif ejected_for:
        standing, since = TargetState.PARTLY, _unix(min(ejected_for.values()), now)
    else:
        standing, reason = TargetState.UP, None
    return TargetReport(
        upstream=upstream,
        url=url,
        name=target.name,
        state=standing,
        since=since,
        reason=reason,
        ejected_for=tuple(list(ejected_for)[:MAX_APPS]),
        retry_in=None if retry_at is None or math.isinf(retry_at) else max(0.0, retry_at - now),
        in_flight=target.in_flight,
        queued=target.transport.queued,
        connections=target.transport.open_connections,
        max_connections=target.part_of_connections,
        latency=target.latency.estimate(),
        times=dict(target.last_minute.times(now)),
        ejections=breaker.opened_count,
        last_error=target.last_error,
        workers=1,
        workers_ejected=1 if standing in _CLOSED else 0,
        fleet_max_connections=None if target.settings is None else target.settings.max_connections,
    )


def merge_reports(reports: Sequence[TargetReport]) -> TargetReport:
    """One target's reports by several processes as one: counts added, the worst state with its reason and time."""
    worst = max((report.state for report in reports), key=_RANK.__getitem__)
    in_it = [report for report in reports if report.state is worst]
    # An ejection is one for all workers, and the one that met the failure knows why.
    first = min(in_it, key=lambda report: (not report.reason, math.inf if report.since is None else report.since))
    times: Counter[int] = Counter()
    for report in reports:
        times.update(report.times)
    return msgspec.structs.replace(
        first,
        ejected_for=tuple(dict.fromkeys(app for report in reports for app in report.ejected_for))[:MAX_APPS],
        retry_in=min((report.retry_in for report in in_it if report.retry_in is not None), default=None),
        in_flight=sum(report.in_flight for report in reports),
        queued=sum(report.queued for report in reports),
        connections=sum(report.connections for report in reports),
        max_connections=sum(report.max_connections for report in reports),
        latency=max(report.latency for report in reports),
        times=dict(times),
        ejections=sum(report.ejections for report in reports),
        last_error=max((report.last_error for report in reports if report.last_error is not None), default=None),
        workers=sum(report.workers for report in reports),
        workers_ejected=sum(report.workers_ejected for report in reports),
    )


def _unix(loop_time: float, now: float) -> float | None:
    return None if math.isinf(loop_time) else time.time() - (now - loop_time)
