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
    """Make the tables."""
    op.create_table(
        "history_meta",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
    )
