"""Histograms of durations that can be added: sparse, with logarithmic buckets. Quantiles are accurate to 5 %.

Bucket 0 is below a millisecond. Bucket n > 0 is from 1.1 ** (n - 1) to 1.1 ** n milliseconds; its value differs from
both ends by at most 4.8 %. A month is bucket 228.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Optional

Histogram = Counter[int]  # number of durations in each bucket

GROWTH = 1.1
_MILLISECOND = 1000  # microseconds
_LOG = math.log(GROWTH)


def bucket(duration: int) -> int:
    """The bucket of a duration in microseconds. A negative one, after a clock was set back, counts as zero."""
    return 0 if duration < _MILLISECOND else 1 + int(math.log(duration / _MILLISECOND) / _LOG)


def seconds(number: int) -> float:
    """The value of a bucket in seconds; 0.0 for less than a millisecond."""
    if number == 0:
        return 0.0
    upper = GROWTH**number
    return 2 * upper / (GROWTH + 1) / 1000


def quantile(histogram: Histogram, part: float) -> Optional[float]:
    """A quantile in seconds (`part` from 0 to 1); None for an empty histogram."""
    rank, seen = math.ceil(part * sum(histogram.values())), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= rank:
            return seconds(number)
    return None


def total(histogram: Mapping[int, int]) -> float:
    """The sum of the durations in seconds, accurate to 5 %."""
    return sum(seconds(number) * count for number, count in histogram.items())


@lru_cache(maxsize=8192)
def total_of(text: str) -> float:
    """`total` of a stored histogram."""
    return total(_parsed(text))


def dump(histogram: Histogram) -> str:
    return json.dumps({str(number): histogram[number] for number in sorted(histogram)}, separators=(",", ":"))


def load(text: str) -> Histogram:
    return Counter(_parsed(text))


@lru_cache(maxsize=8192)
def _parsed(text: str) -> dict[int, int]:
    """Cached, because a page that refreshes reads the same roll-ups again."""
    return {int(number): count for number, count in json.loads(text).items()}
