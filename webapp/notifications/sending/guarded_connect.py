"""Connects to a host, but not to a private address unless that is allowed.

The check is at the connect: the name is looked up once, all its addresses are checked, and the connection goes to one
of these. A check before that would let a name server answer differently the second time.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Optional

from webapp.lib.ip_addresses import Address
from webapp.notifications.sending.outcome import OPERATION_TIMEOUT, PermanentFailure, TemporaryFailure, reason_of

# Beside what `ipaddress` knows: shared addresses of providers, 6to4 relays, and Azure's server for virtual machines.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text) for text in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
)
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")  # all public addresses are in it
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def connect(host: str, port: int, *, allow_private: bool, context: Optional[ssl.SSLContext] = None) -> socket.socket:
    """An open connection; with `context` over TLS, with a certificate for this host.

    Raises PermanentFailure for a private address, TemporaryFailure if the host is unknown or does not answer.
    """
    found = _look_up(host, port)
    refused = [] if allow_private else [text for *_, where in found if not is_public(text := where[0])]
    if refused:
        raise PermanentFailure(
            f"{host} resolves to the private address {refused[0]}. Set QUEUECTL_ALLOW_PRIVATE_TARGETS=1 to allow that"
        )
    connection = _connect_to_one(host, port, found)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except OSError as error:  # includes those of TLS
        connection.close()
        raise TemporaryFailure(f"no TLS connection with {host}: {reason_of(error)}") from None


def is_public(text: str) -> bool:
    """Whether an address is public, also the IPv4 address that an IPv6 address contains."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(one) for one in (address, *_embedded(address)))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address in _NAT64:
            return True  # what it contains decides
        is_tunnel = address.teredo is not None or address.sixtofour is not None
        if is_tunnel or address not in _GLOBAL_6:
            return False
    elif any(address in network for network in _NOT_PUBLIC_4):
        return False
    # Each by its name: what counts as global differs between versions of Python.
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    return not (special or address.is_reserved or address.is_unspecified)


def _embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 address in an IPv6 address: mapped, of NAT64, of ISATAP."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    is_isatap = int(address) >> 32 & 0xFDFFFFFF == 0x00005EFE
    if address.ipv4_mapped is not None or address in _NAT64 or is_isatap:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise TemporaryFailure(f"the name {host} cannot be looked up: {reason_of(error)}") from None


def _connect_to_one(host: str, port: int, found: list[tuple[Any, ...]]) -> socket.socket:
    reason = "it has no address"
    for family, kind, protocol, _, where in found:
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = reason_of(error)
            continue
        try:
            connection.settimeout(OPERATION_TIMEOUT)
            connection.connect(where)
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError as error:
            connection.close()
            reason = reason_of(error)
    raise TemporaryFailure(f"no connection with {host} port {port}: {reason}")
