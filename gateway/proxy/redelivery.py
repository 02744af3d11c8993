"""Delivers kept events to their upstreams, once these are there again.

Of all processes that decide hooks, the store lets one redeliver. It asks for events that are due, a few ahead, delivers
each as its app's configuration in force says, and reports what became of it. The order of events is the store's: of
those with one key it gives out only the first, until that is settled. How many are delivered at once, and which
failures are counted for an event, is decided by ``policy.redelivery``; live hooks come first.

Nothing is kept here that a crash could lose: an event whose outcome was not reported is delivered again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from gateway.model.verdicts import Cause, Failure, ProxyError
from gateway.policy.redelivery import PART, Finding, Pace, State, is_trouble, retry_delay
from gateway.policy.spooling import ATTEMPTS
from gateway.proxy.kept_hook import Destination, KeptHook, build_redelivery, find_destination, judge_redelivery
from gateway.proxy.runtime import Runtime, Snapshot
from gateway.store.client import DeliverySource
from gateway.store.messages import Backlogs, Settle
from gateway.store.records import Delivery, UpstreamBacklog
from gateway.upstreams import Outcome

logger = logging.getLogger(__name__)

TICK: Final = 0.05
"""Seconds between two looks at what may begin, while anything waits."""
AHEAD: Final = 32
"""Events that are held, for each that may be under way: the store's answer takes as long as several deliveries."""
SETTLE_EVERY: Final = 0.02
"""Seconds for which outcomes are gathered, unless nothing else is under way."""
SETTLED_AT_ONCE: Final = 64
MOST_AHEAD: Final = 256
"""Events that are held besides those that may be under way, at most."""
AHEAD_BYTES: Final = 16 * 2**20
"""Bytes of events that are held for one upstream, about: of large ones, fewer are delivered at once."""
UNROUTED_DELAY: Final = 5.0
"""Seconds after which an event of an app that is not configured here is looked at again: the store, which gives out
only those of configured apps, may have got a new configuration a moment earlier, or later."""
_FAR: Final = 3600.0
"""Seconds: what is due later than that was put off by a clock that was wrong, and is due now, for the store too."""
_LAST: Final = 2.0
"""Seconds that deliveries under way get at the end."""
_DEFECT: Final = Outcome(
    result=Failure(Cause.BAD_ANSWER, ProxyError.PROXY_INTERNAL_ERROR, "a defect of the gateway; its log says more"),
    target=None,
    attempts=0,
    duration=0.0,
    seen=False,
)


class _Lane:
    """What the store keeps for one upstream, by the name under which it was kept."""

    __slots__ = ("asked_at", "asking", "backlog", "goes_to", "has_due", "held")

    def __init__(self, backlog: UpstreamBacklog) -> None:
        self.backlog = backlog
        self.held = 0
        """Events that were fetched, and are not settled."""
        self.asking = False
        self.asked_at = -math.inf
        """Unix time of the last request for events."""
        self.has_due = True
        """Whether the store may have events that are due, as far as is known: not after it had fewer than asked for."""
        self.goes_to: set[str] = set()
        """The upstreams that got its events: apps may have other ones now."""

    def has_come_due(self, now: float) -> bool:
        """Whether an event has come due since the last request; *now*: Unix time."""
        due = self.backlog.due
        return due is not None and (self.asked_at < due <= now or due > now + _FAR)


class _Waiting(NamedTuple):
    """An event that was fetched."""

    delivery: Delivery
    lane: _Lane
    destination: Destination


class _Flow:
    """The deliveries to one upstream of the configuration."""

    __slots__ = ("down_since", "name", "pace", "ready", "snapshot")

    def __init__(self, name: str, limit: int, snapshot: Snapshot) -> None:
        self.name = name
        self.pace = Pace(limit)
        self.ready: deque[_Waiting] = deque()
        self.snapshot = snapshot
        """The one by which those that are ready were routed."""
        self.down_since: float | None = None
        """Loop time since which it takes no events, where that was logged."""


