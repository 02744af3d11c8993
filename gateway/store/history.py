"""The history of one database: decisions are added in batches, kept for their time, and forgotten on request.

Synchronous, over a connection in a transaction that the caller ends; the same for both engines. ``history_blocks`` says
how decisions lie there. ``add`` and ``maintain`` are for the thread that writes; each call does a bounded amount of
work, so that nothing waits long behind it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.policy.history import HistorySettings
from gateway.recording import MASKED
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Key, Pseudonyms
from gateway.store.decisions import ID_STEP, Prepared, Preparer, is_ordinary_shadow
from gateway.store.engine import shrink
from gateway.store.history_blocks import (
    BLOCK,
    LAST_BUCKET,
    SHARDS,
    SPAN,
    bucket_for,
    bucket_rows,
    decode_block,
    join_data,
    make_blocks,
    make_shards,
    shard_row,
    unpack,
    unpack_terms,
)
from gateway.store.history_forget import Forgotten, forget_some
from gateway.store.history_search import Search
from gateway.store.numbers import NumberHasher
from gateway.store.requests import HistoryFilter, HistoryPage
from gateway.store.schema import history_block, history_body, history_shadow, history_shard

logger = logging.getLogger(__name__)

BUCKET: Final = 8192
_MOST_UNSEALED: Final = 512
"""Blocks after which they are, however few decisions they have."""
_PRUNED: Final = 64
"""Blocks that one step removes, at most."""
_PRUNED_SHADOWS: Final = 2000
_VACUUMED: Final = 512
"""Pages that one step gives back to the file system, at most."""
_FREE_PAGES: Final = 4096
"""Free pages that a file may have for its next decisions."""
_COUNT_AGAIN: Final = 30.0
"""Seconds after which PostgreSQL counts again how much is kept."""

_b, _shards, _bodies, _shadows = history_block.c, history_shard.c, history_body.c, history_shadow.c
_BY_SIZE: Final = (_b.id, _b.bucket, _b.bodies, _b.size)


class HistoryStatistics(NamedTuple):
    """What is kept."""

    decisions: int
    ordinary: int
    """Those of them that the backend allowed without trouble."""
    size: int
    """Bytes that are in use."""
    oldest: float | None
    """Unix time."""


class History:
    """The history. One thread writes; ``search``, ``oldest`` and ``statistics`` may be called by others beside it."""

    def __init__(
        self,
        settings: HistorySettings,
        mask: Collection[str],
        body_fields: Collection[str] = MASKED,
        bucket: int = BUCKET,
    ) -> None:
        """See ``configure``; *bucket*: decisions after which blocks are sealed."""
        self._bucket = bucket
        self._begin = secrets.randbelow(ID_STEP)  # so that two gateways' decisions of one microsecond differ
        self._key = Key()
        self._size: tuple[float, int] | None = None
        self._swept = 0
        self.configure(settings, mask, body_fields)

    def configure(
        self, settings: HistorySettings, mask: Collection[str], body_fields: Collection[str] = MASKED
    ) -> None:
        """Go on by these settings; by the writing thread, or while it does nothing.

        *mask*: the configuration's ``log.mask``; *body_fields*: the fields that have pseudonyms in bodies, as in
        recordings.
        """
        key = settings.key
        self._settings = settings
        self._mask = frozenset(mask)
        self._hasher = None if key is None else NumberHasher(key.get_secret_value())
        pseudonyms = Pseudonyms(self._key if key is None else Key(_pseudonym_key(key.get_secret_value())))
        self._preparer = Preparer(mask, self._hasher, Mask(body_fields, pseudonyms), self._begin)

    # --- writing ---

    def add(self, connection: sa.Connection, batches: Sequence[Sequence[bytes]]) -> list[int]:
        """Keep decisions as ``encode_sent`` made them; how many of each batch were kept.

        What is no decision is left out and logged, so that it takes no other one with it.
        """
        prepared: list[Prepared] = []
        kept = []
        for batch in batches:
            before = len(prepared)
            for data in batch:
                try:
                    prepared.append(self._preparer.prepare(data))
                except (ValueError, RecursionError) as exc:
                    logger.error("history: a decision cannot be kept: %s", exc)
            kept.append(len(prepared) - before)
        self._insert(connection, prepared)
        return kept

    def add_shadow(self, connection: sa.Connection, results: Sequence[tuple[str, float, bytes]]) -> None:
        """Keep results of shadow copies as ``encode_shadow`` made them, with request id and time of their hooks."""
        rows = []
        for request_id, began, result in results:
            try:
                ordinary = is_ordinary_shadow(result)
            except ValueError as exc:
                logger.error("history: the result of a shadow copy cannot be kept: %s", exc)
            else:
                rows.append(
                    {"ordinary": int(ordinary), "time": int(began * 1e6), "request_id": request_id, "result": result}
                )
        if rows:
            insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            connection.execute(insert(history_shadow).on_conflict_do_nothing(), rows)

    def _insert(self, connection: sa.Connection, prepared: Sequence[Prepared]) -> None:
        blocks = make_blocks(prepared)
        if not blocks:
            return
        taken = set(connection.scalars(sa.select(_b.id).where(_b.id.in_([block.id for block in blocks]))))
        rows = []
        bodies = {each.id: each.bodies for each in prepared if each.bodies is not None}
        sizes = sorted((id_, len(data)) for id_, data in bodies.items())
        for block in blocks:
            id_ = block.id
            while id_ in taken:
                id_ += 1
            taken.add(id_)
            size = len(block.data) + len(block.terms)
            if block.bodies:
                size += sum(length for body_id, length in sizes if block.first <= body_id <= block.id)
            rows.append(
                {
                    **block._asdict(),
                    "id": id_,
                    "ordinary": int(block.ordinary),
                    "size": size,
                    "bucket": None,
                    "ordinal": 0,
                }
            )
        connection.execute(sa.insert(history_block), rows)
        if bodies:
            self._insert_bodies(connection, bodies)
        self._grow(sum(row["size"] for row in rows))

    def _insert_bodies(self, connection: sa.Connection, bodies: dict[int, bytes]) -> None:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        connection.execute(
            insert(history_body).on_conflict_do_nothing(), [{"id": id_, "data": data} for id_, data in bodies.items()]
        )

    def maintain(self, connection: sa.Connection, now: float | None = None) -> bool:
        """One step of what keeps the history in order; whether more is to be done at once. Call it every second.

        It seals blocks, removes what is too old or too much, and gives room back to the file system.
        """
        now = time.time() if now is None else now
        sealed = [self._seal(connection, ordinary=ordinary) for ordinary in (True, False)]
        pruned = [
            self._prune(connection, True, now - min(self._settings.keep_allowed, self._settings.keep)),
            self._prune(connection, False, now - self._settings.keep),
            self._prune_to_size(connection),
        ]
        self._vacuum(connection)
        self._sweep(connection)
        return any(sealed) or any(pruned)

    # --- sealing ---

    def _seal(self, connection: sa.Connection, *, ordinary: bool) -> bool:
        """Make a bucket of the oldest blocks that are in none, if there are enough; whether there was one to make."""
        query = (
            sa.select(_b.id, _b.decisions)
            .where(_b.bucket.is_(None), _b.ordinary == int(ordinary))
            .order_by(_b.id)
            .limit(_MOST_UNSEALED)
            .with_for_update(skip_locked=True)
        )
        ids: list[int] = []
        decisions = 0
        for id_, count in connection.execute(query):
            ids.append(id_)
            decisions += count
            if decisions >= self._bucket:
                break
        if decisions < self._bucket and len(ids) < _MOST_UNSEALED:
            return False
        blocks = connection.execute(sa.select(history_block).where(_b.id.in_(ids)).order_by(_b.id)).all()
        bucket = bucket_for(ids[-1])
        while connection.scalar(sa.select(_b.id).where(_b.bucket == bucket).limit(1)) is not None:
            bucket += 1
        groups = _group(blocks)
        rows = []
        entries = []
        for ordinal, group in enumerate(groups):
            terms = {term for block in group for term in unpack_terms(block.terms)}
            entries.append((ordinal, terms))
            data = join_data([(block.decisions, block.data) for block in group])
            bodies = sum(block.size - len(block.data) - len(block.terms) for block in group)
            rows.append(
                {
                    "id": group[-1].id,
                    "first": min(block.first for block in group),
                    "ordinary": int(ordinary),
                    "decisions": sum(block.decisions for block in group),
                    "bodies": sum(block.bodies for block in group),
                    "size": len(data) + 8 * len(terms) + bodies,
                    "bucket": bucket,
                    "ordinal": ordinal,
                    "terms": None,
                    "data": data,
                }
            )
        connection.execute(sa.delete(history_block).where(_b.id.in_(ids)))
        connection.execute(sa.insert(history_block), rows)
        connection.execute(
            sa.insert(history_shard),
            [
                {"id": row, "data": shard}
                for row, shard in zip(bucket_rows(bucket), make_shards(entries), strict=True)
                if shard
            ],
        )
        self._grow(sum(row["size"] for row in rows) - sum(block.size for block in blocks))
        return True

    # --- pruning ---

    def _prune(self, connection: sa.Connection, ordinary: bool, before: float) -> bool:
        """Remove some of the blocks, and results of shadow copies, that are older than this; whether more are left."""
        oldest = (
            sa.select(*_BY_SIZE)
            .where(_b.ordinary == int(ordinary), _b.id < int(before * 1e6) * ID_STEP)
            .order_by(_b.id)
            .limit(_PRUNED)
        )
        blocks = connection.execute(oldest).all()
        self._delete(connection, blocks)
        until = int(before * 1e6)
        is_old = sa.and_(_shadows.ordinary == int(ordinary), _shadows.time < until)
        further = connection.scalar(
            sa.select(_shadows.time).where(is_old).order_by(_shadows.time).limit(1).offset(_PRUNED_SHADOWS)
        )
        if further is not None:
            is_old = sa.and_(is_old, _shadows.time <= further)
        connection.execute(sa.delete(history_shadow).where(is_old))
        return len(blocks) == _PRUNED or further is not None

    def _prune_to_size(self, connection: sa.Connection) -> bool:
        """Remove some of the oldest blocks, ordinary ones first, where there is too much; whether more is to be."""
        excess = self.used(connection) - self._settings.max_size
        if excess <= 0:
            return False
        for ordinary in (1, 0):
            oldest = sa.select(*_BY_SIZE).where(_b.ordinary == ordinary).order_by(_b.id).limit(_PRUNED)
            blocks = []
            for block in connection.execute(oldest):
                blocks.append(block)
                excess -= block.size
                if excess <= 0:
                    break
            self._delete(connection, blocks)
            if blocks:
                return True
        return False

    def _delete(self, connection: sa.Connection, blocks: Sequence[Any]) -> None:
        if not blocks:
            return
        for block in blocks:
            if block.bodies:
                self._delete_bodies(connection, block.id)
        connection.execute(sa.delete(history_block).where(_b.id.in_([block.id for block in blocks])))
        for bucket in {block.bucket for block in blocks} - {None}:
            if connection.scalar(sa.select(_b.id).where(_b.bucket == bucket).limit(1)) is None:
                connection.execute(sa.delete(history_shard).where(_shards.id.in_(list(bucket_rows(bucket)))))
        self._grow(-sum(block.size for block in blocks))

    def _delete_bodies(self, connection: sa.Connection, block: int) -> None:
        data = connection.scalar(sa.select(_b.data).where(_b.id == block))
        if data is None:
            return
        try:
            ids = [each.id for each in decode_block(unpack(data)) if each.has_bodies]
        except ValueError as exc:
            logger.error("history: a block's bodies stay, since it cannot be read: %s", exc)
        else:
            connection.execute(sa.delete(history_body).where(_bodies.id.in_(ids)))

    def used(self, connection: sa.Connection) -> int:
        """Bytes that the history takes: of SQLite's file without free pages; of PostgreSQL, what its rows hold."""
        if connection.dialect.name == "sqlite":
            pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
            return pages * _pragma(connection, "page_size")
        now = time.monotonic()
        if self._size is None or now - self._size[0] > _COUNT_AGAIN:
            counted = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(_b.size), 0)))
            self._size = (now, int(counted or 0))
        return self._size[1]

    def _grow(self, size: int) -> None:
        if self._size is not None:
            self._size = (self._size[0], self._size[1] + size)

    def _vacuum(self, connection: sa.Connection) -> None:
        """Give free pages of a SQLite file back, where there are many."""
        if connection.dialect.name != "sqlite":
            return
        free = _pragma(connection, "freelist_count")
        pages = _pragma(connection, "page_count")
        if free > max(_FREE_PAGES, pages // 5) or pages * _pragma(connection, "page_size") > self._settings.max_size:
            shrink(connection, _VACUUMED)

    def _sweep(self, connection: sa.Connection) -> None:
        """Remove what is left of a bucket of which two gateways have each removed some blocks; one shard a step."""
        if connection.dialect.name == "sqlite":
            return  # one process writes
        first = shard_row(self._swept, 0)
        self._swept = (self._swept + 1) % SHARDS
        # One statement, which sees one state: a bucket that is sealed meanwhile is not taken for such a rest.
        oldest = sa.select(sa.func.coalesce(sa.func.min(_b.bucket), LAST_BUCKET)).scalar_subquery()
        connection.execute(sa.delete(history_shard).where(_shards.id >= first, _shards.id < first + oldest))

    # --- reading ---

    def search(
        self,
        connection: sa.Connection,
        wanted: HistoryFilter,
        before: int | None = None,
        limit: int = 100,
        *,
        bodies: bool = False,
    ) -> HistoryPage:
        """The newest decisions that are wanted, of those before this id, with their *bodies* or without.

        A page may have fewer than *limit* decisions, or none, although there are more: ``next`` says so. Raises
        StoreError where a number is wanted that cannot be found.
        """
        return Search(connection, wanted, self._hasher, self._mask).page(before, limit, bodies=bodies)

    def oldest(self, connection: sa.Connection) -> float | None:
        """Unix time of the oldest decision that is kept."""
        return Search(connection, HistoryFilter()).oldest()

    def statistics(self, connection: sa.Connection) -> HistoryStatistics:
        """How much is kept; reads a few bytes for each block."""
        query = sa.select(_b.ordinary, sa.func.sum(_b.decisions)).group_by(_b.ordinary)
        counted = dict(connection.execute(query).all())
        ordinary = int(counted.get(1, 0))
        decisions = int(counted.get(0, 0)) + ordinary
        return HistoryStatistics(decisions, ordinary, self.used(connection), self.oldest(connection))

    # --- a person's right ---

    def forget(self, connection: sa.Connection, number: str, after: int | None = None) -> Forgotten:
        """Remove a number, its hashes and the bodies of its decisions, from some of the history, the oldest first.

        Repeat it with *after* = ``next`` until that is None, each time in a transaction of its own. Raises StoreError
        where the number cannot be found.
        """
        return forget_some(connection, number, self._hasher, self._mask, after)


def _pragma(connection: sa.Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _group(blocks: Sequence[Any]) -> list[list[Any]]:
    """Blocks that become one, since they are small, in their order."""
    groups: list[list[Any]] = []
    count = first = 0
    for block in blocks:
        if groups and count + block.decisions <= BLOCK and block.id - min(first, block.first) <= SPAN:
            groups[-1].append(block)
            count += block.decisions
            first = min(first, block.first)
        else:
            groups.append([block])
            count, first = block.decisions, block.first
    return groups


def _pseudonym_key(key: str) -> bytes:
    """Another key that follows from ``history.key``: pseudonyms stay the same after a restart, on all replicas."""
    return NumberHasher(key).derive("pseudonyms")
