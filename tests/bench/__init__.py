"""The benchmark behind `manage.py bench`: measures the limit of this machine and the queue in the same run.

A section is a module with `measure(bench, sizes)`, its `Sizes` and `QUICK` sizes; it returns rows (`rounds.py`).
`figures.py` has the goals of all figures, `scratch.py` the scratch homes and processes. The command shows the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from tests.bench.peers.running import Running
    from tests.bench.rounds import Row
    from tests.bench.scratch import Scratch

# In the order of a run. Each is a module here.
SECTIONS = {
    "drain": "jobs a second, of two bare loops that spawn the same command",
    "pickup": "from the enqueue to the command's first moment, on an idle machine",
    "slots": "fifty commands at a time that only sleep",
    "idle": "CPU and memory of a pool of workers that has nothing to do",
    "enqueue": "jobs stored durably, one at a time and many from a file",
    "schedules": "what ten thousand of them cost, how late fires are, five thousand in one second",
    "growth": "a claim and a settle in tables of a thousand rows and of a million",
    "postgresql": "on a PostgreSQL server, of what procrastinate does on it",
    "console": "the console's pages, at a thousand jobs and at a million",
    "submit": "jobs sent by the console's form, alone and by many",
    "cli": "`manage.py enqueue` as a whole process",
    "start": "from `up` to the console's first answer",
}
LEAST_SPACE = 500 * 1024**2  # bytes


class BenchError(Exception):
    """A measurement failed; the message says which, and why."""


@dataclass
class Bench:
    """One run: the number of rounds, the scratch folder, and the progress messages.

    Attributes:
        say: takes a progress message for the user.
        large: whether to measure with ten million rows, too.
        peers: other queues to measure beside ours, see `peers/`.
        left_out: what was not measured, one sentence with the reason each.
    """

    rounds: int
    scratch: Scratch
    say: Callable[[str], None]
    large: bool = False
    peers: list[Running] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def measure(bench: Bench, name: str, *, quick: bool = False) -> Sequence[Row]:
    """Measure one section; `quick`: with tiny sizes that only show that it works. Raises BenchError."""
    section: Any = import_module(f"tests.bench.{name}")
    try:
        rows: Sequence[Row] = section.measure(bench, section.QUICK if quick else section.Sizes())
        return rows
    finally:
        bench.scratch.tidy()


def missing(name: str) -> str:
    """Why a section cannot be measured here, in one line; empty if it can."""
    section: Any = import_module(f"tests.bench.{name}")
    reason: str = section.missing() if hasattr(section, "missing") else ""
    return reason


def space(names: Sequence[str], *, large: bool, quick: bool = False) -> int:
    """Bytes that these sections need: the maximum, because each frees its space."""
    needed = 0
    for name in names:
        section: Any = import_module(f"tests.bench.{name}")
        if hasattr(section, "space"):
            needed = max(needed, section.space(section.QUICK if quick else section.Sizes(), large=large))
    return LEAST_SPACE + needed
