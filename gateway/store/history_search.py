"""A search in the history: newest first, page by page, each page a bounded amount of work."""

from __future__ import annotations

import heapq
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.model.decision import counts_as_failure
from gateway.model.hooks import field_text
from gateway.model.verdicts import Reason, Verdict
from gateway.policy.history import ORDINARY_SOURCES
from gateway.store.decisions import (
    FIELD,
    ID_STEP,
    NUMBER,
    Details,
    KeptDecision,
    call_term,
    callee_term,
    caller_term,
    decode_details,
    encode_kept,
    request_term,
    session_term,
    with_bodies,
)
from gateway.store.engine import StoreError
from gateway.store.history_blocks import (
    LAST_BUCKET,
    SPAN,
    bucket_of_row,
    decode_block,
    find_ordinals,
    has_term,
    newest_of,
    shard_of,
    shard_row,
    unpack,
)
from gateway.store.numbers import NumberHasher, normalize_number
from gateway.store.requests import MAX_PAGE, MAX_PAGE_BYTES, HistoryFilter, HistoryPage
from gateway.store.schema import history_block, history_body, history_shadow, history_shard

logger = logging.getLogger(__name__)

LOOKED_AT: Final = 50_000
"""Decisions that one page looks at, at most, about."""
_SKIPPED: Final = 8
"""A block that need not be decoded counts for an eighth of its decisions."""
_FETCHED: Final = 16
"""Blocks that are read in one go."""
_END: Final = 2**63 - 1

_b, _shards, _bodies, _shadows = history_block.c, history_shard.c, history_body.c, history_shadow.c
_encode = msgspec.msgpack.Encoder().encode

Terms = list[tuple[int, ...]]
"""Of each list one term must be there."""
NO_KEY: Final = "whole numbers cannot be found: log.mask hides them, and history.key is not set"


def check_findable(hasher: NumberHasher | None, mask: Collection[str]) -> None:
    """Raise StoreError where whole numbers cannot be found. *mask*: the configuration's ``log.mask``."""
    if hasher is None and not {"caller", "callee"}.isdisjoint(mask):
        raise StoreError(NO_KEY)


class Number:
    """A whole number that is searched for."""

    def __init__(self, text: str, hasher: NumberHasher | None) -> None:
        self.normalized = normalize_number(text)
        self.hash = None if hasher is None else hasher.hash(text)

    def is_in(self, raw: bytes | None, hashed: bytes | None) -> bool:
        """Whether a field of a decision has it; the field's JSON, and its hash."""
        if hashed is not None and self.hash is not None:
            return hashed == self.hash
        if not raw or not self.normalized:
            return False
        text = field_text(msgspec.Raw(raw), NUMBER)
        return text is not None and "*" not in text and normalize_number(text) == self.normalized


class Matcher:
    """Whether a decision is wanted."""

    def __init__(self, wanted: HistoryFilter, hasher: NumberHasher | None) -> None:
        self._wanted = wanted
        self._caller, self._callee, self._number = (
            None if text is None else Number(text, hasher) for text in (wanted.caller, wanted.callee, wanted.number)
        )
        self.ordinary = self._find_kinds()
        self._labels = [
            (name, value)
            for name in ("app", "method", "verdict", "source", "reason", "upstream", "target")
            if (value := getattr(wanted, name)) is not None
        ]
        self._needles = [_encode(value) for _, value in self._labels]

    def _find_kinds(self) -> tuple[int, ...]:
        """The kinds of blocks that can have such decisions."""
        wanted = self._wanted
        is_ordinary = (
            not wanted.failures
            and wanted.verdict in (None, Verdict.ALLOW)
            and wanted.source in (None, *ORDINARY_SOURCES)
            and wanted.reason in (None, Reason.OK)
        )
        return (0, 1) if is_ordinary else (0,)

    @property
    def needs_details(self) -> bool:
        """Whether the details must be read."""
        return self._wanted.failures or bool(self._labels)

    def terms(self) -> Terms:
        """What the index is asked for; nothing where it cannot help."""
        wanted = self._wanted
        terms: Terms = []
        if wanted.request_id is not None:
            terms.append((request_term(wanted.request_id),))
        if wanted.call_id is not None:
            terms.append((call_term(wanted.call_id),))
        if wanted.session_id is not None:
            terms.append((session_term(wanted.session_id),))
        if self._caller is not None and self._caller.hash is not None:
            terms.append((caller_term(self._caller.hash),))
        if self._callee is not None and self._callee.hash is not None:
            terms.append((callee_term(self._callee.hash),))
        if self._number is not None and self._number.hash is not None:
            terms.append((caller_term(self._number.hash), callee_term(self._number.hash)))
        return terms

    def may_be_in(self, unpacked: bytes) -> bool:
        """Whether a block can have a decision that is wanted."""
        return all(needle in unpacked for needle in self._needles)

    def matches(self, kept: KeptDecision) -> bool:
        """Whether this decision is wanted."""
        wanted = self._wanted
        if (wanted.since is not None and kept.time < wanted.since) or (
            wanted.until is not None and kept.time >= wanted.until
        ):
            return False
        if (
            (wanted.request_id is not None and kept.request_id != wanted.request_id)
            or (wanted.call_id is not None and _text(kept.call_id) != wanted.call_id)
            or (wanted.session_id is not None and _text(kept.session_id) != wanted.session_id)
        ):
            return False
        return self._numbers_match(kept) and (
            not self.needs_details or self._details_match(decode_details(kept.details))
        )

    def _numbers_match(self, kept: KeptDecision) -> bool:
        caller, callee, number = self._caller, self._callee, self._number
        return (
            (caller is None or caller.is_in(kept.caller, kept.caller_hash))
            and (callee is None or callee.is_in(kept.callee, kept.callee_hash))
            and (
                number is None
                or number.is_in(kept.caller, kept.caller_hash)
                or number.is_in(kept.callee, kept.callee_hash)
            )
        )

    def _details_match(self, details: Details) -> bool:
        if any(getattr(details, name) != value for name, value in self._labels):
            return False
        return not self._wanted.failures or is_failed(details)


