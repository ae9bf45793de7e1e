"""Durations as histograms that can be added up: sparse, with logarithmic buckets, so that any quantile is within 5 %.

Bucket 0 holds what took less than a millisecond; bucket n > 0 holds 1.1 ** (n - 1) up to 1.1 ** n milliseconds, and
stands for the one duration from which neither end differs by more than 4.8 %. A month is bucket 228.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Optional

Histogram = Counter[int]  # how many durations are in each bucket

GROWTH = 1.1
_MILLISECOND = 1000  # microseconds
_LOG = math.log(GROWTH)


def bucket(duration: int) -> int:
    """The bucket of a duration in microseconds; one below zero, by a clock that was set back, counts as zero."""
    return 0 if duration < _MILLISECOND else 1 + int(math.log(duration / _MILLISECOND) / _LOG)


def seconds(number: int) -> float:
    """What a bucket stands for; 0.0 for less than a millisecond."""
    if number == 0:
        return 0.0
    upper = GROWTH**number
    return 2 * upper / (GROWTH + 1) / 1000


def quantile(histogram: Histogram, part: float) -> Optional[float]:
    """Seconds that the fastest `part` (0 to 1) took at the most, or None of an empty histogram."""
    rank, seen = math.ceil(part * sum(histogram.values())), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= rank:
            return seconds(number)
    return None


def dump(histogram: Histogram) -> str:
    return json.dumps({str(number): histogram[number] for number in sorted(histogram)}, separators=(",", ":"))


def load(text: str) -> Histogram:
    return Counter({int(number): count for number, count in json.loads(text).items()})