class Redelivery:
    """Redelivers for as long as the store says that this process does. Build it inside a running loop."""

    def __init__(self, runtime: Runtime, source: DeliverySource) -> None:
        self._runtime = runtime
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._count_delivered = runtime.metrics.spool_redelivered.inc
        self._on_duty = False
        self._paused = False
        self._ended = False
        self._up = False
        self._lanes: dict[str, _Lane] = {}
        self._flows: dict[str, _Flow] = {}
        self._outcomes: list[Settle] = []
        """Those that are not reported yet."""
        self._sending: asyncio.TimerHandle | None = None
        self._unsettled: dict[int, _Lane] = {}
        """The lanes of events that are gone, until the store has committed that."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        source.on_duty = self._set_duty
        source.on_backlogs = self._set_backlogs
        source.on_settled = self._note_settled

    def __repr__(self) -> str:
        flows = "; ".join(f"{flow.name}: {flow.pace!r}, {len(flow.ready)} ready" for flow in self._flows.values())
        return f"<Redelivery {'on' if self._delivers else 'off'} duty; {flows}>"

    @property
    def tasks(self) -> int:
        """Deliveries and requests to the store that are under way."""
        return len(self._tasks)

    def pause(self, on: bool) -> None:
        """Begin no more deliveries (*on*), or go on: while the gateway drains."""
        self._paused = on
        self._change_duty()

    async def aclose(self) -> None:
        """End: what is under way gets a moment, what has not begun goes back to the store."""
        self._ended = True
        self._change_duty()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_LAST)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- what the store says ---

    @property
    def _delivers(self) -> bool:
        return self._on_duty and not self._paused and not self._ended

    def _set_duty(self, redelivers: bool) -> None:
        self._on_duty = redelivers
        self._change_duty()

    def _change_duty(self) -> None:
        if self._delivers:
            self._look()
            return
        for flow in self._flows.values():
            self._release_ready(flow)
        self._send_outcomes()

    def _set_backlogs(self, backlogs: Backlogs) -> None:
        self._up = backlogs.up
        names = {backlog.upstream for backlog in backlogs.upstreams}
        for backlog in backlogs.upstreams:
            lane = self._lanes.get(backlog.upstream)
            if lane is None:
                self._lanes[backlog.upstream] = _Lane(backlog)
            else:
                lane.backlog, lane.has_due = backlog, True
        for name in [name for name, lane in self._lanes.items() if name not in names and not lane.held]:
            if not self._lanes[name].asking:
                del self._lanes[name]
        for flow in self._flows.values():
            if any(waiting.lane.backlog.paused for waiting in flow.ready):
                self._release_ready(flow)
        if self._delivers:
            self._look()

    def _note_settled(self, ids: tuple[int, ...]) -> None:
        """These outcomes are committed: the next events of their keys are due."""
        lanes = {self._unsettled.pop(id_, None) for id_ in ids}
        for lane in lanes - {None}:
            assert lane is not None
            lane.has_due = True
            self._fetch(lane)

    # --- what begins ---

    def _look(self) -> None:
        """Begin what may begin; look again soon while anything waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._delivers:
            return
        self._forget_flows()
        for flow in list(self._flows.values()):
            self._begin(flow)
        for lane in self._lanes.values():
            self._fetch(lane)
        if any(lane.held or lane.backlog.events for lane in self._lanes.values()):
            self._timer = self._loop.call_later(TICK, self._look)

    def _forget_flows(self) -> None:
        """Forget upstreams that are not configured any more."""
        upstreams = self._runtime.snapshot.upstreams
        for name in [name for name in self._flows if name not in upstreams]:
            if not self._flows[name].pace.in_flight:
                self._release_ready(self._flows.pop(name))

    def _fetch(self, lane: _Lane) -> None:
        """Ask the store for events of this lane, where some are due and there is need for them."""
        backlog, now = lane.backlog, time.time()
        if not self._delivers or not self._up or lane.asking or backlog.paused or not backlog.events:
            return
        if not lane.has_due and not lane.has_come_due(now):
            return
        window = self._window(lane)
        wanted = window - lane.held
        if wanted > 0 and (wanted >= window // 2 or not lane.held):
            lane.asking, lane.asked_at = True, now
            self._start(self._take(lane, wanted))

    def _window(self, lane: _Lane) -> int:
        """How many events of the lane may be held here: those under way, and some ahead."""
        own = lane.backlog.upstream
        if own in self._runtime.snapshot.upstreams:
            self._flow(own)
            lane.goes_to.add(own)
        paces = [self._flows[name].pace for name in lane.goes_to if name in self._flows]
        now = self._loop.time()
        window = max((self._need(pace, now) for pace in paces), default=1)
        backlog = lane.backlog
        usual = max(1, backlog.bytes // max(1, backlog.events))
        return min(window, max(1, AHEAD_BYTES // usual))

    def _need(self, pace: Pace, now: float) -> int:
        """How many events an upstream with this pace may have here."""
        if pace.state in (State.RAMPING, State.STEADY):
            return min(pace.allowed * AHEAD, pace.allowed + MOST_AHEAD)
        return max(pace.room(now), pace.in_flight)

    async def _take(self, lane: _Lane, most: int) -> None:
        """Fetch events, and have them delivered."""
        deliveries: tuple[Delivery, ...] = ()
        try:
            deliveries = await self._source.take(lane.backlog.upstream, most)
        finally:
            lane.asking = False
            lane.held += len(deliveries)
        lane.has_due = len(deliveries) == most
        for delivery in deliveries:
            self._accept(lane, delivery)
        for name in tuple(lane.goes_to):
            if name in self._flows:
                self._begin(self._flows[name])
        self._fetch(lane)

    def _accept(self, lane: _Lane, delivery: Delivery) -> None:
        """Queue a fetched event for the upstream that its app has now."""
        if not self._delivers:
            self._settle(lane, Settle(delivery.id, "released"))
            return
        destination = find_destination(self._runtime.snapshot.table, delivery.event)
        if destination is None:
            self._settle(lane, Settle(delivery.id, "released", time.time() + UNROUTED_DELAY))
            return
        name = destination.upstreams[0]
        lane.goes_to.add(name)
        self._flow(name).ready.append(_Waiting(delivery, lane, destination))

    def _flow(self, name: str) -> _Flow:
        """The deliveries to a configured upstream, with the limit that it has now."""
        snapshot = self._runtime.snapshot
        limit = max(1, snapshot.upstreams[name].max_connections // PART)
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = _Flow(name, limit, snapshot)
        flow.pace.limit = limit
        return flow

    def _begin(self, flow: _Flow) -> None:
        """Begin as many deliveries as may be; live hooks come first."""
        snapshot = self._runtime.snapshot
        upstream = snapshot.upstreams.get(flow.name)
        if upstream is None or not flow.ready or not self._delivers:
            return
        if flow.snapshot is not snapshot:
            self._route_again(flow, snapshot)
        free, kept_free = upstream.free_connections, upstream.max_connections // PART
        now, pace = self._loop.time(), flow.pace
        while flow.ready and pace.room(now) > 0 and free > (kept_free if pace.in_flight else 0):
            free -= 1
            self._start(self._deliver(flow, flow.ready.popleft(), snapshot, pace.begin()))

    def _route_again(self, flow: _Flow, snapshot: Snapshot) -> None:
        """After a reload: by the configuration in force, events may go elsewhere."""
        flow.snapshot = snapshot
        ready, flow.ready = flow.ready, deque()
        for waiting in ready:
            self._accept(waiting.lane, waiting.delivery)

    # --- a delivery ---

    async def _deliver(self, flow: _Flow, waiting: _Waiting, snapshot: Snapshot, ticket: int) -> None:
        """Deliver one event, report what became of it, and begin the next."""
        lane, upstream = waiting.lane, snapshot.upstreams[flow.name]
        verdicts_before = upstream.verdicts
        try:
            outcome = await self._send(waiting, snapshot)
        except BaseException:  # cancelled
            flow.pace.finish(ticket, Finding.NOTHING, self._loop.time())
            self._settle(lane, Settle(waiting.delivery.id, "released"))
            raise
        settle = self._conclude(flow, waiting, ticket, outcome, verdicts_before, upstream.verdicts)
        self._settle(lane, settle)
        self._log_delivery(waiting.delivery, outcome, settle)
        self._log_outage(flow, lane, outcome)
        if flow.pace.state is State.DOWN:
            self._release_ready(flow)
        self._begin(flow)
        self._fetch(lane)

    async def _send(self, waiting: _Waiting, snapshot: Snapshot) -> Outcome:
        """Send it to its upstream, and where that fails in such a way, to those of failover."""
        delivery, route = waiting.delivery, waiting.destination.route
        outcome: Outcome | None = None
        try:
            hook = KeptHook(delivery.event, route.guard)
            for name in waiting.destination.upstreams:
                upstream = snapshot.upstreams[name]
                outgoing = build_redelivery(hook, upstream, route, delivery.attempts + 1)
                latest = await upstream.redeliver(outgoing, self._loop.time() + route.budget)
                latest = judge_redelivery(latest, hook, upstream, route)
                outcome = latest if outcome is None else outcome.merge_with(latest, name)
                if not latest.should_fail_over(route.failover_on):
                    break
        except Exception:
            logger.exception("a kept event met a defect of the gateway: %s", delivery.event.request_id)
        return _DEFECT if outcome is None else outcome

    def _conclude(
        self, flow: _Flow, waiting: _Waiting, ticket: int, outcome: Outcome, before: float, after: float
    ) -> Settle:
        """What the store is told. *before*, *after*: the hooks that the upstream had answered well."""
        delivery, failure, now = waiting.delivery, outcome.result, self._loop.time()
        if not isinstance(failure, Failure):
            flow.pace.finish(ticket, Finding.ANSWERED, now, delivery.id, after)
            self._count_delivered()
            return Settle(delivery.id, "delivered")
        trouble = is_trouble(failure, seen=outcome.seen, others_answered=after > before)
        finding = Finding.TROUBLE if trouble else Finding.ERROR
        if not flow.pace.finish(ticket, finding, now, delivery.id, after):
            return Settle(delivery.id, "released", time.time(), failure.detail)
        failures, settings = delivery.attempts + 1, waiting.destination.route.spool
        if failures < (ATTEMPTS if settings is None else settings.attempts):
            return Settle(delivery.id, "failed", time.time() + retry_delay(failures), failure.detail)
        return Settle(delivery.id, "dead", time.time(), failure.detail)

    def _settle(self, lane: _Lane, settle: Settle) -> None:
        """Report what became of an event."""
        lane.held -= 1
        if settle.outcome in ("delivered", "dead"):
            self._unsettled[settle.id] = lane
        self._outcomes.append(settle)
        if not lane.held or len(self._outcomes) >= SETTLED_AT_ONCE or not self._delivers:
            self._send_outcomes()
        elif self._sending is None:
            self._sending = self._loop.call_later(SETTLE_EVERY, self._send_outcomes)

    def _send_outcomes(self) -> None:
        """Report what became of the last deliveries, together: the store commits them together."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        outcomes, self._outcomes = self._outcomes, []
        for settle in outcomes:
            self._source.settle(settle)

    def _release_ready(self, flow: _Flow) -> None:
        """Give back to the store what has not begun."""
        while flow.ready:
            waiting = flow.ready.popleft()
            self._settle(waiting.lane, Settle(waiting.delivery.id, "released"))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the log ---

    def _log_outage(self, flow: _Flow, lane: _Lane, outcome: Outcome) -> None:
        """One line where an outage of the upstream begins, and one where it ends."""
        if flow.pace.in_outage == (flow.down_since is not None):
            return
        fields = {"upstream": flow.name}
        now = self._loop.time()
        if flow.down_since is None:
            flow.down_since = now
            detail = outcome.result.detail if isinstance(outcome.result, Failure) else ""
            extra = {"fields": {"event": "redelivery_down", **fields}}
            logger.warning("spool: upstream %s takes no events, tried every second: %s", flow.name, detail, extra=extra)
            return
        seconds, flow.down_since = now - flow.down_since, None
        extra = {"fields": {"event": "redelivery_back", **fields}}
        waiting = lane.backlog.events
        logger.warning(
            "spool: upstream %s takes events again, after %.1f s; about %d wait",
            flow.name,
            seconds,
            waiting,
            extra=extra,
        )

    def _log_delivery(self, delivery: Delivery, outcome: Outcome, settle: Settle) -> None:
        """At level debug alone: the store's process reports dead letters."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        event = delivery.event
        fields = {
            "event": "redelivery",
            "request_id": event.request_id,
            "app": event.app,
            "method": event.method,
            "upstream": event.upstream,
            "target": outcome.target,
            "attempt": delivery.attempts + 1,
            "outcome": settle.outcome,
            "upstream_ms": round(outcome.duration * 1000, 3),
            "error": settle.error,
        }
        logger.debug("spool: redelivery %s: %s", event.request_id, settle.outcome, extra={"fields": fields})
