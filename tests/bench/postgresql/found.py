"""The values that the parts of the section found, and their rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.figures import BESIDE, FIGURES, Figure
from tests.bench.rounds import TAIL_TOLERANCE, TOLERANCE, Row, plain_row, ratio_row

UNITS = {"drain": "jobs/s", "enqueue": "jobs/s", "pickup": "ms", "claim": "ms", "turn": "ms", "bytes": "bytes",
         "reader.dead": "rows", "reader.size": "bytes", "reader.last": "ms"}  # fmt: skip
OURS, THEIRS = "ours", "theirs"


@dataclass
class Found:
    """Values of each round by the figure's name and side; a side is `ours` or `theirs`.

    `failed`: pools of theirs (how many, of which form) that did not work, and are not tried again.
    """

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failed: set[tuple[int, str]] = field(default_factory=set)

    def add(self, name: str, side: str, value: float) -> None:
        self.values.setdefault(name, {}).setdefault(side, []).append(value)

    def rows(self) -> list[Row]:
        """As ratios to theirs; if those are incomplete, ours alone."""
        return [self._row(name, sides) for name, sides in self.values.items()]

    def _row(self, name: str, sides: Mapping[str, list[float]]) -> Row:
        figure = FIGURES[f"postgresql.{name}"]
        unit = next(unit for start, unit in UNITS.items() if name.startswith(start))
        ours, theirs = sides[OURS], sides.get(THEIRS, [])
        tolerance = TAIL_TOLERANCE if name.endswith("p99") else TOLERANCE
        note = self.notes.get(name, "")
        if len(theirs) == len(ours):
            return ratio_row(figure, theirs, ours, unit, tolerance=tolerance, note=note)
        alone = Figure(figure.key, figure.title.replace(BESIDE, ""), unit)
        return plain_row(alone, ours, tolerance=tolerance, note=note)
