"""The readers that schedules, channels, rules and limits share."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.core import field_readers


@pytest.mark.parametrize("given", [3, "3", " 3 ", "003"])
def test_a_whole_number_is_read_from_a_number_or_a_text(given: Any) -> None:
    assert field_readers.whole_number(0, 10)(given) == 3


@pytest.mark.parametrize("given", [-1, 11, 1.5, True, "1.5", "many", "³", "", None, "9" * 5000])
def test_any_other_value_is_refused_with_what_was_expected(given: Any) -> None:
    """Python refuses to read a number of so many digits, with a message of its own; older ones take long."""
    with pytest.raises(ValueError, match="expected a whole number from 0 to 10"):
        field_readers.whole_number(0, 10)(given)
