"""The fleet as this gateway sees it, and what all of its gateways answer together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway import __version__
from gateway.admin.fleet_merge import Json, Named
from gateway.admin.fleet_table import Replica, mark_behind
from gateway.admin.peers import ASK_TIME, Peer, PeerAnswer, Peers
from gateway.admin.reload import Reloader
from gateway.fleet.agent import FleetAgent
from gateway.fleet.departures import Lost
from gateway.fleet.local import Description
from gateway.fleet.orders import target_name
from gateway.model.text import timestamp
from gateway.policy.orders import SpoolOrder, TargetOrder, read_subject

SELF: Final = "/api/fleet/self"
"""Where a gateway says how it is itself."""
_MAX_ORDERS: Final = 200
"""Orders that are listed; more are counted."""


class FleetAnswers(NamedTuple):
    """What all gateways have answered."""

    answers: dict[str, Named]
    """By the gateway's id, this one's first."""
    replicas: list[dict[str, Any]]
    """Every gateway: ``id``, ``name``, ``here``, and ``error``: why its answer is missing; null where it is there."""


class FleetView:
    """What the admin port knows of the fleet."""

    def __init__(self, agent: FleetAgent, reloader: Reloader) -> None:
        self._agent = agent
        self._reloader = reloader
        self._peers = Peers(self._others, self.token)

    @property
    def own_address(self) -> str:
        """The address of this admin port as the others know it."""
        return self._agent.describe().admin

    def token(self) -> str | None:
        """The admin token of the configuration in force."""
        token = self._reloader.loaded.config.admin.token
        return None if token is None else token.get_secret_value()

    def describe_self(self) -> dict[str, Any]:
        """The answer of ``GET /api/fleet/self``."""
        agent = self._agent
        own: dict[str, Any] = msgspec.to_builtins(agent.describe())
        return {**own, "id": agent.membership.id, "state": agent.link.up, "state_error": agent.link.error}

    async def overview(self) -> dict[str, Any]:
        """The answer of ``GET /api/fleet``: every gateway in its own words, and the orders in force."""
        agent = self._agent
        answers = {answer.peer.id: answer for answer in await self._peers.ask(SELF)}
        own = _replica(agent.membership.id, agent.describe(), here=True)
        own.state = agent.link.up
        others = [member for member in agent.membership.members.values() if member.id != own.id]
        replicas = [own, *(_with_answer(_replica(one.id, one.description), answers.get(one.id)) for one in others)]
        for lost in self._lost():
            gone = _with_answer(_replica(lost.member.id, lost.member.description), answers.get(lost.member.id))
            if gone.error is not None:  # else it lives, but does not reach the state
                gone.lost, gone.store = lost.since, None
            replicas.append(gone)
        mark_behind(replicas)
        orders, more = self._orders()
        return {
            "configured": True,
            "time": timestamp(time.time()),
            "version": __version__,
            "state": agent.status(),
            "replicas": [_as_json(replica) for replica in replicas],
            "orders": orders,
            "more_orders": more,
        }

    async def ask_all(
        self,
        own: Awaitable[Json],
        path: str,
        query: Sequence[tuple[str, str]] = (),
        seconds: float = ASK_TIME,
    ) -> FleetAnswers:
        """This gateway's *own* answer and those of the others to the same question, within so many seconds."""
        mine, theirs = await asyncio.gather(own, self._peers.ask(path, query, seconds))
        agent = self._agent
        name = agent.describe().name
        answers = {agent.membership.id: Named(name, mine)}
        replicas: list[dict[str, Any]] = [{"id": agent.membership.id, "name": name, "here": True, "error": None}]
        for answer in theirs:
            if answer.error is None:
                answers[answer.peer.id] = Named(answer.peer.name, answer.content)
            replicas.append({"id": answer.peer.id, "name": answer.peer.name, "here": False, "error": answer.error})
        return FleetAnswers(answers, replicas)

    async def ask_others(self, path: str, seconds: float) -> list[PeerAnswer]:
        """The answers of the others alone."""
        return await self._peers.ask(path, (), seconds)

    def _others(self) -> Iterable[Peer]:
        membership = self._agent.membership
        for member in membership.members.values():
            if member.id != membership.id:
                yield Peer(member.id, member.description.name, member.description.admin)
        for lost in self._lost():
            description = lost.member.description
            yield Peer(lost.member.id, description.name, description.admin, _lost_words(lost.since))

    def _lost(self) -> list[Lost]:
        """Those that are lost, without ones whose address another gateway has by now."""
        taken = {member.description.admin for member in self._agent.membership.members.values()}
        return [lost for lost in self._agent.departures.lost if lost.member.description.admin not in taken]

    def _orders(self) -> tuple[list[dict[str, Any]], int]:
        """The orders in force, the newest first, and how many more there are."""
        shown: list[dict[str, Any]] = []
        in_force = [(key, order) for key, order in self._agent.orders.book.orders.items() if order.on]
        for key, order in sorted(in_force, key=lambda item: -item[1].at)[:_MAX_ORDERS]:
            said = {"time": timestamp(order.at / 1000), "by": order.by}
            match read_subject(key):
                case TargetOrder(upstream, url):
                    shown.append(
                        {"order": "eject", "upstream": upstream, "target": target_name(url), "app": None, **said}
                    )
                case SpoolOrder(upstream, app):
                    shown.append({"order": "pause", "upstream": upstream, "target": None, "app": app, **said})
        return shown, max(0, len(in_force) - _MAX_ORDERS)


def _lost_words(since: float) -> str:
    return f"lost: no sign of life for {max(0, round(time.time() - since))} s"


def _replica(number: str, description: Description, *, here: bool = False) -> Replica:
    return Replica(
        id=number,
        name=description.name,
        here=here,
        version=description.version,
        revision=description.revision,
        admin=description.admin,
        since=description.since,
        phase=description.phase,
        drained=description.drained,
        store=description.store,
        state=None,
        reloaded=description.reloaded,
    )


def _with_answer(replica: Replica, answer: PeerAnswer | None) -> Replica:
    """A gateway as its record says, with its own answer of now."""
    if answer is None:  # it has come while the others were asked
        replica.error = "it has just come"
    elif answer.error is not None:
        replica.error = answer.error
    else:
        said = answer.content
        for name in ("version", "revision", "phase", "drained", "store", "state", "reloaded"):
            setattr(replica, name, said.get(name, getattr(replica, name)))
    return replica


def _as_json(replica: Replica) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(replica)
    shown["since"] = timestamp(replica.since)
    shown["reloaded"] = timestamp(replica.reloaded) if replica.reloaded else None
    shown["lost"] = None if replica.lost is None else timestamp(replica.lost)
    return shown
