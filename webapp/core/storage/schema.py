"""The schema revision of this version, and short statements about the whole database."""

from __future__ import annotations

from pathlib import Path

HEAD = "0015"  # the newest revision in db/migrations/versions/; a test compares them
REVISION = "SELECT version_num FROM alembic_version"
# Workers poll this number: when it has grown, they read settings, queues and requested states again.
BUMP_REVISION = "UPDATE control SET revision = revision + 1"
SERVER_TIME = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"  # PostgreSQL's, in microseconds

_MIGRATIONS = Path(__file__).resolve().parents[2] / "db" / "migrations" / "versions"


def known_revisions() -> set[str]:
    """All revisions that this checkout can read or upgrade: the numbers at the start of its migration files' names."""
    return {path.name.partition("_")[0] for path in _MIGRATIONS.glob("[0-9]*.py")}