def is_failed(details: Details) -> bool:
    """Whether an operator would look for it among the failures."""
    annotations = details.annotations
    if annotations is None:
        return counts_as_failure(details.verdict, details.error)
    return counts_as_failure(details.verdict, details.error, annotations.ineffective, annotations.repaired)


def _text(raw: bytes | None) -> str | None:
    return field_text(msgspec.Raw(raw), FIELD) if raw else None


class Block(NamedTuple):
    """A block that may have what is wanted."""

    id: int
    first: int
    ordinary: int
    decisions: int
    data: bytes


class _Found(NamedTuple):
    kept: KeptDecision
    ordinary: int


class Search:
    """One search, over one connection in a transaction that sees one state."""

    def __init__(
        self,
        connection: sa.Connection,
        wanted: HistoryFilter,
        hasher: NumberHasher | None = None,
        mask: Collection[str] = (),
    ) -> None:
        """Raises StoreError where a number is wanted that cannot be found."""
        if (wanted.caller, wanted.callee, wanted.number) != (None, None, None):
            check_findable(hasher, mask)
        self._connection = connection
        self._wanted = wanted
        self._matcher = Matcher(wanted, hasher)
        self._since = -1 if wanted.since is None else int(wanted.since * 1e6) * ID_STEP - ID_STEP

    def page(self, before: int | None, limit: int, *, bodies: bool = False) -> HistoryPage:
        """The newest decisions before this id that are wanted, with their *bodies* or without."""
        limit = max(1, min(limit, MAX_PAGE))
        end = _END if before is None else before
        if self._wanted.until is not None:
            end = min(end, (int(self._wanted.until * 1e6) + 1) * ID_STEP)
        found, following = self._find(end, limit)
        kept = [each.kept for each in found]
        if bodies:
            whole = self._with_bodies(kept)
            if len(whole) < len(kept):
                found, following = found[: len(whole)], whole[-1].id
            kept = whole
        return HistoryPage([encode_kept(each) for each in kept], self._find_shadows(found), following, self.oldest())

    def _find(self, end: int, limit: int) -> tuple[list[_Found], int | None]:
        """What is wanted, and where the next page begins."""
        found: list[_Found] = []
        waiting: list[tuple[int, int, _Found]] = []  # those decoded that may not be the newest of the rest
        looked_at = number = 0
        for block in self._with_end(self._blocks(end)):
            bound = -1 if block is None else block.id
            while waiting and -waiting[0][0] > bound:
                _, _, each = heapq.heappop(waiting)
                if self._matches(each.kept):
                    found.append(each)
                    if len(found) >= limit and not (waiting and -waiting[0][0] == each.kept.id):
                        return found, each.kept.id
            if block is None:
                break
            if looked_at >= LOOKED_AT:
                return found, bound + 1
            decided = self._decode(block)
            looked_at += block.decisions if decided else block.decisions // _SKIPPED + 1
            for kept in decided:
                if self._since <= kept.id < end:
                    number += 1
                    heapq.heappush(waiting, (-kept.id, number, _Found(kept, block.ordinary)))
        return found, None

    @staticmethod
    def _with_end(blocks: Iterable[Block]) -> Iterator[Block | None]:
        yield from blocks
        yield None

    def _decode(self, block: Block) -> list[KeptDecision]:
        """A block's decisions; none where it cannot have one that is wanted, or is damaged."""
        try:
            unpacked = unpack(block.data)
            return decode_block(unpacked) if self._matcher.may_be_in(unpacked) else []
        except ValueError as exc:
            logger.error("history: the decisions of a block cannot be read: %s", exc)
            return []

    def _matches(self, kept: KeptDecision) -> bool:
        try:
            return self._matcher.matches(kept)
        except ValueError as exc:
            logger.error("history: a decision cannot be read: %s", exc)
            return False

    # --- which blocks ---

    def _blocks(self, end: int) -> Iterator[Block]:
        """The blocks that may have decisions that are wanted, before this id; the highest first."""
        terms = self._matcher.terms()
        return self._indexed_blocks(end, terms) if terms else self._all_blocks(end)

    def _conditions(self, end: int) -> list[sa.ColumnElement[bool]]:
        return [
            _b.id < min(end + SPAN + ID_STEP, _END),
            _b.id >= self._since,
            _b.first < end,
            _b.ordinary.in_(self._matcher.ordinary),
        ]

    def _all_blocks(self, end: int) -> Iterator[Block]:
        query = sa.select(_b.id, _b.first, _b.ordinary, _b.decisions, _b.data).order_by(_b.id.desc()).limit(_FETCHED)
        below = _END
        while True:
            rows = self._connection.execute(query.where(*self._conditions(end), _b.id < below)).all()
            yield from map(Block._make, rows)
            if len(rows) < _FETCHED:
                return
            below = rows[-1].id

    def _indexed_blocks(self, end: int, terms: Terms) -> Iterator[Block]:
        query = sa.select(_b.id, _b.first, _b.ordinary, _b.decisions, _b.data).where(*self._conditions(end))
        heap: list[tuple[int, Block]] = []

        def push(rows: Iterable[sa.Row[tuple[int, int, int, int, bytes]]]) -> None:
            for row in rows:
                heapq.heappush(heap, (-row.id, Block._make(row)))

        unsealed = self._unsealed(end, terms)
        for at in range(0, len(unsealed), _FETCHED):
            push(self._connection.execute(query.where(_b.id.in_(unsealed[at : at + _FETCHED]))))
        for bucket, ordinals in self._candidates(terms):
            newest = newest_of(bucket)
            while heap and -heap[0][0] > newest:
                yield heapq.heappop(heap)[1]
            if newest >= self._since:
                push(self._connection.execute(query.where(_b.bucket == bucket, _b.ordinal.in_(ordinals))))
        while heap:
            yield heapq.heappop(heap)[1]

    def _unsealed(self, end: int, terms: Terms) -> list[int]:
        """The blocks that are in no bucket, and have the terms; the highest first."""
        query = sa.select(_b.id, _b.terms).where(*self._conditions(end), _b.bucket.is_(None)).order_by(_b.id.desc())
        return [
            row.id
            for row in self._connection.execute(query).all()
            if all(any(has_term(row.terms, term) for term in either) for either in terms)
        ]

    def _candidates(self, terms: Terms) -> list[tuple[int, list[int]]]:
        """The buckets that have the terms, the newest first, with the ordinals of their blocks."""
        found: dict[int, set[int]] | None = None
        for either in terms:
            having: dict[int, set[int]] = defaultdict(set)
            for term in either:
                for bucket, ordinals in self._look_up(term):
                    having[bucket].update(ordinals)
            if found is None:
                found = having
            else:
                found = {bucket: both for bucket in found if (both := found[bucket] & having.get(bucket, set()))}
        return sorted(((bucket, sorted(ordinals)) for bucket, ordinals in (found or {}).items()), reverse=True)

    def _look_up(self, term: int) -> Iterator[tuple[int, list[int]]]:
        shard = shard_of(term)
        rows = sa.select(_shards.id, _shards.data).where(
            _shards.id.between(shard_row(shard, 0), shard_row(shard, LAST_BUCKET))
        )
        for row, data in self._connection.execute(rows).all():
            if ordinals := find_ordinals(data, term):
                yield bucket_of_row(row), ordinals

    # --- what is returned ---

    def _with_bodies(self, kept: list[KeptDecision]) -> list[KeptDecision]:
        """With their bodies; fewer where these have more than MAX_PAGE_BYTES, but at least one."""
        whole: list[KeptDecision] = []
        size = 0
        for found in kept:
            each = self._add_bodies(found) if found.has_bodies else found
            size += len(each.body) + len(each.answer or b"")
            if whole and size > MAX_PAGE_BYTES:
                break
            whole.append(each)
        return whole

    def _add_bodies(self, kept: KeptDecision) -> KeptDecision:
        packed = self._connection.scalar(sa.select(_bodies.data).where(_bodies.id == kept.id))
        try:
            return kept if packed is None else with_bodies(kept, packed)
        except ValueError as exc:
            logger.error("history: %s", exc)
            return kept

    def _find_shadows(self, found: list[_Found]) -> list[bytes | None]:
        results: dict[tuple[int, str], bytes] = {}
        for ordinary in (0, 1):
            times = [int(each.kept.time * 1e6) for each in found if each.ordinary == ordinary]
            if times:
                query = sa.select(_shadows.time, _shadows.request_id, _shadows.result).where(
                    _shadows.ordinary == ordinary, _shadows.time.in_(times)
                )
                for time, request_id, result in self._connection.execute(query):
                    results[(time, request_id)] = result
        return [results.get((int(each.kept.time * 1e6), each.kept.request_id)) for each in found]

    def oldest(self) -> float | None:
        """Unix time of the oldest decision that is kept, of those that can be wanted."""
        firsts = [
            self._connection.scalar(sa.select(_b.first).where(_b.ordinary == ordinary).order_by(_b.id).limit(1))
            for ordinary in self._matcher.ordinary
        ]
        return min((first / ID_STEP / 1e6 for first in firsts if first is not None), default=None)
