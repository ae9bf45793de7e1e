"""The column `batch`. Before, a pattern of the form key identified the jobs of a batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A form of several jobs gave them the keys KEY, KEY.1, KEY.2 …, where KEY is 32 hexadecimal digits, an x and the number
# of jobs. Other keys have no x there: of a single job 32 digits, of the API `api:`, a number and 24 digits.
_IN_A_BATCH = "form_key IS NOT NULL AND substr(form_key, 33, 1) = 'x'"
_BATCH = {
    "sqlite": "substr(form_key, 1, instr(form_key || '.', '.') - 1)",
    "postgresql": "split_part(form_key, '.', 1)",
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("batch", sa.Text(), nullable=True))
    op.execute(f"UPDATE jobs SET batch = {_BATCH[op.get_bind().dialect.name]} WHERE {_IN_A_BATCH}")  # noqa: S608
    there = sa.text("batch IS NOT NULL")
    op.create_index("ix_jobs_batch", "jobs", ["batch", "seq"], sqlite_where=there, postgresql_where=there)
