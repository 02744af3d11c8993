"""Copies of hooks for candidates: queued after the answer has gone out, sent over connections of their own, compared.

Nothing here can delay or change an answer. A hook pays for being looked at and, if it is in the sample, for one entry
of a queue that is bounded in number and bytes; when that is full, the copy is dropped and counted. A bounded number of
tasks per candidate empties it, each with the hook's own budget. A candidate is an upstream of its own, with its own
connections, breaker and metrics: one that hangs or is gone harms no hook, even where hooks go to the same address.

Only hooks that the backend decided itself are copied. A fallback, a rule or a static verdict is no backend's opinion,
so there is nothing to compare; and a duplicate has been copied when it came first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple

import msgspec

from gateway.config import Config
from gateway.config import Upstream as UpstreamConfig
from gateway.model.change import Change
from gateway.model.decision import UNKNOWN_APP, Decision
from gateway.model.verdicts import Cause, Failure, Ruling, Source
from gateway.policy.comparison import Compare, ComparedAnswer, Comparison, compare
from gateway.policy.retry import Retry
from gateway.policy.shadow import DROPPED, MARK, Shadow, ShadowResult, ShadowSettings, candidate_name
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Outcome, Outgoing, Upstream

logger = logging.getLogger(__name__)

MAX_TASKS: Final = 32
"""Copies under way to one candidate at once."""
MAX_QUEUED: Final = 512
"""Copies that wait for one candidate."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes that one candidate's copies take, those under way included."""
MAX_BYTES_OF_ALL: Final = 16 * 1024 * 1024
"""The same of all candidates together."""
LARGE: Final = 8 * 1024
"""Bytes of a body from which on a comparison field by field is made in a thread, one at a time."""

_OVERHEAD: Final = 2048
"""Bytes that a copy takes besides head and bodies, about."""
_RETRY: Final = Retry()
"""Only what no backend can have seen is sent again, above all over a connection that turned out to be closed."""
_SPAN: Final = 1 << 15
"""A copy's number among its hook's attempts, in a trace: what the candidate does hangs below none of the real ones."""

ResultListener = Callable[[str, ShadowResult, Decision], None]
"""Told of each result: the hook's request id, what came of its copy, and the hook's own fate."""


def candidate_upstreams(config: Config) -> dict[str, UpstreamConfig]:
    """The further upstreams that the shadows of a configuration need, by their reserved names.

    They lack health checks: the upstream itself has them, and a candidate is not asked twice for nothing.
    """
    shadows = [
        shadow for app in config.apps.values() for shadow in (app.shadow, *(m.shadow for m in app.methods.values()))
    ]
    names = dict.fromkeys(shadow.upstream for shadow in shadows if isinstance(shadow, ShadowSettings))
    return {candidate_name(name): config.upstreams[name].model_copy(update={"health": None}) for name in names}


class _Copy(msgspec.Struct, frozen=True, eq=False):
    """A hook's copy and all that is needed to compare its answer."""

    settings: ShadowSettings
    decision: Decision
    ours: Ruling
    outgoing: Outgoing
    upstream: Upstream
    offered: float
    """Loop time."""
    budget: float
    size: int


class _CandidateQueue:
    """What waits for one candidate and is under way to it."""

    __slots__ = ("bytes", "config", "queue", "tasks", "upstream")

    def __init__(self, config: UpstreamConfig, upstream: Upstream) -> None:
        self.config = config
        self.upstream = upstream
        self.queue: deque[_Copy] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.bytes = 0


