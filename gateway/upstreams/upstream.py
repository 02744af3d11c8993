"""A named backend: chooses targets, makes attempts, and reports how each ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Container
from typing import Final

import msgspec

from gateway.config import Upstream as UpstreamConfig
from gateway.http.client import Answer, ConnectionLost, ExchangeError
from gateway.model.decision import AttemptRecord
from gateway.model.verdicts import Cause, Failure, ProxyError, Ruling
from gateway.policy.retry import Retry, RetryOn, attempt_budget, may_retry, retry_kind
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.admission import Ticket
from gateway.upstreams.answers import DENIED, Judge
from gateway.upstreams.balance import balancer
from gateway.upstreams.headers import CompiledPolicy, Policy, encode_headers
from gateway.upstreams.outgoing import Outgoing
from gateway.upstreams.target import Target


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a hook ended at its upstream."""

    result: Ruling | Failure
    target: str | None
    attempts: int
    duration: float
    """Seconds, all attempts together."""
    seen: bool
    """Whether a backend may have processed the hook."""
    began: float = 0.0
    """When the first attempt began, by ``time.perf_counter``."""
    story: tuple[AttemptRecord, ...] = ()
    """Every attempt, where there is more to tell than one that brought a verdict without waiting in a queue."""

    def should_fail_over(self, causes: Container[Cause]) -> bool:
        """Whether another upstream is to be asked, where failover is for these *causes*.

        ``unreachable`` covers what no target can have seen. A connection that broke after the hook was sent leaves open
        whether it was processed, as a timeout does, and counts as one; so does a hook that got no free connection in
        time, since failover had shortened that time.
        """
        result = self.result
        if not isinstance(result, Failure):
            return False
        late = result.cause is Cause.OVERLOAD or (self.seen and result.cause is Cause.UNREACHABLE)
        return (Cause.TIMEOUT if late else result.cause) in causes

    def merge_with(self, other: Outcome, upstream: str) -> Outcome:
        """This outcome and that of another *upstream*, which was asked next, as one.

        If only the first can have seen the hook, its failure counts: a backend that fails on a caller's input must not
        become an unreachable one, which may have another fallback.
        """
        result = other.result
        if self.seen and not other.seen and isinstance(result, Failure) and isinstance(self.result, Failure):
            result = self.result._replace(detail=f"{self.result.detail}; then {upstream}: {result.detail}")
        later = other.began - self.began
        story = other.story
        if not story and isinstance(other.result, Ruling) and other.target is not None:
            outcome = "denied" if other.result is DENIED else "ok"
            story = (
                AttemptRecord(
                    upstream=upstream,
                    target=other.target,
                    began=0.0,
                    duration=other.duration,
                    queued=0.0,
                    outcome=outcome,
                    error="",
                ),
            )
        return Outcome(
            result=result,
            target=other.target,
            attempts=self.attempts + other.attempts,
            duration=self.duration + other.duration,
            seen=self.seen or other.seen,
            began=self.began,
            story=(*self.story, *(msgspec.structs.replace(record, began=record.began + later) for record in story)),
        )


class Member:
    """A target as part of one upstream, with the weight and rank that the configuration gives it."""

    __slots__ = ("backup", "target", "weight")

    def __init__(self, target: Target, weight: int, backup: bool) -> None:
        self.target = target
        self.weight = weight
        self.backup = backup

    @property
    def in_flight(self) -> int:
        """Attempts in flight at the target."""
        return self.target.in_flight


class _Attempt(msgspec.Struct, frozen=True, gc=False):
    """How one attempt ended."""

    result: Ruling | Failure
    kind: RetryOn | None
    """What ``retry.on`` calls the failure; None if it is never retried."""
    seen: bool
    """Whether the backend may have processed the hook."""
    stale: bool
    """A reused connection turned out to be closed: the target itself has not failed."""
    requests: int
    """How often the hook was sent."""
    queued: float = 0.0
    """Seconds that the hook waited for a free connection."""
    held_up: bool = False
    """Whether its time ran out for a reason that says nothing about the target: this process could not run."""
    lost: AttemptRecord | None = None
    """The attempt just before it, on a connection that turned out to be closed; both began together."""


