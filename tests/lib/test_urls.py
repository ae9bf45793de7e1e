"""Secret URLs in logs."""

from __future__ import annotations

import pytest

from webapp.lib.urls import masked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hc-ping.com/5b1d-secret", "https://hc-ping.com/…"),
        ("https://ana:pw@hc.example.org:8443/x?key=1#y", "https://hc.example.org:8443/…"),
        ("http://[::1]:80/x", "http://[::1]:80/…"),
    ],
)
def test_only_scheme_host_and_port_are_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
