"""One address in several spellings compares equal."""

from __future__ import annotations

from typing import Optional

import pytest

from webapp.lib import ip_addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("[::FFFF:a00:5]", "10.0.0.5"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("10.0.0", None),
        ("10.0.0.5:80", None),
        ("localhost", None),
        ("", None),
    ],
)
def test_an_address_is_read_without_brackets_and_zone(text: str, address: Optional[str]) -> None:
    found = ip_addresses.parse(text)
    assert (None if found is None else str(found)) == address
