"""Counts of requests add up over the forks of a server."""

from __future__ import annotations

import os

import pytest

from webapp.web.request_counts import CLASSES, RequestCounts


def test_requests_are_counted_by_class() -> None:
    counts = RequestCounts()
    for status in (200, 204, 304, 404, 503, 999):
        counts.add(status)
    assert counts.totals() == {"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 2}
    assert set(counts.totals()) == set(CLASSES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_fork_counts_in_its_row_and_all_see_the_sum() -> None:
    counts = RequestCounts()
    counts.add(200)
    for row in (1, 2, 2):  # the third takes over from one that has ended
        pid = os.fork()
        if pid == 0:
            counts.use_row(row)
            counts.add(200)
            counts.add(500)
            os._exit(0)
        os.waitpid(pid, 0)
    assert (counts.totals()["2xx"], counts.totals()["5xx"]) == (4, 3)
