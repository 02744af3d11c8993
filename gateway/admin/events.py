"""``GET /api/events``: what goes on, told as it happens by server-sent events (HTML standard, section 9.2).

One task looks and words everything once, whoever listens; nobody listening, nothing is looked at. Each listener has a
short queue of its own, and one that does not read is let go: its browser will connect again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
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
from gateway.telemetry.journal import Cursor, DecisionView

logger = logging.getLogger(__name__)

MAX_LISTENERS: Final = 32
"""More get 503."""
MAX_QUEUE: Final = 64
"""Events that wait for one listener; past it, it is let go."""
SEND_LIMIT: Final = 10.0
"""Seconds in which a listener takes an event off the wire, or is let go."""
CALLS_PER_SECOND: Final = 20
"""Calls told per second; of more, failures are told first, and the rest is counted."""
DEFAULT_APPS: Final = 50
"""Apps in an activity where nobody says how many."""
APPS_WANTED: Final = f"apps must be a whole number from 0 to {MOST_APPS}\n"
"""The answer to any other."""
_LOOK_EVERY: Final = 0.25
"""Seconds between two looks at the journal."""
_LOOKS_PER_SECOND: Final = 4
_ACTIVITY_EVERY: Final = 1.0
_UPSTREAMS_EVERY: Final = 2.0
_KEEP_ALIVE_EVERY: Final = 15.0
"""Seconds: proxies end what has been silent for long."""
_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
Upstreams = Callable[[], Awaitable[object]]
"""Tells what ``GET /api/upstreams`` answers."""
_KEEP_ALIVE: Final = b": keep-alive\n\n"


class Follower:
    """Looks at every process's journal again and again, and brings what it has not brought before."""

    def __init__(self, rpc: WorkerRpc, most: int = CALLS_PER_SECOND) -> None:
        self._rpc = rpc
        self._most = most
        self._since = time.time()
        self._cursors: dict[int, Cursor] = {}

    async def look(self) -> tuple[list[DecisionView], int]:
        """The calls decided since the last look, oldest first, and how many there were besides; none at first."""
        replies = await self._rpc.ask(FollowDecisions(self._cursors, self._most, self._since))
        late = {pid: self._cursors[pid] for pid in replies.incomplete if pid in self._cursors}
        self._cursors = late | {pid: news.cursor for pid, news in replies.by_pid.items()}
        calls = [call for news in replies.by_pid.values() for call in news.decisions]
        return sorted(calls, key=lambda call: call.time), sum(news.skipped for news in replies.by_pid.values())


