"""Journals and a history to be searched for decisions, without processes between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.admin.rpc import FindDecisions, Replies
from gateway.model.decision import Decision
from gateway.policy.history import Bodies
from gateway.store.decisions import ID_STEP, Preparer, encode_sent
from gateway.store.numbers import NumberHasher
from gateway.store.requests import HistoryPage, SearchHistory, StoreUnavailable
from gateway.telemetry.decision_view import DecisionFormatter
from gateway.telemetry.journal import Journal

WORKER = 4711


class Journals:
    """A WorkerRpc over journals of this process."""

    def __init__(self, journals: Sequence[Journal], formatter: DecisionFormatter, silent: Sequence[int] = ()) -> None:
        self._journals = journals
        self._formatter = formatter
        self._silent = silent

    async def ask(self, request: Any) -> Replies[Any]:
        assert isinstance(request, FindDecisions)
        found = {
            number: await journal.search(request.wanted, self._formatter)
            for number, journal in enumerate(self._journals)
        }
        return Replies(found, self._silent)


class ListHistory:
    """A StoreConnection over a list of decisions: only times and a few conditions are looked at.

    The real history is in tests/store; here it may be cut off anywhere, and give short or empty pages.
    """

    def __init__(self, decisions: Sequence[Decision], key: str = "k", *, stingy: bool = False) -> None:
        preparer = Preparer(("caller", "callee"), NumberHasher(key))
        self._kept: list[tuple[int, Decision, bytes]] = []
        for decision in decisions:
            prepared = preparer.prepare(encode_sent(decision, Bodies.OFF, WORKER, "rev"))
            self._kept.append((prepared.id, decision, prepared.encoded))
        self._kept.sort(key=lambda each: each[0], reverse=True)
        self._stingy = stingy
        self.fails_after: int | None = None
        """Requests until it is down."""
        self.asked: list[SearchHistory] = []

    async def ask(self, request: Any) -> Any:
        assert isinstance(request, SearchHistory)
        self.asked.append(request)
        if self.fails_after is not None and len(self.asked) > self.fails_after:
            raise StoreUnavailable("the store's process cannot be reached")
        wanted = request.wanted
        limit = max(1, request.limit // 2) if self._stingy and len(self.asked) % 2 else request.limit
        rest = [each for each in self._kept if request.before is None or each[0] < request.before]
        if self._stingy and len(self.asked) % 3 == 0 and rest:  # looked at a part, found nothing wanted in it
            newest = rest[0][0]
            if wanted.until is not None and newest >= int(wanted.until * 1e6) * ID_STEP:
                return self._page([], newest)
        rest = [
            each
            for each in rest
            if (wanted.until is None or each[1].time < wanted.until)
            and (wanted.since is None or each[1].time >= wanted.since)
            and (wanted.request_id is None or each[1].request_id == wanted.request_id)
        ]
        page = rest[:limit]
        return self._page(page, page[-1][0] if len(rest) > limit else None)

    def _page(self, page: list[tuple[int, Decision, bytes]], after: int | None) -> HistoryPage:
        oldest = self._kept[-1][1].time if self._kept else None
        return HistoryPage([encoded for _, _, encoded in page], [None] * len(page), after, oldest)
