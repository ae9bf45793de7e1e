"""How `manage.py bench` shows its results: the columns of its table, the notes below it, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from tests.bench.rounds import Row
from webapp.commands.shared.output import Column


def _amount(value: float) -> str:
    """Return a number with three significant digits; above 100, without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _compared(value: Optional[float], unit: str) -> Optional[str]:
    return f"{_amount(value)} {unit}" if value is not None else None


COLUMNS = (
    Column("FIGURE", lambda row: row.figure.title, flexible=True),
    Column("VALUE", lambda row: f"{_amount(row.value.median)} {row.figure.unit}", right=True),
    Column("LEAST", lambda row: _amount(row.value.least), right=True),
    Column("GREATEST", lambda row: _amount(row.value.greatest), right=True),
    Column("OURS", lambda row: _compared(row.ours, row.unit), right=True),
    Column("LIMIT", lambda row: _compared(row.limit, row.unit), right=True),
    Column("GOAL", lambda row: row.figure.goal, right=True),
    Column("RESULT", lambda row: row.verdict),
)


def notes(rows: Sequence[Row], left_out: Sequence[str], quick: bool) -> list[str]:
    """Return the lines below the table, the first of them empty."""
    found = [f"{row.figure.title}: {row.note}." for row in rows if row.note]
    found += [f"{row.figure.title}: too noisy to quote, {row.noise}." for row in rows if row.noise is not None]
    found += [f"Not measured: {sentence}" for sentence in left_out]
    if quick:
        found.append("Tiny sizes: these figures only show that it works.")
    return ["", *found] if found else []


def shape(row: Row) -> dict[str, Any]:
    """Return a row for `--json`."""
    goal = row.figure.goal
    return {
        "key": row.figure.key,
        "title": row.figure.title,
        "unit": row.figure.unit,
        "value": row.value.median,
        "least": row.value.least,
        "greatest": row.value.greatest,
        "ours": row.ours,
        "limit": row.limit,
        "of": row.unit or None,
        "goal": {"at_most" if goal.most else "at_least": goal.bound} if goal is not None else None,
        "met": goal.is_met(row.value.median) if goal is not None else None,
        "too_noisy": row.noise,
        "note": row.note or None,
        "parts": dict(row.parts) or None,
        "rounds": [dict(one) for one in row.rounds],
    }