class Shadows:
    """The copies of one process. Build it inside a running loop."""

    def __init__(self, metrics: Metrics, note: ResultListener | None = None) -> None:
        self.on_result = note
        """Whom to tell of results."""
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _CandidateQueue] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._apps: Container[str] = ()
        self._mask: frozenset[str] = frozenset()
        self._bytes = 0
        self._draining = False
        self._thread_slot = asyncio.Lock()
        """Held by the one comparison that is made in a thread."""

    def __repr__(self) -> str:
        lanes = (f"{name}: {len(lane.queue)} queued, {len(lane.tasks)} at work" for name, lane in self._lanes.items())
        return f"<Shadows {self._bytes} bytes; {'; '.join(lanes)}>"

    @property
    def queued(self) -> int:
        """Copies that wait."""
        return sum(len(lane.queue) for lane in self._lanes.values())

    @property
    def active_tasks(self) -> int:
        """Tasks that bring copies to candidates, those included that are about to end."""
        return sum(len(lane.tasks) for lane in self._lanes.values()) + len(self._ending)

    @property
    def bytes(self) -> int:
        """What all copies take, about."""
        return self._bytes

    def prepare(
        self, config: Config, configs: Mapping[str, UpstreamConfig], upstreams: Mapping[str, Upstream]
    ) -> Change:
        """Have it ready to work by another configuration.

        *configs*: its ``candidate_upstreams``; *upstreams* has them live, among others. Where a candidate is gone or
        has other settings now, the copies that wait for it are dropped, and requests in flight to it are cancelled.
        """
        lanes = {}
        for name, described in configs.items():
            lane = self._lanes.get(name)
            stays = lane is not None and lane.config == described
            lanes[name] = lane if lane is not None and stays else _CandidateQueue(described, upstreams[name])
        after = Work(config.apps, frozenset(config.log.mask), lanes, {name: upstreams[name] for name in lanes})
        upstreams_before = {name: lane.upstream for name, lane in self._lanes.items()}
        return _ShadowsChange(self, Work(self._apps, self._mask, self._lanes, upstreams_before), after)

    def put(self, work: Work) -> None:
        """Do this work from now on."""
        for name, lane in work.lanes.items():
            lane.upstream = work.upstreams[name]
        self._apps, self._mask, self._lanes = work.apps, work.mask, work.lanes

    def end(self, lane: _CandidateQueue) -> None:
        """Drop what waits for a candidate, and break off what is under way to it."""
        self._drop_queue(lane)
        for task in lane.tasks:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def offer(
        self, shadow: Shadow, decision: Decision, outcome: Outcome | None, prepare: Callable[[Upstream], Outgoing]
    ) -> None:
        """Have a hook copied, if it is one to be copied; its answer has gone out. Never raises.

        *outcome*: what its upstream said, before anything of it was changed for the media server; so is the
        candidate's. *prepare* makes the hook as an upstream gets it; it is called for what is really copied.
        """
        if (
            decision.ruling.source is not Source.BACKEND
            or outcome is None
            or decision.upstream == shadow.upstream
            or not shadow.covers(decision.method_name)
            or (hook := decision.hook) is None
            or not shadow.takes(hook, decision.request_id, decision.method_name)
            or (lane := self._lanes.get(shadow.candidate)) is None
        ):
            return
        if self._draining or len(lane.queue) >= MAX_QUEUED:
            self._count(decision.app, shadow.upstream, DROPPED)
            return
        try:
            self._enqueue(lane, shadow, decision, outcome.result, prepare)
        except Exception:
            self._defect(shadow, decision)

    def drain(self) -> None:
        """The process is to end: what waits is dropped, and nothing more is taken."""
        self._draining = True
        for lane in self._lanes.values():
            self._drop_queue(lane)

    async def aclose(self) -> None:
        """End everything now."""
        self.drain()
        for name in list(self._lanes):
            self.end(self._lanes.pop(name))
        if self._ending:
            await asyncio.wait(self._ending)

    # --- the queue ---

    def _enqueue(
        self,
        lane: _CandidateQueue,
        shadow: Shadow,
        decision: Decision,
        ours: Ruling | Failure,
        prepare: Callable[[Upstream], Outgoing],
    ) -> None:
        if isinstance(ours, Failure) or decision.budget is None:
            return
        outgoing = _mark_copy(prepare(lane.upstream))
        size = _OVERHEAD + len(outgoing.head) + decision.size + len(ours.body)
        if lane.bytes + size > MAX_BYTES or self._bytes + size > MAX_BYTES_OF_ALL:
            self._count(decision.app, shadow.upstream, DROPPED)
            return
        lane.bytes += size
        self._bytes += size
        now = self._loop.time()
        copy = _Copy(
            settings=shadow.settings,
            decision=decision,
            ours=ours,
            outgoing=outgoing,
            upstream=lane.upstream,
            offered=now,
            budget=decision.budget,
            size=size,
        )
        lane.queue.append(copy)
        if len(lane.tasks) < MAX_TASKS:
            lane.tasks.add(self._loop.create_task(self._work(lane), name=f"shadow {shadow.candidate}"))

    def _drop_queue(self, lane: _CandidateQueue) -> None:
        while lane.queue:
            copy = lane.queue.popleft()
            self._release(lane, copy)
            self._count(copy.decision.app, copy.settings.upstream, DROPPED)

    def _release(self, lane: _CandidateQueue, copy: _Copy) -> None:
        lane.bytes -= copy.size
        self._bytes -= copy.size

    # --- the work ---

    async def _work(self, lane: _CandidateQueue) -> None:
        """Bring copies to the candidate until none is left."""
        try:
            await self._empty(lane)
        finally:
            # At once, and not when the loop gets to tell of its end: a copy that came in between would find every task
            # at work, and none would come for it.
            if (task := asyncio.current_task()) is not None:
                lane.tasks.discard(task)

    async def _empty(self, lane: _CandidateQueue) -> None:
        while lane.queue:
            copy = lane.queue.popleft()
            outcome = DROPPED
            try:
                outcome = await self._ask(copy)
            except Exception:
                logger.exception("a shadow met a defect of the gateway; its hook had been answered")
            finally:
                self._release(lane, copy)
                self._count(copy.decision.app, copy.settings.upstream, outcome)
            await asyncio.sleep(0)  # hooks get their turn, even where a candidate that is ejected fails at once

    async def _ask(self, copy: _Copy) -> str:
        """Ask the candidate, compare its answer, tell what came of it, and return the word for it."""
        now = self._loop.time()
        if now - copy.offered > copy.budget:
            return DROPPED  # of a call that has long gone on, a backend may know other things by now
        outcome = await copy.upstream.ask(copy.outgoing, now + copy.budget, _RETRY)
        if isinstance(outcome.result, Failure) and outcome.result.cause is Cause.OVERLOAD:
            return DROPPED  # by our own limit of connections: the candidate has not seen it
        theirs = _as_answered(outcome.result)
        comparison = await self._compare(_as_answered(copy.ours), theirs, copy.settings)
        if self.on_result is not None:
            result = ShadowResult(
                upstream=copy.settings.upstream,
                outcome=comparison.outcome,
                status=theirs.status or None,
                error=theirs.error,
                duration_ms=round(outcome.duration * 1000, 3),
                differences=comparison.differences,
            )
            self.on_result(copy.decision.request_id, result, copy.decision)
        return comparison.outcome

    async def _compare(self, ours: ComparedAnswer, theirs: ComparedAnswer, settings: ShadowSettings) -> Comparison:
        alike = settings.compare is Compare.VERDICT or ours.body == theirs.body
        if alike or max(len(ours.body), len(theirs.body)) < LARGE:
            return compare(ours, theirs, settings.compare, settings.ignore, self._mask)
        async with self._thread_slot:
            return await asyncio.to_thread(compare, ours, theirs, settings.compare, settings.ignore, self._mask)

    def _count(self, app: str, upstream: str, outcome: str) -> None:
        # A hook whose app a reload has taken away must not bring the app's series back.
        self._metrics.shadow_hooks.with_labels(app if app in self._apps else UNKNOWN_APP, upstream, outcome).inc()

    def _defect(self, shadow: Shadow, decision: Decision) -> None:
        logger.exception("a shadow met a defect of the gateway; its hook had been answered")
        self._count(decision.app, shadow.upstream, DROPPED)