class Upstream:
    """A named backend of one configuration; its targets may outlast it."""

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        members: list[Member],
        metrics: Metrics,
        *,
        judge: Judge | None = None,
        keep_underscores: bool = False,
    ) -> None:
        self.name = name
        self.retry = config.retry
        self.policy = CompiledPolicy(header_policy(config, keep_underscores=keep_underscores))
        self._loop = asyncio.get_running_loop()
        self._groups = [group for group in _group_by_rank(members) if group]
        self._members = members
        self._balancer = balancer(config.balance)
        self._judge = judge or Judge()
        self._probed = 0
        self._duration = metrics.upstream_duration.with_labels(name)
        self._retries = metrics.retries

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {[member.target for member in self._members]}>"

    async def ask(self, outgoing: Outgoing, deadline: float, retry: Retry) -> Outcome:
        """Send the hook to a target, with retries, and judge the answer; *deadline* is loop time. Never raises."""
        began = time.perf_counter()
        result: Ruling | Failure = _ALL_EJECTED
        target: Target | None = None
        requests, before = 0, outgoing.sent
        seen = False
        tried: list[Member] = []
        story: tuple[AttemptRecord, ...] = ()
        since = began
        while (chosen := self._choose(outgoing.tenant, tried)) is not None:
            member, ticket = chosen
            target = member.target
            left = deadline - self._loop.time()
            attempt = await self._attempt(target, ticket, outgoing, attempt_budget(retry, len(tried), left), retry)
            result, requests, seen = attempt.result, requests + attempt.requests, seen or attempt.seen
            if attempt.kind is None and not story and requests == 1 and isinstance(result, Ruling):
                if attempt.queued:
                    story = self._attempt_records(attempt, target, 0.0, time.perf_counter() - began)
                break  # the usual case: a verdict at once; outcome and target say everything
            now = time.perf_counter()
            story += self._attempt_records(attempt, target, since - began, now - began)
            since = now
            if attempt.kind is None:
                break  # a verdict, or a failure that is never retried
            tried.append(member)
            left = deadline - self._loop.time()
            if _is_full(result) and len(tried) >= len(self._members):
                break  # the queue was too long a moment ago, and still is
            if not may_retry(retry, len(tried), attempt.kind, left, self._typical_latency()):
                break
            self._count_retry(target, attempt)
            outgoing = outgoing.with_sent(before + requests)
        duration = time.perf_counter() - began
        self._duration.observe(duration)
        name = target.name if target is not None else None
        return Outcome(
            result=result, target=name, attempts=requests, duration=duration, seen=seen, began=began, story=story
        )

    # --- what redelivery needs ---

    @property
    def max_connections(self) -> int:
        """Connections to all targets together."""
        return sum(member.target.transport.settings.max_connections for member in self._members)

    @property
    def free_connections(self) -> int:
        """Hooks that could be sent now without making any wait; 0 where hooks wait already."""
        if any(member.target.transport.queued for member in self._members):
            return 0
        return sum(member.target.transport.free for member in self._members)

    @property
    def verdicts(self) -> float:
        """How many hooks its targets have answered with a verdict, in this process."""
        return sum(member.target.verdicts for member in self._members)

    async def redeliver(self, outgoing: Outgoing, deadline: float) -> Outcome:
        """Send a kept event: as ``ask``, but where every target is ejected, one is tried all the same. Never raises.

        An answer restores that target for live hooks too. Targets that an operator ejected, or whose health check
        fails, are not tried.
        """
        outcome = await self.ask(outgoing, deadline, _REDELIVERY)
        if outcome.result is not _ALL_EJECTED:
            return outcome
        targets = [member.target for member in self._members if member.target.may_be_probed]
        if not targets:
            return outcome
        self._probed += 1
        target = targets[self._probed % len(targets)]
        began = time.perf_counter()
        attempt = await self._attempt(target, _NO_TICKET, outgoing, deadline - self._loop.time(), _REDELIVERY)
        result = attempt.result
        if isinstance(result, Ruling) or not (_is_full(result) or _is_unreachable(result)):
            target.record_recovery(self._loop.time())
        return Outcome(
            result=result,
            target=target.name,
            attempts=attempt.requests,
            duration=time.perf_counter() - began,
            seen=attempt.seen,
            began=began,
        )

    # --- choosing ---

    def _choose(self, tenant: str, tried: list[Member]) -> tuple[Member, Ticket] | None:
        """A target and its breaker's ticket: untried before tried, backups after the rest; None = all are ejected."""
        now = self._loop.time()
        if not tried and len(self._members) == 1:
            only = self._members[0]
            ticket = only.target.admission.admit(tenant, now) or only.target.admission.admit_last(tenant, now)
            return None if ticket is None else (only, ticket)
        for again in (False, True) if tried else (False,):
            for group in self._groups:
                candidates = [
                    member
                    for member in group
                    if (member in tried) is again and member.target.admission.ready(tenant, now)
                ]
                while candidates:
                    member = self._balancer.choose(candidates) if len(candidates) > 1 else candidates[0]
                    ticket = member.target.admission.admit(tenant, now)
                    if ticket is not None:
                        return member, ticket
                    candidates.remove(member)
        if not tried:
            return self._last_resort(tenant, now)
        return None

    def _last_resort(self, tenant: str, now: float) -> tuple[Member, Ticket] | None:
        """All targets are ejected: each may still get one probe per ``open_for``, so that recovery is detected."""
        for member in self._members:
            ticket = member.target.admission.admit_last(tenant, now)
            if ticket is not None:
                return member, ticket
        return None

    def _typical_latency(self) -> float:
        return min(member.target.latency.estimate() for member in self._members)

    # --- attempting ---

    async def _attempt(
        self, target: Target, ticket: Ticket, outgoing: Outgoing, budget: float, retry: Retry
    ) -> _Attempt:
        if budget <= 0.0:
            target.admission.record_abandoned(ticket, outgoing.tenant, self._loop.time())
            return _Attempt(_TOO_LATE, None, seen=False, stale=False, requests=0)
        set_out, began = self._loop.time(), time.perf_counter()
        until, requests, fresh = set_out + budget, 0, False
        lost: AttemptRecord | None = None
        target.in_flight += 1
        try:
            while True:
                requests += 1
                try:
                    answer = await target.exchange(outgoing, until, fresh=fresh)
                    attempt = _attempt_with_answer(self._judge, answer, outgoing, requests)
                except ExchangeError as exc:
                    attempt = _attempt_with_error(self._judge, exc, outgoing, requests)
                if fresh or not attempt.stale:
                    break
                # The backend closed the idle connection just then and saw nothing: try again on a new one.
                if not may_retry(retry, 1, RetryOn.CONNECT, until - self._loop.time(), 0.0):
                    break
                target.count(Cause.UNREACHABLE)
                self._count_retry(target, attempt)
                lost = self._attempt_record(attempt, target, 0.0, time.perf_counter() - began)
                outgoing = outgoing.with_sent(outgoing.sent + requests)
                fresh = True
        except BaseException:
            # Cancelled: that says nothing about the target.
            target.admission.record_abandoned(ticket, outgoing.tenant, self._loop.time())
            raise
        finally:
            target.in_flight -= 1
        if retry is _REDELIVERY and attempt.seen and _is_timeout(attempt.result):
            # One event that its backend cannot process, tried again and again, must not eject the target of live hooks.
            attempt = msgspec.structs.replace(attempt, held_up=True)
        self._report(target, ticket, outgoing.tenant, attempt, time.perf_counter() - began, set_out)
        return attempt if lost is None else msgspec.structs.replace(attempt, lost=lost)

    def _report(
        self, target: Target, ticket: Ticket, tenant: str, attempt: _Attempt, seconds: float, set_out: float
    ) -> None:
        """Report the attempt to breakers, estimates and metrics; *set_out*: the loop time at which it began."""
        now = self._loop.time()
        result, admission = attempt.result, target.admission
        if isinstance(result, Ruling):
            target.count("denied" if result is DENIED else "ok")
            own = max(0.0, seconds - attempt.queued)  # without the time in the queue
            target.latency.observe(own)
            target.last_minute.observe(own, now)
            target.record_answer(ticket, tenant, now)
            return
        target.count(result.cause)
        target.record_error(result.detail)
        if attempt.seen:
            target.last_minute.observe(max(0.0, seconds - attempt.queued), now)
        if attempt.stale or attempt.held_up or _is_full(result):
            admission.record_abandoned(ticket, tenant, now)
        elif not _is_unreachable(result):
            target.record_answer(ticket, tenant, now)  # a malformed answer is an answer: the target is alive
        else:
            whom = admission.record_failure(
                ticket,
                tenant,
                now,
                reached=attempt.seen,
                hard=result.cause is Cause.UNREACHABLE,
                silent_since=set_out if result.cause is Cause.TIMEOUT else math.inf,
                patience=self._ejection_grace(target, tenant, now),
            )
            target.report_ejection(whom, tenant, result.detail)

    def _ejection_grace(self, target: Target, tenant: str, now: float) -> float:
        """Seconds without a success before a target is ejected: none, unless it is the last one.

        A last target that answers some hooks, even one in three, is better than none.
        """
        for member in self._members:
            if member.target is not target and member.target.admission.ready(tenant, now):
                return 0.0
        return max(_MIN_GRACE, 2 * target.latency.estimate())

    def _attempt_records(
        self, attempt: _Attempt, target: Target, began: float, ended: float
    ) -> tuple[AttemptRecord, ...]:
        """The records of an attempt: its own, after that of the closed connection it began with, if any."""
        if not attempt.requests:
            return ()
        if (lost := attempt.lost) is None:
            return (self._attempt_record(attempt, target, began, ended),)
        lost = msgspec.structs.replace(lost, began=began)
        return (lost, self._attempt_record(attempt, target, began + lost.duration, ended))

    def _attempt_record(self, attempt: _Attempt, target: Target, began: float, ended: float) -> AttemptRecord:
        result = attempt.result
        if isinstance(result, Ruling):
            outcome, error = "denied" if result is DENIED else "ok", ""
        else:
            outcome, error = result.cause.value, result.detail
        return AttemptRecord(
            upstream=self.name,
            target=target.name,
            began=began,
            duration=ended - began,
            queued=attempt.queued,
            outcome=outcome,
            error=error,
        )

    def _count_retry(self, target: Target, attempt: _Attempt) -> None:
        if isinstance(attempt.result, Failure) and not target.retired:
            self._retries.with_labels(self.name, attempt.result.cause).inc()