def event(name: str, data: object) -> bytes:
    """One event's bytes."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), msgspec.json.encode(data))


def _activity_event(activity: Activity, most: int) -> bytes:
    return event("activity", activity.as_json(most))


class Ration:
    """Which calls are told: so many a second, failures before successes. Pure."""

    def __init__(self, per_second: int = CALLS_PER_SECOND, looks: int = _LOOKS_PER_SECOND) -> None:
        self._per_second = per_second
        self._looks = looks
        self._told = self._look = self._skipped = 0

    def choose(self, calls: Sequence[DecisionView], skipped: int = 0) -> list[DecisionView]:
        """Those of this look, in their order. A look's share is kept back for failures in the looks that follow."""
        self._look += 1
        left = self._per_second - self._told
        for_successes = max(0, self._per_second * self._look // self._looks - self._told)
        failures = [number for number, call in enumerate(calls) if is_failure(call)][-left:] if left else []
        failed = set(failures)
        successes = [number for number in range(len(calls)) if number not in failed]
        room = max(0, min(for_successes, left) - len(failures))
        chosen = sorted([*failures, *(successes[-room:] if room else ())])
        self._told += len(chosen)
        self._skipped += skipped + len(calls) - len(chosen)
        return [calls[number] for number in chosen]

    def end_of_second(self) -> int:
        """Begin the next second; how many calls of the last one were not told."""
        skipped = self._skipped
        self._told = self._look = self._skipped = 0
        return skipped


def is_failure(call: DecisionView) -> bool:
    """Whether it is anything but a verdict as it was meant, as the log counts failures."""
    return counts_as_failure(call.verdict, call.error, call.ineffective, call.repaired)


class _Listener:
    """One connection's queue."""

    def __init__(self, apps: int) -> None:
        self.apps = apps
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.ended = False
        """Nothing more comes."""
        self.too_slow = False

    def put(self, data: bytes) -> None:
        """Queue an event; where the queue is full, end instead."""
        if len(self._waiting) >= MAX_QUEUE:
            self.too_slow = True
            self._waiting.clear()
            self.end()
        elif not self.ended:
            self._waiting.append(data)
            self._wake.set()

    def end(self) -> None:
        """What is queued is the last."""
        self.ended = True
        self._wake.set()

    async def next(self) -> bytes | None:
        """What waits, in one piece; None at the end."""
        while not self._waiting:
            if self.ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        data = b"".join(self._waiting)
        self._waiting.clear()
        return data


class _Stream(Response):
    """The answer that does not end by itself."""

    def __init__(self, listener: _Listener, leave: Callable[[], None]) -> None:
        super().__init__()
        self._listener = listener
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the listener goes, is too slow, or the process ends."""
        listener = self._listener
        gone = asyncio.create_task(_gone(receive))
        gone.add_done_callback(lambda _: listener.end())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            while (data := await listener.next()) is not None:
                async with asyncio.timeout(SEND_LIMIT):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            if not listener.too_slow:
                await send({"type": "http.response.body"})
        except TimeoutError:
            pass  # it takes nothing; without its end the answer ends with the connection
        finally:
            self._leave()
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def silence() -> Events:
    """The events of a process that decides no hooks and has no others that do."""
    nothing = Reading(0.0, {}, {}, {})

    async def no_upstreams() -> object:
        return {"upstreams": []}

    return Events(Sampler(lambda: nothing._replace(time=time.monotonic())), NoWorkers(), time.time(), no_upstreams)


class Events:
    """All listeners, and the task that looks for them; *started* in Unix time."""

    def __init__(self, sampler: Sampler, rpc: WorkerRpc, started: float, upstreams: Upstreams) -> None:
        self.sampler = sampler
        self._rpc = rpc
        self._upstreams = upstreams
        self._hello = event("hello", {"version": __version__, "started": timestamp(started)})
        self._listeners: set[_Listener] = set()
        self._latest: dict[str | int, bytes] = {}
        """What was told last, for whoever comes: the upstreams, and the activity by its number of apps."""
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Events {len(self._listeners)} listeners>"

    async def respond(self, request: Request) -> Response:
        """The endpoint."""
        apps = request.query_params.get("apps", str(DEFAULT_APPS))
        most = number_of_apps(apps)
        if most is None:
            return PlainTextResponse(APPS_WANTED, 400)
        if self._closed or len(self._listeners) >= MAX_LISTENERS:
            why = "the gateway is stopping" if self._closed else f"{MAX_LISTENERS} listen already"
            return PlainTextResponse(f"no more events: {why}\n", 503)
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _HEADERS})
        return self._stream(most)

    async def aclose(self) -> None:
        """End every stream now: none may hold up the end of the process."""
        self._closed = True
        for listener in self._listeners:
            listener.end()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self.sampler.aclose()

    def _stream(self, most: int) -> _Stream:
        listener = _Listener(most)
        for data in (self._hello, self._latest.get(most), self._latest.get("upstreams")):
            if data is not None:
                listener.put(data)
        self._listeners.add(listener)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_around())
        return _Stream(listener, lambda: self._listeners.discard(listener))

    async def _look_around(self) -> None:
        """Look four times a second until nobody listens any more."""
        loop = asyncio.get_running_loop()
        follower, ration = Follower(self._rpc), Ration()
        self._latest.clear()
        # Each goes its own way: a worker that hangs takes a while to be given up, and the others do not wait for that.
        others = [
            asyncio.create_task(self._repeat(_ACTIVITY_EVERY, "the activity", self._tell_activity)),
            asyncio.create_task(self._repeat(_UPSTREAMS_EVERY, "the upstreams", self._tell_upstreams)),
            asyncio.create_task(self._repeat(_KEEP_ALIVE_EVERY, "a sign of life", self._tell_life)),
        ]
        try:
            due = loop.time()
            for look in itertools.count(1):
                await self._safely("the calls", self._tell_calls(follower, ration))
                if look % _LOOKS_PER_SECOND == 0 and (skipped := ration.end_of_second()) > 0:
                    self._tell(event("skipped", {"skipped": skipped}))
                if not self._listeners:
                    return
                due = max(due + _LOOK_EVERY, loop.time() + _LOOK_EVERY / 2)
                await asyncio.sleep(due - loop.time())
        finally:
            for task in others:
                task.cancel()

    async def _repeat(self, seconds: float, what: str, tell: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self._safely(what, tell())
            await asyncio.sleep(max(seconds / 2, began + seconds - loop.time()))

    async def _safely(self, what: str, telling: Awaitable[None]) -> None:
        try:
            await telling
        except Exception:
            logger.exception("the events lack %s", what)

    async def _tell_calls(self, follower: Follower, ration: Ration) -> None:
        for decision in ration.choose(*await follower.look()):
            self._tell(event("decision", decision))

    async def _tell_activity(self) -> None:
        activity = await self.sampler.activity()
        wanted = {listener.apps for listener in self._listeners}
        for key in self._latest.keys() - wanted - {"upstreams"}:
            del self._latest[key]
        for most in wanted:
            # A thousand apps take a thread some milliseconds, and hooks go on meanwhile.
            data = self._latest[most] = await asyncio.to_thread(_activity_event, activity, most)
            for listener in self._listeners:
                if listener.apps == most:
                    listener.put(data)

    async def _tell_upstreams(self) -> None:
        upstreams = await self._upstreams()
        data = self._latest["upstreams"] = await asyncio.to_thread(event, "upstreams", upstreams)
        self._tell(data)

    async def _tell_life(self) -> None:
        self._tell(_KEEP_ALIVE)

    def _tell(self, data: bytes) -> None:
        for listener in self._listeners:
            listener.put(data)


def number_of_apps(text: str) -> int | None:
    """The ``apps`` of a query; None where it is no number in bounds."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= MOST_APPS else None
