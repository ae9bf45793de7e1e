"""The commands inside failure groups: one cause may end several commands. Counted in the newest jobs of each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape, words_of

GROUPS_PER_READ = 50
SAMPLE = 20  # newest jobs of each group that a list reads
# By the index of the groups.
_NEWEST = f"""
SELECT * FROM (SELECT error_key, substr(command, 1, {COMMAND_PREFIX}) FROM jobs
               WHERE state = 'dead' AND error_key = :k%d ORDER BY finished_at DESC, seq DESC LIMIT :most) AS newest%d
"""  # noqa: S608


@dataclass(frozen=True)
class CommandCount:
    """Jobs whose commands have one pattern, with N, PATH and ID for the parts that differ."""

    pattern: str
    number: int

    @property
    def search(self) -> str:
        """A search that finds them: the longest part that all of them contain; '' if there is none."""
        words = words_of(self.pattern).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{words}"' if words else ""


@dataclass(frozen=True)
class Commands:
    """The command patterns of a group, the most frequent first, in its `jobs` newest jobs. `whole`: these are all."""

    patterns: list[CommandCount]
    jobs: int
    whole: bool

    @property
    def text(self) -> str:
        """'charge-card order-N and 2 more'"""
        more = len(self.patterns) - 1
        return "".join(one.pattern for one in self.patterns[:1]) + (f" and {more} more" if more > 0 else "")


def of_groups(session: Session, keys: Sequence[str], newest: int) -> dict[str, Commands]:
    """The commands of these groups, in the `newest` jobs of each."""
    found: dict[str, Counter[str]] = {key: Counter() for key in keys}
    for first in range(0, len(keys), GROUPS_PER_READ):
        some = keys[first : first + GROUPS_PER_READ]
        statement = " UNION ALL ".join(_NEWEST % (number, number) for number in range(len(some)))
        values = {f"k{number}": key for number, key in enumerate(some)}
        for key, command in session.execute(text(statement), {**values, "most": newest}):
            found[key][command_shape(command)] += 1
    return {key: _commands(counts, newest) for key, counts in found.items()}


def _commands(counts: Counter[str], newest: int) -> Commands:
    patterns = [CommandCount(pattern, number) for pattern, number in counts.most_common()]
    jobs = sum(counts.values())
    return Commands(patterns, jobs, jobs < newest)
