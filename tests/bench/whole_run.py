"""One run of `manage.py bench`: the requested sections, one after the other, in a scratch folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Optional

from tests.bench import SECTIONS, Bench, BenchError, measure, missing, space
from tests.bench.machine import describe
from tests.bench.peers import POSTGRESQL
from tests.bench.peers.running import installed
from tests.bench.rounds import Row
from tests.bench.scratch import scratch


@dataclass(frozen=True)
class Measured:
    """The results of a run.

    Attributes:
        left_out: what was not measured, one sentence with the reason each.
        complete: whether each section that was started gave its rows.
    """

    machine: dict[str, Any]
    rows: list[Row]
    left_out: list[str]
    complete: bool


def run(
    sections: Sequence[str], rounds: int, say: Callable[[str], None], *, peers: bool, large: bool, quick: bool
) -> Measured:
    """Measure these sections, by default all that this machine can measure. A failed one is left out."""
    unavailable = {} if sections else {name: reason for name in SECTIONS if (reason := missing(name))}
    chosen = [name for name in SECTIONS if name in sections] or [name for name in SECTIONS if name not in unavailable]
    with scratch(space(chosen, large=large, quick=quick)) as place:
        bench = Bench(rounds, place, say, large=large)
        bench.left_out += [f"{name}: {reason}" for name, reason in unavailable.items()]
        machine = describe(place.folder)
        if not quick:
            place.warm_up()
        with installed(bench, POSTGRESQL if chosen == [POSTGRESQL] else None) if peers else nullcontext():
            found = [_measured(bench, name, quick) for name in chosen]
    rows = [row for of_section in found for row in of_section or ()]
    return Measured(machine, rows, bench.left_out, complete=None not in found)


def _measured(bench: Bench, name: str, quick: bool) -> Optional[Sequence[Row]]:
    """Return the rows of a section, or None if it failed."""
    try:
        return measure(bench, name, quick=quick)
    except BenchError as error:
        bench.left_out.append(f"{name}: {error}")
        return None
