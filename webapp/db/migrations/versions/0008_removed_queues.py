"""Queues can be removed. The row stays, because finished jobs refer to it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("queues", sa.Column("removed_at", sa.BigInteger(), nullable=True))
