"""The decisions of all journals and of the history as one list, page by page, without gap and without double.

A decision's place is its time in microseconds with its request id (``Position``); both sources know it, so that a
decision that is in both is shown once, and a page can begin after any decision. The journals are asked first: what has
left a journal by then has been written to the history by the time that this is asked. The history is read in portions,
in a thread, and only so much per request: a page may end early, with the cursor of the next one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from gateway.admin.rpc import FindDecisions, WorkerRpc
from gateway.admin.store_asking import ask_within
from gateway.config import Config
from gateway.model.text import timestamp
from gateway.policy.shadow import ShadowResult
from gateway.store.decisions import ID_STEP, DecodedDecision, decode_decision, decode_shadow
from gateway.store.numbers import normalize_number
from gateway.store.requests import HistoryFilter, HistoryPage, SearchHistory, StoreConnection, StoreUnavailable
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter, DecisionView, Position, position

PORTION: Final = 200
"""Decisions that the history is asked for at once: their decoding delays no hook for long."""
MAX_READ: Final = 5000
"""Decisions of the history that one request reads, if it gets any further by that."""
MAX_READ_TIME: Final = 2.0
"""Seconds after which a request stops reading the history."""
ASK_TIME: Final = 3.0
"""Seconds that the store has for one portion; past it, the history is said to be missing."""
_SAME_FIELDS: Final = (
    "app", "method", "verdict", "source", "reason", "upstream", "target", "call_id", "session_id", "request_id",
    "caller", "callee", "failures",
)  # fmt: skip
"""Conditions that the store knows by the same name."""
_may_be_number = re.compile(r"\+?[0-9*#]{6,}").fullmatch
_is_cursor = re.compile(r"([0-9]{1,18})-(.{0,512})", re.ASCII | re.DOTALL).fullmatch


class HistoryScope(msgspec.Struct, frozen=True):
    """How far the history was searched."""

    configured: bool
    """Whether there is one."""
    oldest: str | None = None
    """When the oldest decision began that it has."""
    error: str | None = None
    """Why it is missing in the answer, or a part of it."""


class DecisionPage(msgspec.Struct, frozen=True):
    """The answer of ``GET /api/decisions``."""

    decisions: list[DecisionView]
    """Newest first."""
    next: str | None
    """The ``cursor`` of the next page, which may be empty; null at the end."""
    matched: int
    """How many decisions of the journals match, from the cursor on."""
    held: int
    """How many decisions the journals have."""
    oldest: str | None
    """How far back it looked: the journals' oldest decision, or the history's if that is older."""
    journal_oldest: str | None
    history: HistoryScope
    incomplete: list[int]
    """The workers that did not answer in time: what only their journals have is missing."""
    places: list[str] | msgspec.UnsetType = msgspec.UNSET
    """For another gateway, which merges pages: each decision's cursor."""
    in_journal: list[bool] | msgspec.UnsetType = msgspec.UNSET
    """For the same: whether a journal of this gateway has it, not the history alone."""


class DecisionDetail(msgspec.Struct, frozen=True):
    """What the history alone knows of a decision."""

    config_revision: str | None = None
    """Of the configuration that was in force."""
    hook_body: str | None = None
    """Masked as recordings are; null where ``history.bodies`` did not want it."""
    answer_body: str | None = None


class _Row(NamedTuple):
    position: Position
    view: DecisionView


class _Found(NamedTuple):
    """What a search of the history has found."""

    rows: list[_Row]
    horizon: int | None = None
    """Microseconds of Unix time up to which it was not read; None: it was read to its end."""
    oldest: float | None = None
    error: str | None = None


