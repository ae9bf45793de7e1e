"""Ratios, spreads, percentiles, and when a measurement is too noisy to quote."""

from __future__ import annotations

import pytest

from tests.bench.figures import FIGURES, RATIO, Figure, Goal
from tests.bench.rounds import MET, MISSED, NOISY, Spread, noise, percentile, plain_row, ratio_row, spread

LEAST, MOST = Goal(0.6, most=False), Goal(1.5, most=True)


def test_a_ratio_compares_two_values_of_the_same_round() -> None:
    row = ratio_row("drain.2x1", [100, 200, 400], [50, 120, 200], "jobs/s")
    assert row.value == Spread(0.5, 0.5, 0.6)
    assert (row.ours, row.limit, row.unit) == (120, 200, "jobs/s")
    assert row.rounds[1] == {"limit": 200, "ours": 120, "ratio": 0.6}


def test_a_plain_figure_has_its_values_in_its_own_unit() -> None:
    row = plain_row("idle.cpu", [0.05, 0.06, 0.055], parts={"maintenance": 0.01})
    assert row.value == Spread(0.055, 0.05, 0.06)
    assert (row.ours, row.limit) == (None, None)
    assert row.parts == {"maintenance": 0.01}


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_the_smallest_value_that_covers_its_share(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7], 0.99) == 7


def test_quiet_rounds_can_be_quoted() -> None:
    assert noise(spread([0.6, 0.62, 0.64]), "the ratio", spread([4000, 4100, 4200])) is None


def test_a_limit_that_moved_is_named() -> None:
    assert noise(spread([0.6, 0.6]), "the ratio", spread([3000, 4000])) == "the limit moved by 29% between rounds"


def test_a_ratio_that_moved_is_named_if_the_limit_did_not_move() -> None:
    assert noise(spread([0.4, 0.6]), "the ratio", spread([4000, 4000])) == "the ratio moved by 40% between rounds"


def test_a_tail_has_a_wider_tolerance() -> None:
    assert noise(spread([0.4, 0.6]), "it", tolerance=1.0) is None


def test_values_of_zero_are_quiet() -> None:
    assert spread([0.0, 0.0]).width == 0


@pytest.mark.parametrize(
    ("goal", "ours", "verdict"),
    [(LEAST, 61, MET), (LEAST, 60, MET), (LEAST, 59, MISSED), (MOST, 150, MET), (MOST, 151, MISSED), (None, 1, "")],
)
def test_a_goal_is_met_at_its_bound(goal: Goal, ours: float, verdict: str) -> None:
    assert ratio_row(Figure("x", "x", RATIO, goal), [100], [ours], "ms").verdict == verdict


def test_a_noisy_figure_neither_meets_nor_misses_a_goal() -> None:
    assert ratio_row("drain.2x1", [100, 200], [90, 180], "jobs/s").verdict == NOISY


def test_every_figure_has_a_unique_key() -> None:
    assert len({figure.title for figure in FIGURES.values()}) == len(FIGURES)
    assert all(figure.key == key for key, figure in FIGURES.items())
