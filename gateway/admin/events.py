"""``GET /api/events``: live events as server-sent events (HTML standard, section 9.2).

One task collects and encodes each event once for all listeners; without listeners it does not run. Each listener has a
short queue, and a listener that does not read is disconnected: its browser connects again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.admin.activity import MOST_APPS, Activity, Reading, Sampler
from gateway.admin.rpc import FollowDecisions, NoWorkers, WorkerRpc
from gateway.model.decision import counts_as_failure
from gateway.model.text import timestamp
from gateway.telemetry.decision_view import DecisionView
from gateway.telemetry.journal import Cursor

logger = logging.getLogger(__name__)

MAX_LISTENERS: Final = 32
"""The most listeners; more get 503."""
MAX_QUEUE: Final = 64
"""The most events in a listener's queue; one more disconnects it."""
SEND_LIMIT: Final = 10.0
"""Seconds to send an event; a listener that takes longer is disconnected."""
DECISIONS_PER_SECOND: Final = 20
"""The most decisions per second; failures come first, and the rest is only counted."""
DEFAULT_APPS: Final = 50
"""The default number of apps in an activity."""
APP_COUNT_ERROR: Final = f"apps must be a whole number from 0 to {MOST_APPS}\n"
"""The answer to any other number."""
_STEP_EVERY: Final = 0.25
"""Seconds between two requests to the journals."""
_STEPS_PER_SECOND: Final = 4
_ACTIVITY_EVERY: Final = 1.0
_UPSTREAMS_EVERY: Final = 2.0
_KEEP_ALIVE_EVERY: Final = 15.0
"""Seconds; proxies close idle connections."""
_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
Upstreams = Callable[[], Awaitable[object]]
"""Returns the content of ``GET /api/upstreams``."""
_KEEP_ALIVE: Final = b": keep-alive\n\n"


class Follower:
    """Follows the journals of all processes."""

    def __init__(self, rpc: WorkerRpc, most: int = DECISIONS_PER_SECOND) -> None:
        self._rpc = rpc
        self._most = most
        self._since = time.time()
        self._cursors: dict[int, Cursor] = {}

    async def fetch_new(self) -> tuple[list[DecisionView], int]:
        """The decisions since the last call, oldest first, and how many more there were; none at first."""
        replies = await self._rpc.ask(FollowDecisions(self._cursors, self._most, self._since))
        late = {pid: self._cursors[pid] for pid in replies.incomplete if pid in self._cursors}
        self._cursors = late | {pid: news.cursor for pid, news in replies.by_pid.items()}
        decisions = [decision for news in replies.by_pid.values() for decision in news.decisions]
        return sorted(decisions, key=attrgetter("time")), sum(news.skipped for news in replies.by_pid.values())


def event(name: str, data: object) -> bytes:
    """An event as bytes."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), msgspec.json.encode(data))


def _activity_event(activity: Activity, most: int) -> bytes:
    return event("activity", activity.as_json(most))


class EventQuota:
    """Chooses which decisions are sent: a maximum per second, failures first."""

    def __init__(self, per_second: int = DECISIONS_PER_SECOND, steps: int = _STEPS_PER_SECOND) -> None:
        self._per_second = per_second
        self._steps = steps
        self._sent = self._step = self._skipped = 0

    def choose(self, decisions: Sequence[DecisionView], skipped: int = 0) -> list[DecisionView]:
        """The decisions to send now, in their order. Part of the quota is reserved for failures later in the second."""
        self._step += 1
        left = self._per_second - self._sent
        for_successes = max(0, self._per_second * self._step // self._steps - self._sent)
        failures = [number for number, decision in enumerate(decisions) if is_failure(decision)][-left:] if left else []
        failed = set(failures)
        successes = [number for number in range(len(decisions)) if number not in failed]
        room = max(0, min(for_successes, left) - len(failures))
        chosen = sorted([*failures, *(successes[-room:] if room else ())])
        self._sent += len(chosen)
        self._skipped += skipped + len(decisions) - len(chosen)
        return [decisions[number] for number in chosen]

    def end_of_second(self) -> int:
        """Start the next second. Returns how many decisions of the last second were not sent."""
        skipped = self._skipped
        self._sent = self._step = self._skipped = 0
        return skipped


def is_failure(decision: DecisionView) -> bool:
    """Whether the decision is a failure, as the log counts failures."""
    return counts_as_failure(decision.verdict, decision.error, decision.ineffective, decision.repaired)


class _Listener:
    """The queue of one connection."""

    def __init__(self, apps: int) -> None:
        self.apps = apps
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.ended = False
        """No more events are queued."""
        self.too_slow = False

    def put(self, data: bytes) -> None:
        """Queue an event; if the queue is full, end the connection instead."""
        if len(self._waiting) >= MAX_QUEUE:
            self.too_slow = True
            self._waiting.clear()
            self.end()
        elif not self.ended:
            self._waiting.append(data)
            self._wake.set()

    def end(self) -> None:
        """End after the queued events."""
        self.ended = True
        self._wake.set()

    async def next(self) -> bytes | None:
        """The queued events in one piece; None at the end."""
        while not self._waiting:
            if self.ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        data = b"".join(self._waiting)
        self._waiting.clear()
        return data


class _Stream(Response):
    """The answer with the events of one listener."""

    def __init__(self, listener: _Listener, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._listener = listener
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the listener disconnects, is too slow, or the process ends."""
        listener = self._listener
        disconnected = asyncio.create_task(_wait_for_disconnect(receive))
        disconnected.add_done_callback(lambda _: listener.end())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            while (data := await listener.next()) is not None:
                async with asyncio.timeout(SEND_LIMIT):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            if not listener.too_slow:
                await send({"type": "http.response.body"})
        except TimeoutError:
            pass  # it does not read; the unfinished answer closes the connection
        finally:
            self._on_close()
            disconnected.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def no_events() -> Events:
    """The events of a process that decides no hooks and has no workers."""
    nothing = Reading(0.0, {}, {}, {})

    async def no_upstreams() -> object:
        return {"upstreams": []}

    return Events(Sampler(lambda: nothing._replace(time=time.monotonic())), NoWorkers(), time.time(), no_upstreams)


