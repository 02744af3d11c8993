"""The spool's first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None
oldest = 1
"""The oldest schema that a gateway must know to use these tables."""


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "spool_meta",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "spool_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("head", sa.SmallInteger(), nullable=False),
        sa.Column("dead", sa.SmallInteger(), nullable=False),
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
        sa.Column("owner", sa.String()),
        sa.Column("leased_until", sa.Double()),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("spool_event_key", "spool_event", ["key", "dead", "id"])
    _create_partial("spool_event_due", ["upstream", "app", "due"], "head = 1")
    op.create_index("spool_event_upstream", "spool_event", ["upstream", "dead", "id"])
    op.create_index("spool_event_app", "spool_event", ["app", "dead", "value", "id"])
    op.create_index("spool_event_expires", "spool_event", ["app", "expires"])
    _create_partial("spool_event_dead", ["id"], "dead = 1")
    _create_partial("spool_event_call", ["call_id"], "call_id IS NOT NULL")
    op.create_table(
        "spool_count",
        sa.Column("app", sa.String(), primary_key=True),
        sa.Column("upstream", sa.String(), primary_key=True),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.Column("dead_bytes", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "spool_pause",
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
    )


def _create_partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "spool_event", columns, sqlite_where=where, postgresql_where=where)
