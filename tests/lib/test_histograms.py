"""Histograms of durations: their accuracy, and that sums equal a common count."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from webapp.lib import histograms

DURATIONS = st.lists(st.integers(-5, 40 * 86_400_000_000), min_size=1, max_size=60)


@given(DURATIONS, st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_five_percent_of_the_exact_one(durations: list[int], part: float) -> None:
    found = histograms.quantile(Counter(map(histograms.bucket, durations)), part)
    true = sorted(durations)[math.ceil(part * len(durations)) - 1] / 1_000_000
    assert found is not None
    if true < 0.001:
        assert found == 0.0
    else:
        assert abs(found - true) <= 0.05 * true


@given(DURATIONS, DURATIONS)
def test_sums_of_histograms_survive_serialization(one: list[int], other: list[int]) -> None:
    apart = [Counter(map(histograms.bucket, durations)) for durations in (one, other)]
    together = Counter(map(histograms.bucket, one + other))
    assert histograms.load(histograms.dump(apart[0])) + histograms.load(histograms.dump(apart[1])) == together


def test_an_empty_histogram_has_no_quantile() -> None:
    assert histograms.quantile(Counter(), 0.5) is None
