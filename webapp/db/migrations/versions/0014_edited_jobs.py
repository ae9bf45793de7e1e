"""The fields of a job before a user changed them, and when the output of an attempt arrived."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("prior_fields", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("output_times", sa.Text(), nullable=True))
    op.add_column("output_chunks", sa.Column("times", sa.Text(), nullable=True))