class DecisionSearch:
    """Searches journals and history."""

    def __init__(
        self,
        rpc: WorkerRpc,
        store: StoreConnection | None,
        config: Callable[[], Config],
        *,
        portion: int = PORTION,
        max_read: int = MAX_READ,
    ) -> None:
        self._rpc = rpc
        self._store = store
        self._config = config
        self._portion = portion
        self._max_read = max_read

    async def page(self, wanted: DecisionFilter, *, places: bool = False) -> DecisionPage:
        """The newest decisions that match, as many as the limit allows; *places*: with what a merge needs."""
        replies = await self._rpc.ask(FindDecisions(wanted))
        parts = list(replies.by_pid.values())
        searches = await asyncio.gather(*map(self._search, self._history_filters(wanted), [wanted, wanted]))
        rows: dict[Position, DecisionView] = {}
        for found in searches:
            rows.update(found.rows)
        in_journal: set[Position] = set()
        for part in parts:
            rows.update(zip(part.positions, part.decisions, strict=True))
            in_journal.update(part.positions if places else ())
        horizon = max((found.horizon for found in searches if found.horizon is not None), default=-1)
        ordered = sorted((place for place in rows if place[0] > horizon), reverse=True)
        shown = ordered[: wanted.limit]
        after: Position | None = None
        if len(ordered) > len(shown) or (shown and any(part.matched > len(part.decisions) for part in parts)):
            after = shown[-1]
        elif horizon >= 0:
            after = (horizon + 1, "")
        journal_oldest = _first(part.oldest for part in parts)
        history = self._scope(searches)
        return DecisionPage(
            [rows[place] for place in shown],
            next=None if after is None else write_cursor(after),
            matched=sum(part.matched for part in parts),
            held=sum(part.held for part in parts),
            oldest=_first((journal_oldest, history.oldest)),
            journal_oldest=journal_oldest,
            history=history,
            incomplete=list(replies.incomplete),
            places=[write_cursor(place) for place in shown] if places else msgspec.UNSET,
            in_journal=[place in in_journal for place in shown] if places else msgspec.UNSET,
        )

    async def one(self, request_id: str) -> tuple[DecisionView | None, DecisionDetail, HistoryScope]:
        """The newest decision with this request id, and what the history alone knows of it."""
        page = await self.page(DecisionFilter(request_id=request_id, limit=1))
        if not page.decisions:
            return None, DecisionDetail(), page.history
        view = page.decisions[0]
        return view, await self._detail(view), page.history

    async def _detail(self, view: DecisionView) -> DecisionDetail:
        if self._store is None or self._config().history is None:
            return DecisionDetail()
        request = SearchHistory(HistoryFilter(request_id=view.request_id), limit=10, bodies=True)
        try:
            page: HistoryPage = await ask_within(ASK_TIME, self._store, request)
        except StoreUnavailable:  # the page has said so
            return DecisionDetail()
        return await asyncio.to_thread(_find_detail, page.decisions, view)

    def _history_filters(self, wanted: DecisionFilter) -> list[HistoryFilter]:
        """What the store is asked for: nothing without a history; for a word that may be a number, that too."""
        history = self._config().history
        if self._store is None or history is None:
            return []
        until = wanted.until
        if wanted.before is not None:
            # Beyond that decision's microsecond, whichever way the fraction is rounded; ``matches`` cuts it off.
            first = (wanted.before[0] + 2) / 1e6
            until = first if until is None else min(until, first)
        conditions = {name: getattr(wanted, name) for name in _SAME_FIELDS}
        asked = HistoryFilter(since=wanted.since, until=until, **conditions)
        number = normalize_number(wanted.q) if wanted.q else ""
        if history.key is None or not _may_be_number(number):
            return [asked]
        return [asked, msgspec.structs.replace(asked, number=number)]

    def _scope(self, searches: Iterable[_Found]) -> HistoryScope:
        history = self._config().history
        if history is None:
            return HistoryScope(configured=False)
        if self._store is None:
            return HistoryScope(configured=True, error="the store takes effect after a restart")
        error = next((found.error for found in searches if found.error is not None), None)
        oldest = min((found.oldest for found in searches if found.oldest is not None), default=None)
        return HistoryScope(configured=True, oldest=None if oldest is None else timestamp(oldest), error=error)

    async def _search(self, asked: HistoryFilter, wanted: DecisionFilter) -> _Found:
        """Read the history until the page is full, or as far as one request may."""
        store = self._store
        assert store is not None
        config = self._config()
        read = _Reader(config, wanted, by_number=asked.number is not None)
        until, before, count = time.monotonic() + MAX_READ_TIME, None, 0
        rows: list[_Row] = []
        oldest: float | None = None
        while True:
            try:
                page: HistoryPage = await ask_within(ASK_TIME, store, SearchHistory(asked, before, self._portion))
            except StoreUnavailable as exc:
                # What has been read is shown; what comes after it is said to be missing.
                return _Found(rows, None, oldest, str(exc))
            oldest = page.oldest
            rows += await asyncio.to_thread(read, page)
            count += len(page.decisions)
            if page.next is None:
                return _Found(rows, None, oldest)
            last = page.next // ID_STEP
            full = sum(row.position[0] > last for row in rows) > wanted.limit
            enough = full or count >= self._max_read or time.monotonic() >= until
            if enough and (wanted.before is None or (last + 1, "") < wanted.before):  # the next page gets further
                return _Found(rows, last, oldest)
            before = page.next


