"""Decisions whose sessions only another replica knows: annotated as if they were known here, and published once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, loads
from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.encoding import FoundSession
from gateway.fleet.hooks import FleetHooks
from gateway.model.decision import Decision
from gateway.model.hooks import MethodType, parse_hook
from gateway.model.verdicts import Ruling, backend_allow, backend_reject
from gateway.policy.rest_client_config import MethodSettings
from gateway.proxy import fleet_sessions
from gateway.proxy.context import HookContext
from gateway.proxy.effects import Effects
from gateway.proxy.fleet_endpoint import FleetEndpoint
from gateway.proxy.fleet_sessions import LateAnnotations, WrittenSessions, annotate_found
from gateway.proxy.refusals import problem
from gateway.proxy.runtime import Runtime
from gateway.proxy.sessions import Sessions, session_key
from gateway.telemetry.metrics import Metrics
from tests.support.redis import RedisServer, redis_server

FAILED: Final = '{"appKey": "a", "nodeId": "n", "sessionId": "s", "callee": "1"}'
CONFIG: Final = {
    "upstreams": {"u": {"url": "http://127.0.0.1:1/"}},
    "apps": {
        "a": {"upstream": "u", "methods": {"call": {"fallback": {"unreachable": {"allow": {"callee": "7"}}}}}},
        "off": {"upstream": "u", "rest_client_config": "off"},
        "static": {"static": "allow"},
    },
    "hook_types": {"asked": "direct", "told": "event"},
}
SOON: Final = 5.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Replica:
    """The endpoint of one replica, whose only upstream is dead."""

    def __init__(self, state: StateConfig) -> None:
        metrics = Metrics("test")
        self.decisions: list[Decision] = []
        self.sessions = Sessions()
        self.fleet = FleetHooks(state, metrics)
        self.runtime = Runtime(loads(json.dumps(CONFIG)).config, metrics)
        self.endpoint = FleetEndpoint(self.runtime, (self.decisions.append,), self.sessions, self.fleet)

    async def send(self, method: str, app: str = "a", session: str = "s") -> int:
        """Send a hook; the status of its answer."""
        content = json.dumps({"appKey": app, "nodeId": "n", "sessionId": session, "callee": "1"}).encode()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "raw_path": f"/rest/{method}".encode(), "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "client": ("192.0.2.1", 5), "scheme": "http",
        }  # fmt: skip
        await self.endpoint(scope, receive, send)
        return int(sent[0]["status"])

    async def wait_for(self, count: int) -> list[Decision]:
        """All decisions, once there are so many."""
        async with asyncio.timeout(SOON):
            while len(self.decisions) < count:
                await asyncio.sleep(0.005)
        return self.decisions


@contextlib.asynccontextmanager
async def replica(redis: RedisServer) -> AsyncIterator[Replica]:
    running = Replica(StateConfig(url=parse_state_url(redis.url)))
    await running.runtime.start()
    await running.fleet.start()
    async with asyncio.timeout(SOON):
        while not running.fleet.is_up:
            await asyncio.sleep(0.005)
    try:
        yield running
    finally:
        await running.endpoint.settle()
        await running.fleet.aclose()
        await running.runtime.aclose()


def effects(decision: Decision) -> tuple[bool, str | None]:
    found = decision.ruling.annotations
    return (False, None) if found is None else (found.ineffective, found.ignored_fields)


async def test_a_decision_waits_for_the_fleet_and_its_answer_does_not(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        assert await one.send("connect", "static") == 200
        redis.pause()
        try:
            assert await two.send("OnCallEvent") == 403
            assert await two.send("call") == 200
            assert two.decisions == []
        finally:
            redis.resume()
        decisions = await two.wait_for(2)
        by_method = {decision.method: effects(decision) for decision in decisions}
        # The server may have stood for longer than a look-up waits; a later one finds the session.
        assert by_method in (
            {"OnCallEvent": (True, None), "call": (False, "callee")},
            {"OnCallEvent": (False, None), "call": (False, None)},
        )
        await two.send("OnCallEvent")
        assert effects((await two.wait_for(3))[2]) == (True, None)
        assert two.sessions.stops("n s", "OnCallEvent") is False


async def test_what_needs_no_session_or_has_one_here_is_published_at_once(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    async with replica(redis) as one, replica(redis) as two:
        await one.send("connect", "static")
        for method, app in (
            ("told", "a"), ("playHLS", "a"), ("OnCallEvent", "off"), ("connect", "a"), ("call", "nobody"),
            ("OnCallEvent", "static"),
        ):  # fmt: skip
            before = len(two.decisions)
            await two.send(method, app)
            assert len(two.decisions) == before + 1, (method, app)
        before = len(one.decisions)
        await one.send("OnCallEvent")
        assert effects(one.decisions[before]) == (True, None)


async def test_the_end_publishes_what_still_waits(redis: RedisServer) -> None:
    async with replica(redis) as one:
        redis.pause()
        try:
            await one.send("OnCallEvent")
            assert one.decisions == []
            await one.endpoint.settle()
            assert [decision.method for decision in one.decisions] == ["OnCallEvent"]
        finally:
            redis.resume()


async def test_no_more_than_so_many_wait(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_sessions, "MAX_WAITING", 2)
    async with replica(redis) as one:
        redis.pause()
        try:
            for _ in range(4):
                await one.send("OnCallEvent")
            assert len(one.decisions) == 2
        finally:
            redis.resume()
        assert len(await one.wait_for(4)) == 4


async def test_a_listener_that_fails_stops_no_other_and_a_defect_of_a_look_up_publishes_all_the_same(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    async with replica(redis) as one, replica(redis) as two:
        await one.send("connect", "static", "t")
        two.endpoint.record_with(fail)
        monkeypatch.setattr(fleet_sessions, "annotate_found", fail)
        await two.send("OnCallEvent", session="t")
        assert len(await two.wait_for(1)) == 1
    assert [record.message.partition(";")[0] for record in caplog.records if record.exc_info] == [
        "a look-up of a session failed",
        "a listener failed",
    ]


# --- what is annotated ---

METHODS: Final = ("call", "OnCallEvent", "asked", "told", "playHLS")
settings = st.dictionaries(
    st.sampled_from(METHODS),
    st.builds(
        MethodSettings,
        fails=st.booleans(),
        policy=st.sampled_from(["NOTIFY", "OVERWRITE", "DISABLE"]),
        overwrite=st.lists(st.sampled_from(["callee", "caller", "sessionId"]), max_size=2).map(tuple),
    ),
)
rulings = st.sampled_from(
    [
        backend_reject(),
        backend_allow(b"{}").annotate(changed_fields="callee"),
        backend_allow(b"{}").annotate(changed_fields="callee,sessionId"),
        backend_allow(b"{}"),
    ]
)


@pytest.fixture(scope="module")
def config() -> Config:
    return loads(json.dumps(CONFIG)).config


class Known:
    """One session, known here or not at all."""

    def __init__(self, found: FoundSession | None) -> None:
        self._found = found

    def remember(self, *_: object) -> None:
        raise AssertionError("only a connect is remembered")

    def stops(self, session: str | None, method: str) -> bool | None:
        return None if self._found is None else method in self._found.failing

    def settings(self, session: str | None, method: str) -> MethodSettings | None:
        if self._found is None or self._found.settings is None:
            return None
        return self._found.settings.get(method, MethodSettings())


@given(st.sampled_from(METHODS), rulings, st.none() | settings)
async def test_what_another_replica_knows_annotates_as_what_is_known_here(
    config: Config, method: str, ruling: Ruling, known: dict[str, MethodSettings] | None
) -> None:
    runtime = Runtime(config, Metrics("test"))
    try:
        failing = frozenset(name for name, each in (known or {}).items() if each.fails)
        found = FoundSession(failing, known)
        context = HookContext(runtime.snapshot, 0.0, {"headers": []})
        context.method_name, context.hook = method, parse_hook(FAILED.encode())
        match = runtime.snapshot.table.find("a", method)
        assert match is not None
        context.enter(*match)
        local, kind = Sessions(), {"told": MethodType.EVENT, "OnCallEvent": MethodType.INCOMING}
        expected = Effects(Known(found)).annotate(context, ruling)
        assert Effects(Known(None)).annotate(context, ruling) == ruling
        assert annotate_found(ruling, method, kind.get(method, MethodType.DIRECT), found) == expected or (
            method == "playHLS"  # all viewers share its session, so that it has none
        )
        late = LateAnnotations(local, None, lambda _: None)  # type: ignore[arg-type]
        in_doubt = late.unknown_session(context, ruling)
        assert in_doubt in (None, session_key(context.hook, method))
        assert in_doubt is not None or expected == ruling or method == "playHLS"
        local.remember(session_key(context.hook, method), failing, known or {})
        assert late.unknown_session(context, ruling) is None
    finally:
        await runtime.aclose()


async def test_refusals_of_the_gateway_s_own_are_in_no_doubt(config: Config) -> None:
    runtime = Runtime(config, Metrics("test"))
    context = HookContext(runtime.snapshot, 0.0, {"headers": []})
    late = LateAnnotations(Sessions(), None, lambda _: None)  # type: ignore[arg-type]
    assert late.unknown_session(context, problem(400, "no hook")) is None
    context.method_name, context.hook = "call", parse_hook(FAILED.encode())
    match = runtime.snapshot.table.find("a", "call")
    assert match is not None
    context.enter(*match)
    assert late.unknown_session(context, problem(401, "no password")) is None
    assert late.unknown_session(context, backend_reject()) == "n s"
    await runtime.aclose()


async def test_a_connect_is_remembered_here_and_written_for_the_others(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    async with replica(redis) as one:
        written = WrittenSessions(one.sessions, one.fleet.sessions)
        written.remember(None, frozenset({"call"}))
        written.remember("x", frozenset({"call"}), {"call": MethodSettings(fails=True)})
        assert written.stops("x", "call") is True
        assert written.settings("x", "call") == MethodSettings(fails=True)
        assert await one.fleet.sessions.find("x") == FoundSession(
            frozenset({"call"}), {"call": MethodSettings(fails=True)}
        )
        assert sum(key.startswith("wcs:session:") for key in redis.keys()) == 1  # noqa: SIM118
