"""Rounds: values measured side by side, as ratios with their spread, and whether the machine was too noisy.

Pure. Each round measures the limit and then ours, so a ratio compares two close moments: a machine's speed drifts by
a factor of two within an hour, the ratio does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Optional

from tests.bench.figures import FIGURES, Figure

TOLERANCE = 0.25  # how far values of one thing may lie apart, of their median, to be quoted
TAIL_TOLERANCE = 1.0  # the same for a p95 or p99, which is made of few samples
MET, MISSED, NOISY = "met", "missed", "too noisy"


@dataclass(frozen=True)
class Spread:
    """The median of some values, with the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    @property
    def width(self) -> float:
        """The distance of the extremes, relative to the median."""
        return (self.greatest - self.least) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        value: in the figure's unit, over all rounds.
        ours, limit: medians in `unit`, where the figure is a ratio.
        rounds: what each round gave, for programs.
        noise: why it cannot be quoted, one sentence; None if it can.
        note: an additional remark.
    """

    figure: Figure
    value: Spread
    rounds: Sequence[Mapping[str, float]]
    noise: Optional[str]
    ours: Optional[float] = None
    limit: Optional[float] = None
    unit: str = ""
    note: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether the goal was met; empty without a goal."""
        if self.noise is not None:
            return NOISY
        if self.figure.goal is None:
            return ""
        return MET if self.figure.goal.is_met(self.value.median) else MISSED


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratio_row(
    key: str | Figure,
    limits: Sequence[float],
    ours: Sequence[float],
    unit: str,
    *,
    tolerance: float = TOLERANCE,
    note: str = "",
) -> Row:
    """A figure of limit and ours from each round, in the rounds' order."""
    ratios = [one / limit for one, limit in zip(ours, limits)]
    return Row(
        figure=_figure(key),
        value=spread(ratios),
        rounds=[{"limit": limit, "ours": one, "ratio": ratio} for limit, one, ratio in zip(limits, ours, ratios)],
        noise=noise(spread(ratios), "the ratio", spread(limits), tolerance=tolerance),
        ours=median(ours),
        limit=median(limits),
        unit=unit,
        note=note,
    )


def plain_row(
    key: str | Figure,
    values: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    note: str = "",
    parts: Optional[Mapping[str, float]] = None,
) -> Row:
    """A figure without comparison: a value from each round."""
    return Row(
        figure=_figure(key),
        value=spread(values),
        rounds=[{"ours": value} for value in values],
        noise=noise(spread(values), "it", tolerance=tolerance),
        note=note,
        parts=parts or {},
    )


def noise(value: Spread, name: str, limit: Optional[Spread] = None, *, tolerance: float = TOLERANCE) -> Optional[str]:
    """Why a figure cannot be quoted: its limit or itself varied between rounds; None if neither did."""
    if limit is not None and limit.width > tolerance:
        return f"the limit moved by {limit.width:.0%} between rounds"
    if value.width > tolerance:
        return f"{name} moved by {value.width:.0%} between rounds"
    return None


def _figure(key: str | Figure) -> Figure:
    return FIGURES[key] if isinstance(key, str) else key