class Events:
    """All listeners, and the task that collects events for them; *started* is Unix time."""

    def __init__(self, sampler: Sampler, rpc: WorkerRpc, started: float, upstreams: Upstreams) -> None:
        self.sampler = sampler
        self._rpc = rpc
        self._upstreams = upstreams
        self._hello = event("hello", {"version": __version__, "started": timestamp(started)})
        self._listeners: set[_Listener] = set()
        self._latest: dict[str | int, bytes] = {}
        """The latest events, for new listeners: the upstreams, and the activity by number of apps."""
        self._collecting: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Events {len(self._listeners)} listeners>"

    async def respond(self, request: Request) -> Response:
        """The endpoint."""
        apps = request.query_params.get("apps", str(DEFAULT_APPS))
        most = parse_app_count(apps)
        if most is None:
            return PlainTextResponse(APP_COUNT_ERROR, 400)
        if self._closed or len(self._listeners) >= MAX_LISTENERS:
            reason = "the gateway is stopping" if self._closed else f"there are {MAX_LISTENERS} listeners already"
            return PlainTextResponse(f"no events: {reason}\n", 503)
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _HEADERS})
        return self._stream(most)

    async def aclose(self) -> None:
        """End every stream now, so that none delays the end of the process."""
        self._closed = True
        for listener in self._listeners:
            listener.end()
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)
        await self.sampler.aclose()

    def _stream(self, most: int) -> _Stream:
        listener = _Listener(most)
        for data in (self._hello, self._latest.get(most), self._latest.get("upstreams")):
            if data is not None:
                listener.put(data)
        self._listeners.add(listener)
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect())
        return _Stream(listener, lambda: self._listeners.discard(listener))

    async def _collect(self) -> None:
        """Collect events four times a second until there are no listeners."""
        loop = asyncio.get_running_loop()
        follower, quota = Follower(self._rpc), EventQuota()
        self._latest.clear()
        # Separate tasks, so that a worker that hangs delays only one of them.
        others = [
            asyncio.create_task(self._repeat(_ACTIVITY_EVERY, "the activity", self._send_activity)),
            asyncio.create_task(self._repeat(_UPSTREAMS_EVERY, "the upstreams", self._send_upstreams)),
            asyncio.create_task(self._repeat(_KEEP_ALIVE_EVERY, "the keep-alive", self._send_keep_alive)),
        ]
        try:
            due = loop.time()
            for step in itertools.count(1):
                await self._log_errors("the decisions", self._send_decisions(follower, quota))
                if step % _STEPS_PER_SECOND == 0 and (skipped := quota.end_of_second()) > 0:
                    self._send(event("skipped", {"skipped": skipped}))
                if not self._listeners:
                    return
                due = max(due + _STEP_EVERY, loop.time() + _STEP_EVERY / 2)
                await asyncio.sleep(due - loop.time())
        finally:
            for task in others:
                task.cancel()

    async def _repeat(self, seconds: float, what: str, send: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self._log_errors(what, send())
            await asyncio.sleep(max(seconds / 2, began + seconds - loop.time()))

    async def _log_errors(self, what: str, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Exception:
            logger.exception("events without %s", what)

    async def _send_decisions(self, follower: Follower, quota: EventQuota) -> None:
        for decision in quota.choose(*await follower.fetch_new()):
            self._send(event("decision", decision))

    async def _send_activity(self) -> None:
        activity = await self.sampler.activity()
        counts = {listener.apps for listener in self._listeners}
        for key in self._latest.keys() - counts - {"upstreams"}:
            del self._latest[key]
        for most in counts:
            # In a thread: a thousand apps take some milliseconds.
            data = self._latest[most] = await asyncio.to_thread(_activity_event, activity, most)
            for listener in self._listeners:
                if listener.apps == most:
                    listener.put(data)

    async def _send_upstreams(self) -> None:
        upstreams = await self._upstreams()
        data = self._latest["upstreams"] = await asyncio.to_thread(event, "upstreams", upstreams)
        self._send(data)

    async def _send_keep_alive(self) -> None:
        self._send(_KEEP_ALIVE)

    def _send(self, data: bytes) -> None:
        for listener in self._listeners:
            listener.put(data)


def parse_app_count(text: str) -> int | None:
    """The ``apps`` of a query; None if it is not a number within bounds."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= MOST_APPS else None
