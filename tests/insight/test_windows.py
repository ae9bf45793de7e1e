"""Windows of charts: whole steps, at most 96 of them, and clear errors."""

from __future__ import annotations

import pytest

from webapp.insight import windows
from webapp.insight.rollups import SUMS
from webapp.lib import clock
from webapp.lib.clock import HOUR, MINUTE

NOW = clock.parse_iso("2026-11-24T03:12:31Z")


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)


@pytest.mark.parametrize("span", [MINUTE, HOUR, 2 * HOUR, 5 * HOUR, 20 * HOUR, 3 * clock.DAY, 8 * clock.DAY])
def test_a_window_has_whole_steps_that_its_sums_divide(span: int) -> None:
    found = windows.between(NOW - span, NOW)
    assert found.start <= NOW - span
    assert found.end >= NOW
    assert (found.start % found.step, found.end % found.step, found.step % SUMS[found.sums]) == (0, 0, 0)
    assert 5 <= (found.end - found.start) // found.step <= 97


def test_a_window_in_the_future_backwards_or_long_ago_is_refused() -> None:
    for start, end, field in (
        (NOW + 1, NOW + HOUR, "from"),
        (NOW, NOW - HOUR, "to"),
        (NOW - 9 * clock.DAY, NOW, "from"),
    ):
        with pytest.raises(windows.WindowError) as refused:
            windows.between(start, end)
        assert refused.value.field == field
