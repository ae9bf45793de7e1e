"""An index of the pending jobs of all queues in the order of claims."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pending = sa.text("state = 'pending' AND losses = 0")
    columns: list[Any] = [sa.text("priority DESC"), "run_at", "seq"]
    op.create_index("ix_jobs_first", "jobs", columns, sqlite_where=pending, postgresql_where=pending)