class _Reader:
    """Decodes portions of the history, and chooses what is wanted of them. For one thread at a time."""

    def __init__(self, config: Config, wanted: DecisionFilter, *, by_number: bool) -> None:
        self._config = config
        # The store has found numbers by their hashes: they are masked here.
        self._wanted = msgspec.structs.replace(wanted, caller=None, callee=None, q=None if by_number else wanted.q)
        self._formatters: dict[int, DecisionFormatter] = {}

    def __call__(self, page: HistoryPage) -> list[_Row]:
        """The wanted decisions."""
        rows: list[_Row] = []
        for data, shadow_data in zip(page.decisions, page.shadows, strict=True):
            decoded = decode_decision(data)
            shadow = None if shadow_data is None else decode_shadow(shadow_data)
            if (row := self._choose(decoded, shadow)) is not None:
                rows.append(row)
        return rows

    def _choose(self, decoded: DecodedDecision, shadow: ShadowResult | None) -> _Row | None:
        formatter = self._formatters.get(decoded.worker)
        if formatter is None:
            mask, hook_types = self._config.log.mask, self._config.hook_types
            formatter = self._formatters[decoded.worker] = DecisionFormatter(decoded.worker, mask, hook_types)
        if not formatter.matches(decoded.decision, self._wanted, shadow):
            return None
        return _Row(position(decoded.decision), formatter.format(decoded.decision, shadow))


def _find_detail(decisions: Iterable[bytes], view: DecisionView) -> DecisionDetail:
    for data in decisions:
        decoded = decode_decision(data)
        decision = decoded.decision
        if (decision.request_id, timestamp(decision.time)) == (view.request_id, view.time):
            has_bodies = bool(decision.body)
            return DecisionDetail(
                config_revision=decoded.revision or None,
                hook_body=decision.body.decode("utf-8", "replace") if has_bodies else None,
                answer_body=decision.ruling.body.decode("utf-8", "replace") if has_bodies else None,
            )
    return DecisionDetail()


def detail_json(view: DecisionView, detail: DecisionDetail) -> Mapping[str, Any]:
    """The answer of ``GET /api/decisions/{request_id}``."""
    return {**msgspec.structs.asdict(view), **msgspec.structs.asdict(detail)}


def write_cursor(place: Position) -> str:
    """The cursor of the page that begins after this decision."""
    return f"{place[0]}-{place[1]}"


def read_cursor(text: str) -> Position:
    """The place that a cursor names. Raises ValueError with a message for the author of the query."""
    found = _is_cursor(text)
    if found is None:
        raise ValueError("cursor must be the next of an earlier answer")
    return int(found[1]), found[2]


def _first(times: Iterable[str | None]) -> str | None:
    """The earliest of RFC 3339 times in one form."""
    return min((each for each in times if each is not None), default=None)
