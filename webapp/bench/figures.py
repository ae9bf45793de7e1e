"""The figures that are measured: what each is called, its unit, and what it is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

RATIO = "x"


@dataclass(frozen=True)
class Goal:
    """A bound, from above (`most`) or from below."""

    bound: float
    most: bool

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """What is measured. Its unit is that of its value and its goal; RATIO: ours divided by the limit."""

    key: str
    title: str
    unit: str
    goal: Optional[Goal] = None


def _least(bound: float) -> Goal:
    return Goal(bound, most=False)


def _most(bound: float) -> Goal:
    return Goal(bound, most=True)


_ALL = [
    Figure("drain.2x1", "drain of `true`, --count 2, of the bare spawn loops", RATIO, _least(0.60)),
    Figure("drain.2x4", "the same, --count 2 --slots 4", RATIO, _least(0.80)),
    Figure("drain.2x4.durable", "--count 2 --slots 4, settles durable, too", RATIO, _least(0.55)),
    Figure("pickup.p50", "pick-up, p50, of a bare spawn", RATIO, _most(1.5)),
    Figure("pickup.p95", "pick-up, p95, of a bare spawn", RATIO),
    Figure("pickup.p99", "pick-up, p99, of a bare spawn", RATIO, _most(2.5)),
    Figure("pickup.enqueue", "of it the enqueue, until it returns, p50", "ms"),
    Figure("idle.cpu", "CPU of an idle pool of 4 with its supervisor and keeper", "s/min", _most(0.06)),
    Figure("idle.pss", "PSS of that pool", "MiB", _most(65)),
    Figure("idle.pss.used", "PSS of that pool after its first jobs", "MiB"),
]
FIGURES = {figure.key: figure for figure in _ALL}
