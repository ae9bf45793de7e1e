"""Binds the socket of the console and serves it: with gunicorn (`gunicorn_app.py`), on Windows with waitress
(`waitress_app.py`)."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from contextlib import suppress

from webapp.config import Config, ConfigError
from webapp.lib import ip_addresses
from webapp.lib.system.sd_notify import NO_MANAGER, Manager

THREADS = 8  # concurrent requests per process; pages are short, and SQLite has one writer anyway
BACKLOG = 512


class PortTaken(ConfigError):
    """Another program listens on the port."""


def check_exposure(host: str, config: Config, insecure: bool) -> None:
    """Raises ConfigError if passwords would cross a network without encryption, unless `insecure` allows it."""
    if insecure or _is_loopback(host) or (config.public_url or "").startswith("https://"):
        return
    raise ConfigError(
        f"{host} can be reached from other machines, but this console speaks plain HTTP: others could read passwords. "
        "Put an HTTPS proxy in front and set QUEUECTL_PUBLIC_URL to its address (https://queue.example.org), or use "
        "--insecure if you trust the network."
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    address = ip_addresses.parse(host)
    return address is not None and address.is_loopback


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. From now on the kernel queues connections until they are served.

    Raises ConfigError with one line that names the cause and the option to change.
    """
    host = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"there is no host {host!r}. Use an address of this machine with --host.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Windows lets two programs share a port unless one forbids it; elsewhere REUSEADDR only skips TIME_WAIT.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        refusal = PortTaken if error.errno == errno.EADDRINUSE else ConfigError
        raise refusal(_explain(error, host, port)) from None
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return f"port {port} of {host} is taken by another program. Choose another, such as --port {other}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not listen on port {port} of {host}. Choose a port above 1023, such as --port 8000."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine. Choose one with --host, such as --host 127.0.0.1."
    return f"cannot listen on port {port} of {host}: {error.strerror}. Choose others with --host and --port."


def address_of(listener: socket.socket, config: Config) -> str:
    """The console's URL for people, without a slash at the end."""
    if config.public_url is not None:
        return config.public_url
    host, port = listener.getsockname()[:2]
    address = ip_addresses.parse(host)
    if address is None or address.is_unspecified:
        address = _outgoing_address(listener)
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def _outgoing_address(listener: socket.socket) -> ip_addresses.Address:
    """The address from which this machine reaches others, so probably the one by which others reach it.

    A name would not do, because the console serves only names that it knows from its configuration.
    """
    v6_only = listener.family == socket.AF_INET6 and listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    # These addresses are for documentation. Connecting a UDP socket sends nothing.
    family, other = (socket.AF_INET6, "2001:db8::1") if v6_only else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):  # no network
            probe.connect((other, 9))
        found = ip_addresses.parse(probe.getsockname()[0])
    if found is None or found.is_unspecified:
        return ipaddress.ip_address("::1" if v6_only else "127.0.0.1")
    return found


def serve(listener: socket.socket, processes: int, manager: Manager = NO_MANAGER) -> int:
    """Serve the console on this socket until a signal stops it; return the exit code. Raises ConfigError.

    `manager` receives notifications, except on Windows.
    """
    from webapp import create_app
    from webapp.db import engines

    app = create_app()
    with app.app_context():
        engines.disconnect()  # no connection may be shared by the processes that are forked now
    if sys.platform == "win32":
        from webapp.server import waitress_app

        return waitress_app.serve(app, listener, THREADS)
    from webapp.server import gunicorn_app

    return gunicorn_app.serve(app, listener, processes, THREADS, manager)