_ALL_EJECTED: Final = Failure(
    Cause.UNREACHABLE,
    ProxyError.DESTINATION_UNAVAILABLE,
    "every target is ejected: it failed too often in a row, its health check fails, or an operator ejected it",
)
_TOO_LATE: Final = Failure(
    Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the budget ran out before a backend could be asked"
)


_REDELIVERY: Final = Retry()
"""A kept event is tried again later anyway: at once only where no backend can have seen it."""
_NO_TICKET: Final = Ticket(-1, None)
"""Of an attempt that no breaker has admitted, and of which none counts the failure."""
_MIN_GRACE: Final = 0.1
"""Seconds; more than the time between two answers of a backend with any traffic."""
_UNREACHABLE_STATUSES: Final = frozenset((502, 503, 504))
"""A web server's answers when its PHP is down, overloaded or silent (RFC 9110, section 15.6)."""


def _attempt_with_answer(judge: Judge, answer: Answer, outgoing: Outgoing, requests: int) -> _Attempt:
    result = judge.judge(answer, outgoing.body, outgoing.check)
    kind = retry_kind(result, retry_safe=False) if isinstance(result, Failure) else None
    return _Attempt(result, kind, seen=True, stale=False, requests=requests, queued=answer.queued)


def _attempt_with_error(judge: Judge, error: ExchangeError, outgoing: Outgoing, requests: int) -> _Attempt:
    result = judge.judge_failure(error.failure, outgoing.check)
    kind = retry_kind(result, retry_safe=error.retry_safe) if isinstance(result, Failure) else None
    stale = error.retry_safe and isinstance(error, ConnectionLost)
    return _Attempt(
        result,
        kind,
        seen=not error.retry_safe,
        stale=stale,
        requests=requests,
        queued=error.queued,
        held_up=error.held_up,
    )


