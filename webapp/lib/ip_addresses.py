"""Reads IP addresses, so that one address in several spellings compares equal."""

from __future__ import annotations

import ipaddress
from typing import Optional, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def parse(text: str) -> Optional[Address]:
    """The address without brackets and zone (`fe80::1%eth0`), or None if the text is not an address.

    An IPv4 address in IPv6 form (`::ffff:10.0.0.5`), as sockets for both have it, becomes IPv4.
    """
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
