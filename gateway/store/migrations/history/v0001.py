"""The history's first tables."""

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
    """Make the tables; see ``schema``."""
    op.create_table(
        "history_meta",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
    )
    id_ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "history_block",
        sa.Column("id", id_, primary_key=True, autoincrement=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("ordinary", sa.SmallInteger(), nullable=False),
        sa.Column("decisions", sa.Integer(), nullable=False),
        sa.Column("bodies", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger()),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("terms", sa.LargeBinary()),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )
    op.create_index("history_block_age", "history_block", ["ordinary", "id"])
    op.create_index("history_block_bucket", "history_block", ["bucket", "ordinal"])
    for name in ("history_shard", "history_body"):
        op.create_table(
            name,
            sa.Column("id", id_, primary_key=True, autoincrement=False),
            sa.Column("data", sa.LargeBinary(), nullable=False),
        )
    op.create_table(
        "history_shadow",
        sa.Column("ordinary", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("request_id", sa.String(), primary_key=True),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    if op.get_context().dialect.name == "postgresql":
        for name in ("history_block", "history_shard", "history_body"):  # packed already: to try it again costs time
            op.execute(f"ALTER TABLE {name} ALTER COLUMN data SET STORAGE EXTERNAL")
