"""Retention of the audit trail: the triggers allow it to delete lines older than the setting `keep_audit`.

Existing lines keep their whole commands until then.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A line goes only when both hold: it is older than `keep_audit` days (0: never; without a row of settings 365), and
# the newest line about the trail itself says, not a minute ago, that retention deletes some. So there is no way to
# delete a line that leaves no line, and none to delete a young one.
_DAYS = "coalesce((SELECT CAST(value AS INTEGER) FROM settings WHERE key = 'keep_audit'), 365)"
_TOLD = (
    "coalesce((SELECT CASE WHEN verb = 'prune' AND actor = 'rule:retention' THEN at END"
    " FROM audit WHERE subject = 'audit' ORDER BY id DESC LIMIT 1), 0)"
)
_MINUTE, _DAY = 60 * 1_000_000, 86_400 * 1_000_000
_WORDS = "the audit trail is append-only"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        now = "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
        op.execute("DROP TRIGGER audit_no_delete")
        op.execute(
            "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
            f"WHEN {_DAYS} = 0 OR OLD.at >= {now} - {_DAYS} * {_DAY} OR {_TOLD} < {now} - {_MINUTE} "
            f"BEGIN SELECT RAISE(ABORT, '{_WORDS}'); END"
        )
        return
    op.execute("DROP TRIGGER audit_append_only ON audit")
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )
    op.execute(
        f"""
        CREATE FUNCTION audit_loses_old_lines_only() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            days CONSTANT bigint NOT NULL = {_DAYS};
            now CONSTANT bigint NOT NULL = extract(epoch FROM clock_timestamp()) * 1000000;
        BEGIN
            IF days = 0 OR {_TOLD} < now - {_MINUTE}
                OR EXISTS (SELECT 1 FROM gone WHERE at >= now - days * {_DAY})
            THEN
                RAISE EXCEPTION '{_WORDS}';
            END IF;
            RETURN NULL;
        END $$
        """  # noqa: S608 -- our own words
    )
    op.execute(
        "CREATE TRIGGER audit_loses_old_lines_only AFTER DELETE ON audit REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_loses_old_lines_only()"
    )
