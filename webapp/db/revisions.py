"""The schema revisions that this checkout knows: the numbers that its migration files begin with."""

from __future__ import annotations

from pathlib import Path

_VERSIONS = Path(__file__).resolve().parent / "migrations" / "versions"


def known_revisions() -> set[str]:
    """Return every revision that this checkout can read or upgrade."""
    return {path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*.py")}
