"""Marks of retention: up to where ended jobs are done. Dead letters without a fingerprint get one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from webapp.db import failure_keys

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DEAD_LETTERS = 5000  # the newest; the write lock is held meanwhile, so the chores do the rest


def upgrade() -> None:
    op.create_table(
        "retention_marks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retention_marks")),
    )
    failure_keys.assign(op.get_bind(), DEAD_LETTERS)
