"""Failure groups by cause: new fingerprints of dead letters. Groups keep a history, and canaries a rule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from webapp.db import failure_keys

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("first_at", "last_at"):
        op.add_column("failure_groups", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("failure_groups", sa.Column("deaths", sa.BigInteger(), nullable=False, server_default="0"))
    for name in ("error", "merged_into"):
        op.add_column("failure_groups", sa.Column(name, sa.Text(), nullable=True))
    op.create_index("ix_failure_groups_last_at", "failure_groups", ["last_at"])
    op.add_column("acts", sa.Column("canary_count", sa.Integer(), nullable=True))
    op.add_column("acts", sa.Column("canary_rule", sa.Text(), nullable=True))
    op.execute("UPDATE acts SET canary_count = 1, canary_rule = '1' WHERE canary_seq IS NOT NULL")
    op.create_table(
        "group_actions",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("act_id", _ID, nullable=False),
        sa.Column("moved", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["act_id"], ["acts.id"], name=op.f("fk_group_actions_act_id_acts"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "act_id", name=op.f("pk_group_actions")),
    )
    op.create_index("ix_group_actions_act_id", "group_actions", ["act_id"])
    failure_keys.upgrade(op.get_bind())
