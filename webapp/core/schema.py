"""Which schema this version needs, and the small texts about the database as a whole that every layer uses."""

from __future__ import annotations

HEAD = "0006"  # the newest revision in migrations/versions/; a test holds the two together
REVISION = "SELECT version_num FROM alembic_version"
# Workers look at this number: when it has grown, something that people change has changed.
BUMP_REVISION = "UPDATE control SET revision = revision + 1"
SERVER_TIME = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"  # PostgreSQL's, in microseconds
