"""The tables, as the newest migration leaves them. The migrations make them; tests compare the two.

The same on both engines: whole numbers instead of booleans, Unix times as numbers, ids and bodies as they are.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from gateway.store.engine import Part

SPOOL: Final = sa.MetaData()
HISTORY: Final = sa.MetaData()
METADATA: Final = {Part.SPOOL: SPOOL, Part.HISTORY: HISTORY}

_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite's own row number has to be an INTEGER."""


def _meta(part: Part, metadata: sa.MetaData) -> sa.Table:
    """What a part says of itself: ``schema``, its version; ``oldest``, the oldest schema a gateway must know to use it;
    ``turn``, the number of changes that gateways on PostgreSQL have told each other."""
    return sa.Table(
        f"{part}_meta",
        metadata,
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
    )


spool_meta: Final = _meta(Part.SPOOL, SPOOL)
history_meta: Final = _meta(Part.HISTORY, HISTORY)
META: Final = {Part.SPOOL: spool_meta, Part.HISTORY: history_meta}

spool_event: Final = sa.Table(
    "spool_event",
    SPOOL,
    sa.Column("id", _ID, primary_key=True),  # the order in which they came; never used twice
    sa.Column("key", sa.LargeBinary(), nullable=False),
    sa.Column("head", sa.SmallInteger(), nullable=False),  # 1: the first of its key that waits
    sa.Column("dead", sa.SmallInteger(), nullable=False),  # 1: a dead letter
    sa.Column("app", sa.String(), nullable=False),
    sa.Column("method", sa.String(), nullable=False),
    sa.Column("upstream", sa.String(), nullable=False),
    sa.Column("call_id", sa.String()),
    sa.Column("value", sa.SmallInteger(), nullable=False),
    sa.Column("received", sa.Double(), nullable=False),
    sa.Column("expires", sa.Double(), nullable=False),
    sa.Column("due", sa.Double(), nullable=False),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("error", sa.String(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("digest", sa.LargeBinary(), nullable=False),
    sa.Column("owner", sa.String()),  # PostgreSQL: the gateway that delivers it
    sa.Column("leased_until", sa.Double()),
    sa.Column("event", sa.LargeBinary(), nullable=False),  # without its body
    sa.Column("body", sa.LargeBinary(), nullable=False),  # last: lists do not read it
    sqlite_autoincrement=True,
)
_is_head: Final = spool_event.c.head == sa.text("1")
_is_dead: Final = spool_event.c.dead == sa.text("1")
sa.Index("spool_event_key", spool_event.c.key, spool_event.c.dead, spool_event.c.id)
sa.Index(
    "spool_event_due",
    spool_event.c.upstream,
    spool_event.c.app,
    spool_event.c.due,
    sqlite_where=_is_head,
    postgresql_where=_is_head,
)
sa.Index("spool_event_upstream", spool_event.c.upstream, spool_event.c.dead, spool_event.c.id)
sa.Index("spool_event_app", spool_event.c.app, spool_event.c.dead, spool_event.c.value, spool_event.c.id)
sa.Index("spool_event_expires", spool_event.c.app, spool_event.c.expires)
sa.Index("spool_event_dead", spool_event.c.id, sqlite_where=_is_dead, postgresql_where=_is_dead)
_has_call: Final = spool_event.c.call_id.is_not(None)
sa.Index("spool_event_call", spool_event.c.call_id, sqlite_where=_has_call, postgresql_where=_has_call)

spool_count: Final = sa.Table(
    "spool_count",
    SPOOL,
    sa.Column("app", sa.String(), primary_key=True),
    sa.Column("upstream", sa.String(), primary_key=True),
    sa.Column("events", sa.BigInteger(), nullable=False),  # that wait
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("dead", sa.BigInteger(), nullable=False),
    sa.Column("dead_bytes", sa.BigInteger(), nullable=False),
)

spool_pause: Final = sa.Table(
    "spool_pause",
    SPOOL,
    sa.Column("kind", sa.String(), primary_key=True),  # all, upstream or app
    sa.Column("name", sa.String(), primary_key=True),
)

# --- the history: see history.py ---

history_block: Final = sa.Table(
    "history_block",
    HISTORY,
    sa.Column("id", _ID, primary_key=True, autoincrement=False),  # none of its decisions has a higher one
    sa.Column("first", sa.BigInteger(), nullable=False),  # the lowest one of its decisions
    sa.Column("ordinary", sa.SmallInteger(), nullable=False),
    sa.Column("decisions", sa.Integer(), nullable=False),
    sa.Column("bodies", sa.Integer(), nullable=False),  # how many of its decisions have bodies
    sa.Column("size", sa.BigInteger(), nullable=False),  # bytes, with its terms and bodies
    sa.Column("bucket", sa.BigInteger()),  # where its terms are; null: here
    sa.Column("ordinal", sa.Integer(), nullable=False),  # in its bucket
    sa.Column("terms", sa.LargeBinary()),
    sa.Column("data", sa.LargeBinary(), nullable=False),  # last: most queries do not read it
)
sa.Index("history_block_age", history_block.c.ordinary, history_block.c.id)
sa.Index("history_block_bucket", history_block.c.bucket, history_block.c.ordinal)

history_shard: Final = sa.Table(
    "history_shard",
    HISTORY,
    sa.Column("id", _ID, primary_key=True, autoincrement=False),  # shard and bucket
    sa.Column("data", sa.LargeBinary(), nullable=False),
)

history_body: Final = sa.Table(
    "history_body",
    HISTORY,
    sa.Column("id", _ID, primary_key=True, autoincrement=False),  # its decision's
    sa.Column("data", sa.LargeBinary(), nullable=False),
)

history_shadow: Final = sa.Table(
    "history_shadow",
    HISTORY,
    sa.Column("ordinary", sa.SmallInteger(), primary_key=True, autoincrement=False),  # its decision's
    sa.Column("time", sa.BigInteger(), primary_key=True, autoincrement=False),  # its decision's, in microseconds
    sa.Column("request_id", sa.String(), primary_key=True),
    sa.Column("result", sa.LargeBinary(), nullable=False),
    sqlite_with_rowid=False,
)