class Work(NamedTuple):
    """What one configuration has copied."""

    apps: Container[str]
    mask: frozenset[str]
    lanes: dict[str, _CandidateQueue]
    upstreams: Mapping[str, Upstream]
    """By the lanes' names: where their copies go."""


class _ShadowsChange(Change):
    """The work of another configuration: lanes that stay go on with what waits in them."""

    def __init__(self, shadows: Shadows, before: Work, after: Work) -> None:
        self._shadows = shadows
        self._before = before
        self._after = after

    def commit(self) -> None:
        """Copies that come go to the new candidates."""
        self._shadows.put(self._after)

    def revert(self) -> None:
        """They go to the old ones again."""
        self._shadows.put(self._before)

    async def settle(self) -> None:
        """End what was for candidates that are gone."""
        for name, lane in self._before.lanes.items():
            if self._after.lanes.get(name) is not lane:
                self._shadows.end(lane)


def _mark_copy(outgoing: Outgoing) -> Outgoing:
    """The hook as a copy: marked, and with a place of its own in the hook's trace."""
    head = outgoing.head
    if outgoing.trace is not None:
        head = outgoing.trace.renumber(head, 1, _SPAN)
    return msgspec.structs.replace(outgoing, head=head + MARK, trace=None)


def _as_answered(result: Ruling | Failure) -> ComparedAnswer:
    if isinstance(result, Failure):
        return ComparedAnswer(None, result.received_status or 0, b"", result.detail)
    return ComparedAnswer(result.verdict, result.status, result.body, "")