def _is_timeout(result: Ruling | Failure) -> bool:
    return isinstance(result, Failure) and result.cause is Cause.TIMEOUT


def _is_full(result: Ruling | Failure) -> bool:
    """Whether the gateway's own limit kept the hook from the target."""
    return isinstance(result, Failure) and result.cause is Cause.OVERLOAD


def _is_unreachable(failure: Failure) -> bool:
    """Whether a failure says that the target, or the PHP behind it, cannot be reached.

    Malformed answers do not: a caller whose number makes the PHP fail must not get the backend ejected for everyone,
    nor turn *bad_answer* into *unreachable*, which may have another fallback.
    """
    return failure.cause in (Cause.UNREACHABLE, Cause.TIMEOUT) or failure.received_status in _UNREACHABLE_STATUSES


def _group_by_rank(members: list[Member]) -> tuple[list[Member], list[Member]]:
    return [member for member in members if not member.backup], [member for member in members if member.backup]


def header_policy(config: UpstreamConfig, *, keep_underscores: bool) -> Policy:
    """The header rules of an upstream's configuration."""
    headers = encode_headers({name: value.get_secret_value() for name, value in config.headers.items()})
    credentials = None
    if config.credentials is not None:
        credentials = (config.credentials.username, config.credentials.password.get_secret_value())
    return Policy(config.host, headers, credentials, keep_underscores)
